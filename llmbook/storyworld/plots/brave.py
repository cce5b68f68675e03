"""A plot about being brave in the dark."""

from .. import scenes
from ..words import Agent, Place, Thing
from ..world import World
from .registry import plot


@scenes.subplot("brave_fetch")
def brave_fetch(w: World, a: Agent, b: Agent, t: Thing, q: Place) -> None:
    """`b` sends `a` to fetch `t` (which is introduced) from a dark place `q`; there is a noise; `a` brings `t`."""
    p = w.get("place", b)
    w.tell("send_for", b, a, t, q)
    w.tell("afraid_dark", a, q)
    w.paragraph()
    w.tell("go_dark", a, q, w.between(12, 50))
    w.tell("noise_dark", a, q)
    if w.chance(0.3):
        w.tell("noise_dark", a, q)
    w.tell("noise_solved", a)
    w.tell("fetch_dark", a, t, q)
    w.paragraph()
    w.tell("bring_dark", a, b, t, p)


@plot("brave_in_the_dark")
def brave_in_the_dark(w: World) -> None:
    """Somebody who is afraid of the dark is sent to fetch a thing from a dark place."""
    a, b = scenes.hero(w), w.helper()
    scenes.opening(w, a, w.place("house"))
    w.tell("comes_in", a, b)
    scenes.aside_two(w, a, b, share=0.8)
    t = w.thing("carry", avoid=("food", "precious"))
    brave_fetch(w, a, b, t, w.place("dark"))
    w.end("end_dark", a, b, t)

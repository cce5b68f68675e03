"""A plot about being brave in the dark."""

from .. import scenes
from ..words import Agent, Place, Thing
from ..world import World
from .registry import plot
from .strangers import stranger


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


@plot("scary_neighbour")
def scary_neighbour(w: World) -> None:
    """A thing flies into the garden of a neighbour whom everybody fears; its owner rings the bell."""
    a, b = scenes.hero(w), stranger(w)
    scenes.opening(w, a, w.place("start", "open"))
    t = w.thing("carry", "toy", avoid=("soft", "music", "wear", "break"))
    if w.chance(0.3):
        w.tell("gift_from", a, t, w.helper())
    else:
        w.tell("own", a, t)
    scenes.aside(w, a)
    w.tell("scary_rumour", a, b)
    w.paragraph()
    w.tell("fly_over", a, b, t)
    scenes.feel(w, a, glad=False, share=0.4)
    w.tell("door_fear", a, b, t)
    w.paragraph()
    w.tell("door_opens", a, b, w.place("house", "cook"))
    if w.room(450):
        scenes.aside_two(w, b, a)
    w.tell("basket_of_lost", a, b, t, w.between(4, 30))
    w.paragraph()
    scenes.feel(w, a, glad=True, share=0.4)
    w.end("end_neighbour", a, b, t)

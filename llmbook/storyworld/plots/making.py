"""Plots about making something, an errand with buns to give away, a young animal on the way home."""

from .. import scenes
from ..subplots import chore
from ..words import Agent, Countable
from ..world import World
from .registry import plot


@plot("build_it")
def build_it(w: World) -> None:
    """Two want to build something, are some parts short, get them from somebody, and build it."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    u = w.thing("buildable")
    w.tell("plan_build", a, b, u)
    s = w.counted("part")
    need = w.between(8, 19)
    w.tell("need_parts", a, b, s, need, need - w.between(2, 6))
    w.paragraph()
    w.tell("go_together", a, b, w.place())
    scenes.aside_two(w, a, b)
    c = w.helper()
    w.tell("meet", a, c)
    if w.room(500) and w.chance(0.6):
        chore(w, a, c)
    w.tell("get_parts", a, c, s)
    w.paragraph()
    w.tell("build_up", a, b, u)
    scenes.feel(w, a, glad=True, share=0.5)
    scenes.aside_two(w, b, a, share=0.4)
    w.end("end_built", a, b, c, u)


@plot("errand")
def errand(w: World) -> None:
    """A long way with something for a cousin, and food for the road that gets less at every stop."""
    a = scenes.hero(w)
    scenes.opening(w, a, w.place("house"))
    b = w.helper()
    w.tell("meet", a, b)
    s, t = w.counted("food"), w.thing("carry", "gift", avoid=("food",))
    w.tell("sent_off", a, b, s, w.between(7, 12), t)
    w.paragraph()
    for _ in range(2):
        w.tell("go", a, w.place("open"))
        scenes.aside(w, a, share=0.4)
        _gate(w, a, s)
    if w.room(350) and w.chance(0.5):
        w.tell("go", a, w.place("wild", "open"))
        _gate(w, a, s)
    w.paragraph()
    w.tell("at_the_cousins", a, b, t, s)
    scenes.feel(w, a, glad=True, share=0.5)
    w.end("end_errand", a, b, t)


def _gate(w: World, a: Agent, s: Countable) -> None:
    """Somebody at the roadside who is given one or two."""
    w.tell("gate_keeper", A=a, C=w.creature("walk"), S=s, K=w.between(1, 2))


@plot("lost_young")
def lost_young(w: World) -> None:
    """A very young animal has lost its way; it is carried from place to place until somebody counts one more."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    w.tell("go", a, w.place("open"))
    scenes.aside(w, a)
    c = w.creature("litter")
    w.tell("finds_young", a, c)
    w.paragraph()
    for _ in range(w.between(2, 3)):
        w.tell("not_here", a, c, w.place())
        scenes.aside(w, a, share=0.4)
    w.paragraph()
    w.tell("mother_found", a, c, w.place("open", "wild"), w.between(4, 9))
    scenes.feel(w, a, glad=True)
    w.end("end_young", a, c)

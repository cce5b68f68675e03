"""Plots about things that come to the wrong one: a parcel, a bag."""

from .. import scenes
from ..world import World
from .registry import plot
from .strangers import stranger


@plot("wrong_parcel")
def wrong_parcel(w: World) -> None:
    """A parcel is opened, and then its label read: the thing in it is somebody else's."""
    a = scenes.hero(w)
    scenes.opening(w, a, w.place("house"))
    c = w.helper()
    w.tell("parcel_comes", a, c)
    t = w.thing("carry", "gift", avoid=("food", "paper", "light", "small"))
    w.paragraph()
    w.tell("open_parcel", a, t)
    if w.chance(0.7):
        w.tell("enjoy_parcel", a, t)
    b = w.somebody() if w.chance(0.6) else stranger(w)
    w.tell("see_label", a, b, t)
    if w.chance(0.6):
        w.tell("tempted", a, b, t)
    else:
        scenes.feel(w, a, glad=False)
    w.paragraph()
    w.tell("repack", a, t)
    scenes.aside(w, a)
    w.tell("deliver", a, b, t, w.place("dwell"))
    w.tell("waited_for", b, a, t, w.between(3, 11))
    w.paragraph()
    w.end("end_parcel", a, b, t)


@plot("same_bags")
def same_bags(w: World) -> None:
    """Two bags look the same, and each owner goes off with the other one's."""
    a = scenes.hero(w)
    scenes.opening(w, a, w.place("travel"))
    t = w.thing("carry", avoid=("food", "box", "light", "paddle"))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.helper())
    else:
        w.tell("own", a, t)
    b = w.somebody()
    w.tell("same_bag", a, b, t)
    scenes.aside_two(w, a, b)
    q = w.place("open")
    w.paragraph()
    w.tell("take_wrong", a, b, t, q)
    u = w.thing("carry", "gift", avoid=("food", "box", "light"))
    w.tell("open_wrong", a, b, t, u)
    scenes.feel(w, a, glad=False)
    w.tell("think_bag", a, u)
    w.paragraph()
    w.tell("swap_back", a, b, t, u)
    scenes.feel(w, b, glad=True)
    scenes.aside_two(w, a, b)
    w.end("end_swapped", a, b, t, u)

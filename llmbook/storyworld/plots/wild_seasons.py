"""Plots about the year: a store for the winter, a snowman's hat, a seed without a label."""

from .. import scenes
from ..world import World
from .registry import plot
from .wild_animals import MILD


@plot("w_store")
def w_store(w: World) -> None:
    """One animal gathers nuts, the other practises a tune, and the winter is long for both."""
    a, s = w.animal("walk", "wood"), w.counted("nut")
    w.tell("open_w_autumn", a, w.place("open", "wild", avoid=("water",)), s)
    n = w.between(18, 50)
    w.tell("w_store", a, s, n)
    b = w.animal("walk", "wood")
    w.tell("w_idle", b, a, w.thing("tune"))
    w.paragraph()
    w.tell("w_snow_comes", a)
    w.tell("w_comes_hungry", b, a)
    w.paragraph()
    w.tell("w_share_store", a, b, K=w.between(5, n // 2 - 1))
    scenes.aside_two(w, a, b, share=0.3)
    w.tell("w_plays", b, a)
    scenes.feel(w, a, glad=True, share=0.5)
    w.paragraph()
    w.end("end_w_store", a, b)


@plot("w_snowman")
def w_snowman(w: World) -> None:
    """A snowman is lent a hat until it melts, and its owner goes cold, until a friend lends another."""
    a, b = w.child(), w.child()
    p = w.place("open", "start")
    w.tell("open_snow", a, p)
    w.tell("meet", a, b)
    t = w.thing("garb")
    w.tell("own", a, t)
    w.tell("w_roll_snow", a, b, p)
    w.tell("w_dress_snow", a, b, t)
    w.paragraph()
    for _ in range(w.between(1, 2)):
        w.tell("w_cold_without", a, t)
    scenes.feel(w, a, glad=False, share=0.3)
    w.tell("w_lend_spare", b, a, w.thing("garb"))
    scenes.feel(w, a, glad=True, share=0.4)
    w.paragraph()
    w.tell("w_thaw", a, t, w.between(4, 20))
    w.end("end_w_snowman", a, b)


@plot("w_seed")
def w_seed(w: World) -> None:
    """A seed without a name is planted and watered for many days, and two guess what it will be."""
    a = w.child()
    w.tell(w.pick(MILD), a, w.place("start"))
    w.tell("w_get_seed", a, w.adult())
    scenes.aside(w, a, share=0.4)
    w.tell("w_plant_seed", a, w.place("farm", "open", avoid=("road",)))
    w.paragraph()
    b = w.child()
    w.tell("meet", a, b)
    s, r = w.counted("garden", "food"), w.counted("garden", "food")
    w.tell("w_guess_seed", b, a, s, r)
    scenes.aside_two(w, a, b, share=0.4)
    n = w.between(7, 40)
    w.tell("w_water_seed", a, n, b)
    if w.chance(0.4):
        scenes.aside(w, a)
        w.tell("w_water_seed", a, n, b)
    scenes.feel(w, a, glad=False, share=0.3)
    w.paragraph()
    w.tell("w_grows", a, b, w.thing("grown"))
    scenes.feel(w, a, glad=True, share=0.5)
    w.end("end_w_garden", a, b)

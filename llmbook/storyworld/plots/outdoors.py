"""Plots under the open sky: a storm, a favour returned, something too high to reach."""

from .. import scenes
from ..world import World
from .registry import plot


@plot("storm_carries")
def storm_carries(w: World) -> None:
    """The wind carries something off, and where it comes down, somebody small has moved in."""
    a = scenes.hero(w)
    p = w.place("open", avoid=("town",))
    w.tell("open_wind", a, p)
    t = w.thing("light", "nestable")
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.adult())
    else:
        w.tell("own", a, t)
    scenes.aside(w, a)
    w.tell("wind_takes", a, t)
    w.paragraph()
    for _ in range(w.between(2, 3)):
        w.tell("chase", a, t, w.place("open"))
    scenes.feel(w, a, glad=False, share=0.5)
    w.paragraph()
    c = w.creature("small", "wood")
    w.tell("nest_in", a, c, t, w.place("open", "wild"))
    if w.chance(0.5):
        w.tell("leave_to", a, c, t)
        scenes.feel(w, a, glad=True, share=0.4)
        w.end("end_nest", a, c, t)
    else:
        w.tell("take_home", a, c, t)
        scenes.feel(w, a, glad=True, share=0.4)
        w.end("end_carried", a, c, t)


@plot("favour_returned")
def favour_returned(w: World) -> None:
    """Somebody frees a small animal; later it comes back when nobody else could help."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    t = w.thing("small", "carry", avoid=("food", "light"))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.adult())
    else:
        w.tell("own", a, t)
    w.tell("go", a, w.place("open"))
    scenes.aside(w, a)
    c = w.creature("small", "wood")
    w.tell("in_trouble", a, c)
    w.tell("set_free", a, c)
    w.tell("goes_off", a, c)
    w.paragraph()
    q = w.place("open", "wild")
    w.tell("go", a, q, link="day" if w.chance(0.5) else "later")
    scenes.aside(w, a)
    w.tell("drops_down", a, t)
    scenes.feel(w, a, glad=False, share=0.8)
    w.paragraph()
    w.tell("comes_back", a, c, t)
    scenes.feel(w, a, glad=True)
    w.end("end_favour", a, c, t)


@plot("up_high")
def up_high(w: World) -> None:
    """Something hangs too high for one and for two, but not for three."""
    a = scenes.hero(w)
    p = scenes.opening(w, a, w.place("open", avoid=("water",)))
    t = w.thing("light", "carry")
    w.tell("own", a, t)
    scenes.aside(w, a)
    w.tell("stuck_high", a, t, p)
    w.paragraph()
    for _ in range(w.between(1, 2)):
        w.tell("try_high", a, t)
    scenes.feel(w, a, glad=False, share=0.5)
    w.paragraph()
    b = w.somebody()
    w.tell("meet", a, b)
    w.tell("two_short", a, b, t)
    c = w.helper() if w.chance(0.5) else w.somebody()
    w.tell("meet", b, c)
    w.tell("tower", a, b, c, t)
    scenes.feel(w, a, glad=True)
    w.end("end_tower", a, b, c, t)

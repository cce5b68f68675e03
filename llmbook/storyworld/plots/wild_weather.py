"""Plots about water and wind: a flood, a guest on a wet night."""

from .. import scenes
from ..world import World
from .registry import plot


@plot("w_flood")
def w_flood(w: World) -> None:
    """The river comes out of its bed, and somebody fetches a neighbour and a flock in something that floats."""
    a = w.child() if w.chance(0.66) else w.animal("walk", "farm")
    w.tell("open_rain", a, w.place("start", "open"))
    scenes.aside(w, a)
    w.tell("w_water_rises", a)
    b = w.animal("walk", "farm") if "animal" in a.tags else w.adult()
    s = w.counted("herd")
    n = w.between(5, 15)
    w.tell("w_cut_off", a, b, s, n, w.place("farm", avoid=("indoors", "high")))
    w.paragraph()
    w.tell("w_launch", a, b, w.thing("vessel"))
    w.tell("w_first_trip", a, b, S=s, K=w.between(2, n - 2))
    for _ in range(w.between(1, 2)):
        w.tell("w_drift", a)
    w.paragraph()
    w.tell("w_last_trip", a, b, S=s)
    scenes.feel(w, a, glad=True)
    w.end("end_w_flood", a, b, s)


@plot("w_guest")
def w_guest(w: World) -> None:
    """On a wet night somebody lets in a stranger, and in the morning the stranger is gone but not everything else."""
    a = scenes.hero(w)
    w.tell(w.pick(("open_plain", "open_mind", "open_noise")), a, w.place("house"))
    t = w.thing("cover")
    w.tell("own", a, t)
    scenes.aside(w, a)
    w.paragraph()
    w.tell("w_stormy_night", a)
    mended = w.chance(0.55)
    if mended:
        w.tell("w_leaks", a, w.between(3, 9))
    b = w.helper()
    w.tell("w_knock", a, b)
    w.paragraph()
    k = w.between(2, 6)
    if w.chance(0.75):
        w.tell("w_supper", a, b, w.counted("baked") if w.chance(0.6) else w.counted("garden", "food"), 2 * k, k)
    if w.chance(0.75) and w.room(200):
        w.tell("w_guest_tale", b, a)
    w.tell("w_one_bed", a, b, t)
    w.paragraph()
    if mended:
        w.tell("w_roof_mended", a, b)
        scenes.feel(w, a, glad=True, share=0.4)
        w.end("end_w_guest_roof", a, b)
    else:
        u = w.thing("gift", "carry", avoid=("food", "wear", "warm", "light", "plant"))
        w.tell("w_gift_left", a, b, t, u)
        scenes.feel(w, a, glad=True, share=0.4)
        w.end("end_w_guest_gift", a, b, u)


@plot("w_bridge")
def w_bridge(w: World) -> None:
    """A bridge has lost its planks between two friends, and a borrowed thing is due on the other side that day."""
    a = w.child() if w.chance(0.66) else w.animal("walk", "wood")
    p = scenes.opening(w, a, w.place("start", "open", avoid=("water",)))
    b = w.somebody()
    w.tell("w_two_banks", a, b, p, w.place("road"))
    t = w.thing("carry", avoid=("food", "heavy", "heavyload"))
    w.tell("w_must_return", a, b, t)
    w.paragraph()
    n = w.between(4, 12)
    w.tell("w_planks_gone", a, n)
    scenes.feel(w, a, glad=False, share=0.4)
    for _ in range(w.between(1, 2)):
        w.tell("w_shout_over", a, b)
    w.paragraph()
    if w.chance(0.6):
        w.tell("w_gather_planks", a, w.between(2, n - 2))
        scenes.aside(w, a, share=0.4)
        w.tell("w_gather_rest", b, a)
        w.tell("w_build_bridge", a, b)
        scenes.aside_two(w, a, b, share=0.4)
        w.paragraph()
        w.end("end_w_bridge", a, b, t, n)
    else:
        scenes.aside(w, a, share=0.4)
        c = w.creature("fly", "clever")
        w.tell("w_bird_line", a, b, c, O=w.thing("food", "carry", avoid=("heavyload", "break")))
        w.tell("w_basket_over", a, b, t)
        scenes.feel(w, a, glad=True, share=0.5)
        w.paragraph()
        w.end("end_w_ropeway", a, b, c, t)

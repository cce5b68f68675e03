"""Plots about sharing, lending and promises."""

from .. import scenes
from ..world import World
from .registry import plot


@plot("share_out")
def share_out(w: World) -> None:
    """Somebody has many small things, loses or finds some, and shares them; the sums are right."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    s = w.counted(w.pick(["food", "treasure", "useful", "wild"]))
    n = w.between(6, 14)
    w.tell("have_many", a, s, n)
    scenes.aside(w, a)
    w.paragraph()
    w.tell("go", a, w.place())
    if w.chance(0.5):
        w.tell("lose_some", a, s, w.between(1, 3))
        scenes.feel(w, a, glad=False)
    else:
        w.tell("get_more", a, s, w.between(2, 5))
        scenes.feel(w, a, glad=True)
    b = w.somebody()
    w.paragraph()
    w.tell("meet", a, b)
    w.tell("want_some", a, b, s)
    w.tell("give_some", a, b, s, w.between(1, min(3, w.get("count", a, s) - 1)))
    w.tell("feel_glad", b)
    w.paragraph()
    w.tell("go_together", a, b, w.place())
    scenes.aside_two(w, a, b, share=1)
    if w.room(200) and w.chance(0.6):
        w.tell("get_more", a, s, w.between(2, 4))
    w.end("end_counted", a, b, s)


@plot("borrow_break_mend")
def borrow_break_mend(w: World) -> None:
    """A borrowed thing breaks; the borrower owns up; it is mended."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b)
    t = w.thing("break", "carry", avoid=("food",))
    w.tell("own", b, t)
    w.tell("ask_borrow", a, b, t)
    w.tell("lend", b, a, t)
    w.paragraph()
    w.tell("go", a, w.place("open"), link="then" if w.chance(0.3) else "")
    scenes.aside(w, a)
    w.tell("break_thing", a, t)
    scenes.feel(w, a, glad=False)
    if w.chance(0.5):
        c = w.helper()
        w.paragraph()
        w.tell("meet", a, c)
        w.tell("mend_together", a, c, t)
        w.tell("go", a, p)
        w.tell("own_up_mended", a, b, t)
    else:
        w.paragraph()
        w.tell("go", a, p)
        w.tell("own_up", a, b, t)
        if w.chance(0.4):
            w.tell("cross_about", b, a, t)
            w.tell("mend", a, t, link="later")
            w.tell("give_back", a, b, t)
        else:
            w.tell("forgive", b, a, t)
            w.tell("mend_together", b, a, t)
            w.tell("give_back", a, b, t)
    w.end("end_mended", a, b, t)


@plot("promise")
def promise(w: World) -> None:
    """Somebody who must stay in bed is promised a thing, and it comes: in time, or late."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    b, p = w.somebody(), w.place("house")
    w.tell("sick_bed", a, b, p)
    t = w.thing("carry", "gift", avoid=("food",))
    w.tell("promise_bring", a, b, t)
    w.paragraph()
    w.tell("go", a, w.place())
    scenes.aside(w, a)
    if w.chance(0.5):
        w.tell("get_thing", a, t)
        scenes.feel(w, a, glad=True)
        w.paragraph()
        w.tell("return_to", a, b, p)
        w.tell("keep_promise", a, b, t)
        w.tell("feel_glad", b)
        w.end("end_promise_kept", b, a, t)
    else:
        w.tell("forget_promise", a, b, t)
        scenes.aside(w, a)
        w.paragraph()
        w.tell("wait_in_vain", b, a, t)
        scenes.feel(w, b, glad=False)
        w.paragraph()
        w.tell("make_good", a, b, t)
        w.end("end_promise_late", b, a, t)

"""Plots about things that get lost."""

from .. import scenes
from ..subplots import chore
from ..world import World
from .registry import plot


@plot("lose_find")
def lose_find(w: World) -> None:
    """Somebody loses a dear thing, looks in the wrong places, gets a hint or not, and finds it."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    t = w.thing("carry", avoid=("food",))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.adult())
    else:
        w.tell("own", a, t)
    lost_at = w.place("open")
    w.tell("go", a, lost_at)
    scenes.aside(w, a)
    w.tell("lose", a, t)
    w.paragraph()
    w.tell("go", a, w.place("indoors"), link="later")
    w.tell("notice_loss", a, t)
    scenes.feel(w, a, glad=False)
    for _ in range(w.between(1, 2)):
        w.tell("look_for", a, t, w.place(), link="then" if w.chance(0.4) else "")
    b = w.somebody()
    w.paragraph()
    w.tell("meet", a, b)
    w.tell("ask_seen", a, b, t)
    hinted = w.chance(0.6)
    if hinted:
        if w.room(500) and w.chance(0.6):
            chore(w, a, b)
        w.tell("seen_hint", a, b, t, lost_at)
    else:
        w.tell("seen_not", a, b)
        scenes.aside_two(w, a, b)
    w.paragraph()
    if w.chance(0.5):
        w.tell("go_together", a, b, lost_at)
        w.tell("find", a, t)
        together = True
    else:
        w.tell("go", a, lost_at, link="end" if not hinted else "")
        w.tell("find", a, t)
        together = False
    w.tell("feel_glad", a)
    if together:
        w.end("end_returned", a, b, t)
    else:
        w.end("end_found", a, t)

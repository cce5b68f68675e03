"""Plots about swapping and games."""

from .. import scenes
from ..subplots import chore
from ..world import World
from .registry import plot


@plot("trade_chain")
def trade_chain(w: World) -> None:
    """Somebody wants a thing, and gets it by swapping one thing for another, and that for a third."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b)
    t, u = w.thing("carry", avoid=("food",)), w.thing("carry", avoid=("food",))
    w.tell("own", b, t)
    w.tell("admire", a, b, t)
    w.tell("price", b, a, t, u)
    w.paragraph()
    v = w.thing("carry", avoid=("food",))
    w.tell("own_spare", a, v)
    w.tell("go", a, w.place())
    scenes.aside(w, a)
    c = w.helper() if w.chance(0.5) else w.somebody()
    w.tell("meet", a, c)
    w.tell("has_wanted", c, u)
    if w.room(500) and w.chance(0.5):
        chore(w, a, c)
    w.tell("swap", a, c, v, u)
    scenes.aside_two(w, a, c)
    w.paragraph()
    w.tell("go", a, p, link="then" if w.chance(0.3) else "")
    w.tell("swap", a, b, u, t)
    scenes.feel(w, a, glad=True)
    w.end("end_traded", a, b, t, u)


@plot("race")
def race(w: World) -> None:
    """Two run a race; one stops, or falls, or simply runs on."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    scenes.aside_two(w, a, b)
    p = w.place("open")
    w.tell("challenge", a, b, p)
    w.paragraph()
    how = w.random()
    if how < 0.35:
        w.tell("take_lead", a, b)
        w.tell("help_up", a, b)
        w.paragraph()
        w.tell("draw_race", a, b)
        scenes.feel(w, b, glad=True)
        scenes.aside_two(w, b, a, share=1)
        w.end("end_drew", a, b)
    elif how < 0.7:
        w.tell("take_lead", a, b)
        scenes.aside(w, a)
        w.tell("distracted", a, b)
        w.paragraph()
        w.tell("win_race", b, a)
        scenes.feel(w, b, glad=True)
        scenes.aside_two(w, b, a, share=1)
        w.end("end_won", b, a)
    else:
        w.tell("take_lead", b, a)
        w.tell("overtake", a, b)
        w.tell("keep_running", a, b)
        w.paragraph()
        w.tell("win_easily", a, b)
        scenes.feel(w, a, glad=True)
        scenes.aside_two(w, b, a, share=1)
        w.end("end_won", a, b)


@plot("hide_and_seek")
def hide_and_seek(w: World) -> None:
    """One counts and seeks; the other hides, and perhaps finds something where it is dark."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("start", "near"))
    scenes.aside_two(w, a, b)
    w.tell("hide_game", a, b, w.between(10, 30))
    w.paragraph()
    q = w.place("indoors", "near")
    w.tell("hide_away", b, q)
    treasure = w.chance(0.5)
    if treasure:
        t = w.thing("small", "carry", avoid=("food",))
        w.tell("find_in_hiding", b, t)
    w.paragraph()
    for _ in range(w.between(1, 2)):
        w.tell("seek_wrong", a, w.place("near"), b)
    w.tell("seek_found", a, b, link="end" if w.chance(0.3) else "")
    w.paragraph()
    scenes.feel(w, a, glad=True, share=0.4)
    scenes.aside_two(w, a, b, share=1)
    if treasure:
        w.end("end_hide_treasure", b, a, t)
    else:
        w.end("end_hide", b, a)

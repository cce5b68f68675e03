"""A birthday that seems to be forgotten."""

from .. import scenes
from ..world import World
from .registry import plot


@plot("birthday_forgotten")
def birthday_forgotten(w: World) -> None:
    """Nobody says a word about the birthday: there is a surprise, or it is the wrong day, or it was forgotten."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    n = w.between(5, 11)
    way = w.pick(["party", "party", "wrong", "late"])
    w.tell("birthday_thought" if way == "wrong" else "birthday_today", a, n)
    b = w.somebody()
    w.paragraph()
    w.tell("meet", a, b)
    w.tell("no_word", a, b)
    p = w.place("open")
    w.tell("go", a, p, link="then")
    if way == "party":
        c = w.somebody()
        w.tell("meet", a, c)
        w.tell("no_word", a, c)
    else:
        scenes.aside(w, a, share=1)
    w.paragraph()
    w.tell("birthday_alone", a)
    if way == "party":
        w.tell("come_to", b, a, p)
        w.tell("lure", a, b, w.place())
        w.tell("surprise_all", a, b, c, n)
        t = w.thing("gift", avoid=("food",))
        w.paragraph()
        w.tell("birthday_gift", a, b, t)
        w.end("end_birthday", a, b, c, n, t)
    elif way == "wrong":
        scenes.feel(w, a, glad=False)
        w.paragraph()
        w.tell("come_to", b, a, p)
        w.tell("wrong_day", a, b)
        scenes.aside_two(w, a, b, share=1)
        w.end("end_wrong_day", a, b, n)
    else:
        w.paragraph()
        w.tell("come_to", b, a, p)
        w.tell("remembers_late", a, b)
        w.tell("sorry", b, a)
        w.tell("made_up", a, b)
        w.tell("quick_party", a, b, n)
        w.end("end_late_birthday", a, b, n)

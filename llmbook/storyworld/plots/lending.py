"""Plots about debts, things lent on, and guesses."""

from .. import scenes
from ..subplots import chore
from ..world import World
from .registry import plot


@plot("debt")
def debt(w: World) -> None:
    """Somebody is a few coins short, borrows them, buys the thing, and pays back to the last coin."""
    a, b = scenes.hero(w), w.somebody()
    s = w.counted_kind("coins")
    scenes.opening_two(w, a, b)
    w.tell("purse", b, s, w.between(6, 12))
    w.paragraph()
    w.tell("go_together", a, b, w.place("trade"))
    t = w.thing("gift", "carry", avoid=("food", "paper"))
    price = w.between(5, 12)
    w.tell("see_price", a, t, s, price, price - w.between(2, 4))
    w.tell("lend_money", b, a, s)
    w.tell("buy", a, t, s)
    scenes.feel(w, a, glad=True)
    w.paragraph()
    w.tell("earn", a, s, w.get("owes", a, b))
    scenes.aside(w, a)
    w.tell("pay_back", a, b, s)
    scenes.aside_two(w, a, b)
    w.end("end_paid", a, b, t)


@plot("lent_on")
def lent_on(w: World) -> None:
    """A thing is lent, and lent again by the one who has it; its owner follows it from one to the next."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    t = w.thing("carry", avoid=("food", "small"))
    w.tell("own", a, t)
    w.tell("ask_borrow", b, a, t)
    w.tell("lend", a, b, t)
    w.paragraph()
    w.tell("need_back", a, t, b)
    c = w.helper() if w.chance(0.4) else w.somebody()
    w.tell("passed_on", b, a, c, t)
    scenes.feel(w, a, glad=False, share=0.4)
    w.paragraph()
    w.tell("go", a, w.place())
    scenes.aside(w, a)
    w.tell("come_upon", a, c)
    if w.room(500) and w.chance(0.5):
        chore(w, a, c)
    w.tell("still_has", c, a, t)
    scenes.feel(w, a, glad=True)
    w.end("end_back", a, b, c, t)


@plot("guess_jar")
def guess_jar(w: World) -> None:
    """Two guess how many small things are in a jar; too high is out, the nearer one wins the prize."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    scenes.aside_two(w, a, b)
    w.tell("go_together", a, b, w.place("town"))
    c = w.adult()
    w.tell("meet", a, c)
    s, t = w.counted("tiny"), w.thing("gift", "carry", avoid=("food",))
    w.tell("contest", c, s, t)
    w.paragraph()
    total = w.between(22, 48)
    low = total - w.between(0, 9)
    high = total + w.between(1, 9) if w.chance(0.5) else low - w.between(2, 8)
    first, second = (a, b) if w.chance(0.5) else (b, a)
    w.tell("guess", a, low if first is a else high)
    w.tell("guess", b, low if first is b else high)
    w.tell("count_jar", c, s, total)
    w.paragraph()
    w.tell("win_over" if high > total else "win_near", first, second, t)
    scenes.feel(w, first, glad=True)
    scenes.aside_two(w, second, first)
    w.end("end_guessed", first, second, t)

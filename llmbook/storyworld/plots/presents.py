"""Plots about presents and birthdays."""

from .. import scenes
from ..subplots import chore
from ..words import Agent, Place, Thing
from ..world import World
from .registry import plot


@scenes.subplot("secret_get")
def secret_get(w: World, a: Agent, b: Agent, t: Thing, q: Place) -> None:
    """`a` makes or gets the thing that `b` wants, at the place `q`, and hides it there."""
    w.tell("go", a, q)
    w.tell("get_thing" if "trade" in q.tags else "make_secretly", a, t, q)
    w.tell("hide_present", a, t, q)


@plot("secret_present")
def secret_present(w: World) -> None:
    """Somebody prepares a present in secret; the friend feels left out, nearly finds it, or finds it and is silent."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b)
    t = w.thing("gift", avoid=("food", "light"))
    if "make" in t.tags and w.chance(0.7):
        q = w.place("indoors", avoid=("house", "dwell", "trade"))
    else:
        q = w.place("indoors", "trade")
    w.tell("birthday_in", b, w.between(3, 9))
    w.tell("long_for", b, t)
    w.tell("plan_secret", a, b, t)
    w.paragraph()
    secret_get(w, a, b, t, q)
    w.paragraph()
    w.tell("come_to", a, b, p)
    w.tell("dodge", a, b)
    w.tell("think_unloved", b, a)
    way = w.pick(["discover", "nearly", "nothing"])
    if way == "discover":
        w.tell("go", b, q)
        w.tell("discover", b, t, q)
    elif way == "nearly":
        w.tell("go_together", b, a, q)
        w.tell("nearly_find", b, a, t, q)
    w.paragraph()
    if way == "discover":
        w.tell("come_to", b, a, p)
    w.tell("give_present", a, b, t)
    if way == "discover":
        w.tell("act_surprised", b, a, t)
        w.end("end_present_knew", b, a, t)
    else:
        w.tell("feel_glad", b)
        w.end("end_present", b, a, t)


@plot("surprise_party")
def surprise_party(w: World) -> None:
    """Somebody plans a party in secret, lacks some candles, and gets them from one who can hardly keep quiet."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b, w.place("open"))
    n = w.between(5, 11)
    w.tell("tomorrow_turns", b, n)
    scenes.aside_two(w, a, b)
    w.paragraph()
    q = w.place("house")
    w.tell("go", a, q)
    w.tell("plan_party", a, b, n)
    m = w.between(2, n - 2)
    w.tell("count_candles", a, n, n - m, m)
    w.paragraph()
    c = w.somebody() if w.chance(0.5) else w.helper()
    w.tell("go", a, w.place("indoors", avoid=("house",)))
    w.tell("meet", a, c)
    if w.room(550) and w.chance(0.4):
        chore(w, a, c)
    w.tell("candles_from", c, a, m)
    w.tell("swear_secret", c, a, b)
    if w.chance(0.6):
        w.tell("go_together", a, c, p)
        w.tell("almost_told", c, a, b)
    w.paragraph()
    w.tell("party_starts", a, b, c, n, q)
    scenes.feel(w, b, glad=True)
    w.end("end_surprise", a, b, c, n)


@plot("two_boxes")
def two_boxes(w: World) -> None:
    """Two friends each give up the dearest thing to buy a box for the other's; a third may bring both back."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("house"))
    t, u = [w.thing("carry", "gift", avoid=("food", "box", "light", "soft")) for _ in range(2)]
    w.tell("dear_to_both", a, b, t, u)
    w.tell("gift_day", a, b)
    q = w.place("trade")
    w.paragraph()
    w.tell("go", a, q)
    w.tell("swap_for_box", a, b, u, t, q)
    w.paragraph()
    r = w.place("trade")
    w.tell("go", b, r)
    w.tell("swap_for_box", b, a, t, u, r)
    w.paragraph()
    w.tell("exchange_boxes", a, b, t, u)
    if w.chance(0.5):
        c = w.helper()
        w.tell("bring_back", c, a, b, t, u)
        w.end("end_boxes_back", a, b, c, t, u)
    else:
        w.end("end_boxes", a, b, t, u)

"""Plots about wanting: two want one thing, a wish is spent on somebody else, coins are saved for something."""

from .. import scenes
from ..words import Agent, Countable, Thing
from ..world import World
from .registry import plot


@scenes.subplot("pull_at")
def pull_at(w: World, a: Agent, b: Agent, t: Thing) -> None:
    """`a` and `b`, who both want `t`, pull at it and argue."""
    if w.chance(0.5):
        w.tell("argue", a, b, t)
        w.tell("tug", a, b, t)
    else:
        w.tell("tug", a, b, t)
        if w.room(300):
            w.tell("argue", a, b, t)


@plot("same_thing")
def same_thing(w: World) -> None:
    """Two friends find one thing; they share it, break and mend it, give way, or its owner comes."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    scenes.aside_two(w, a, b)
    p = w.place("open")
    w.tell("go_together", a, b, p)
    t = w.thing("carry", avoid=("food",))
    w.paragraph()
    w.tell("spot_both", a, b, t, p)
    pull_at(w, a, b, t)
    w.paragraph()
    way = w.pick(["turns", "claimed", "given", "broken" if "break" in t.tags else "turns"])
    if way == "claimed":
        c = w.helper()
        w.tell("claim", a, b, c, t)
        w.tell("thank_two", c, a, b, t)
        w.paragraph()
        w.end("end_claimed", a, b, c, t)
    elif way == "given":
        w.tell("give_up", a, b, t, link="end")
        w.tell("feel_glad", b)
        w.paragraph()
        w.tell("no_fun", b, a, t)
        w.end("end_given_up", a, b, t)
    else:
        if way == "broken":
            w.tell("tug_break", a, b, t)
            scenes.feel(w, a, glad=False)
            w.tell("mend_together", a, b, t)
            w.paragraph()
        w.tell("agree_turns", a, b, t)
        scenes.aside_two(w, a, b)
        w.end("end_turns", a, b, t)


@plot("wish_for_friend")
def wish_for_friend(w: World) -> None:
    """Somebody has one wish and means it for a thing, then meets a friend who has lost one."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    t = w.thing("gift", avoid=("food",))
    p = w.place("wishing")
    w.tell("long_for", a, t)
    w.tell("wish_legend", p)
    w.paragraph()
    w.tell("set_out_by", a, p, w.place("open"))
    b = w.somebody()
    w.tell("meet", a, b)
    u = w.thing("carry", "gift", avoid=("food",))
    w.tell("worry_lost", b, u)
    w.tell("go_together", a, b, p)
    scenes.aside(w, a)
    w.paragraph()
    w.tell("both_wish", a, b, t, u)
    w.tell("spend_wish", a, b, t, u, p)
    w.tell("wish_true", a, b, u)
    scenes.feel(w, b, glad=True)
    w.paragraph()
    if w.chance(0.5):
        w.tell("happens_to_have", b, a, t)
        w.end("end_wish_both", a, b, t, u)
    else:
        w.end("end_wish", a, b, t, u)


@scenes.subplot("earn_coins")
def earn_coins(w: World, a: Agent, s: Countable, k: int) -> None:
    """`a` goes somewhere to work and earns `k` coins."""
    p = w.place("farm") if w.chance(0.5) else w.place("shop")
    w.tell("go", a, p)
    w.tell("earn_at", a, s, p, k)


@plot("saving_up")
def saving_up(w: World) -> None:
    """Somebody saves coins for a thing, works, buys it, or gives the coins to one who needs them more."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    s = w.counted("money")
    t = w.thing("gift", avoid=("food", "light"))
    n = w.between(9, 30)
    missing = w.between(4, min(9, n - 4))
    w.tell("price_in_window", a, t, n)
    w.tell("saved", a, t, s, n - missing)
    w.paragraph()
    first = w.between(2, missing - 2)
    if w.chance(0.5):
        earn_coins(w, a, s, first)
        scenes.aside(w, a)
        w.paragraph()
        earn_coins(w, a, s, missing - first + w.between(1, 3))
    else:
        earn_coins(w, a, s, missing + w.between(1, 3))
        scenes.feel(w, a, glad=True)
    if w.chance(0.5):
        w.paragraph()
        w.tell("buy_saved", a, t, s)
        scenes.feel(w, a, glad=True)
        w.end("end_bought", a, t, s)
    else:
        b = w.somebody()
        w.paragraph()
        w.tell("meet", a, b)
        k = w.between(3, min(9, n - 2))
        w.tell("in_need", b, a, s, k)
        w.tell("give_coins", a, b, s, k)
        scenes.feel(w, b, glad=True)
        w.paragraph()
        w.tell("repay", b, a, t)
        w.end("end_repaid", a, b, t)

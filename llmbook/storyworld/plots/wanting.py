"""Plots about wanting: two want one thing, a wish is spent on somebody else, coins are saved for something."""

from .. import scenes
from ..words import Agent, Thing
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
            w.tell("argue", b, a, t)


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
    w.tell("set_out_by", a, p, w.place())
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

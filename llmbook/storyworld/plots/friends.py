"""Plots about friends: somebody is jealous of a new one, somebody is new, somebody is taught a thing."""

from .. import scenes
from ..world import World
from .contests import lesson
from .registry import plot


@plot("new_friend")
def new_friend(w: World) -> None:
    """A friend finds another friend; the first one is jealous, until the secret sign is heard."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b, w.place("open"))
    w.tell("have_sign", a, b, w.between(2, 7))
    scenes.aside_two(w, a, b)
    c = w.somebody()
    w.paragraph()
    w.tell("new_friend", a, b, c)
    w.tell("left_out", a, b, c)
    q = w.place()
    w.tell("slip_away", a, q)
    w.paragraph()
    scenes.aside(w, a)
    w.tell("miss", a, b)
    scenes.feel(w, a, glad=False)
    w.tell("hear_sign", a, b, c)
    w.tell("speak_for", c, a, b)
    w.paragraph()
    w.tell("join_three", a, c, b, p)
    w.end("end_three", a, b, c)


@plot("newcomer")
def newcomer(w: World) -> None:
    """Somebody is new and silent; the hero laughs at the new one or makes friends, and is shown a dear thing."""
    a = scenes.hero(w)
    scenes.opening(w, a, w.place("open"))
    scenes.aside(w, a, share=0.3)
    b = w.somebody()
    w.tell("newcomer", a, b)
    w.tell("silent", b, a)
    unkind = w.chance(0.5)
    if unkind:
        w.tell("laugh_at", a, b)
        q = w.place("open")
        w.tell("walk_off_sad", b, a, q)
        w.paragraph()
        w.tell("feel_silly", a, b)
        w.tell("come_to", a, b, q)
        w.tell("sorry", a, b)
    else:
        w.tell("try_hello", a, b, w.between(3, 9))
    w.paragraph()
    w.tell("break_ice", a, b)
    taught = w.chance(0.35)
    t = w.thing("learn", "carry") if taught else w.thing("carry", "gift", avoid=("food",))
    w.tell("show_own", b, a, t)
    if taught:
        lesson(w, a, b, t)
        w.end("end_taught", a, b, t) if w.get("tries", b) is None else w.end("end_taught_tries", a, b, t)
        return
    w.tell("play_own", a, b, t)
    scenes.feel(w, a, glad=True)
    w.end("end_new", a, b, t)


@plot("tall_tales")
def tall_tales(w: World) -> None:
    """Two tell taller and taller tales about a fish, go fishing to prove it, and end up laughing."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("open"))
    scenes.aside_two(w, a, b)
    w.paragraph()
    n = w.between(2, 6)
    w.tell("fish_tale", a, b, n)
    top = n + w.between(1, 5)
    w.tell("bigger_tale", b, a, top)
    for _ in range(w.between(0, 1)):
        more = top + w.between(1, 7)
        w.tell("bigger_tale", a, b, more)
        top = more + w.between(2, 9)
        w.tell("bigger_tale", b, a, top)
    w.paragraph()
    w.tell("prove_it", a, b, w.place("water", "open", avoid=("town", "high")))
    scenes.aside(w, a, share=0.5)
    w.tell("small_catch", a, b)
    w.tell("own_up_tale", a, b)
    w.paragraph()
    scenes.aside_two(w, a, b, share=0.4)
    w.end("end_tale", a, b, n, top)


@plot("farewell")
def farewell(w: World) -> None:
    """A friend moves away; each keeps a thing of the other's; a letter, and one day a knock."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    n = w.between(2, 9)
    w.tell("moving_away", b, a, n)
    w.tell("last_days", b, a, n)
    w.paragraph()
    t = w.thing("carry", "gift", avoid=("food", "light"))
    u = w.thing("carry", "gift", avoid=("food", "light"))
    w.tell("swap_tokens", b, a, t, u)
    w.tell("cart_leaves", b, a, t)
    w.paragraph()
    scenes.aside(w, a, share=0.3)
    w.tell("miss", a, b)
    w.tell("first_letter", b, a, w.between(2, 9), u)
    w.paragraph()
    w.tell("comes_home_again", b, a, t, u)
    w.end("end_farewell", b, a, t, u)

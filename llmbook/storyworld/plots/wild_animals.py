"""Plots about animals: a herd that is counted, an egg that is kept warm, a beast that will not go on."""

from .. import scenes
from ..words import Agent, Place
from ..world import World
from .registry import plot

MILD = ("open_plain", "open_sun", "open_mind", "open_noise", "open_wind")  # openings of days without rain and snow


@scenes.subplot("count_herd")
def count_herd(w: World, a: Agent, b: Agent, p: Place) -> None:
    """`a`, who is at `p`, minds the herd of `b` (who is not in the story yet) and counts it wrong or right."""
    s = w.counted("herd")
    q = w.place("town")
    w.tell("w_in_charge", a, b, s, w.between(4, 14), q)
    scenes.aside(w, a)
    w.tell("w_doze", a, s)
    w.paragraph()
    how = w.random()
    if how < 0.4:
        w.tell("w_one_more", a, s)
        c = w.child()
        w.tell("w_extra_owner", a, c)
        scenes.aside_two(w, a, c)
    elif how < 0.75:
        w.tell("w_one_short", a, s)
        scenes.feel(w, a, glad=False)
        for _ in range(w.between(1, 2)):
            w.tell("w_seek_stray", a, s, w.place("open"))
        w.tell("w_find_stray", a, s, Q=w.place("open"))
        scenes.feel(w, a, glad=True)
    else:
        w.tell("w_one_short", a, s)
        scenes.feel(w, a, glad=False, share=0.9)
        w.tell("w_in_lap", a, s)
        scenes.feel(w, a, glad=True)
    w.paragraph()
    if w.get("place", a) is not p:
        w.tell("go", a, p)
    w.tell("return_to", b, a, p)
    if how < 0.4:
        w.end("end_w_herd_more", a, b, c, s)
    else:
        w.end("end_w_herd_stray" if how < 0.75 else "end_w_herd_lap", a, b, s)


@plot("w_herd")
def w_herd(w: World) -> None:
    """Somebody minds a herd, looks away, and counts one too few or one too many."""
    a = w.child()
    p = w.place("open", "start", avoid=("town",))
    w.tell(w.pick(MILD), a, p)
    count_herd(w, a, w.adult(), p)


@plot("w_egg")
def w_egg(w: World) -> None:
    """Somebody finds an egg, keeps it warm for many nights, and is taken for a mother."""
    a = w.child() if w.chance(0.66) else w.animal("walk", "wood")
    w.tell(w.pick(MILD), a, w.place("start", "open"))
    t = w.thing("warm", "soft")
    w.tell("own", a, t)
    p = w.place("open", "wild")
    w.tell("go", a, p)
    w.tell("w_find_egg", a, p)
    stays = w.chance(0.45)
    if stays or w.chance(0.3):
        b = w.somebody()
        w.tell("meet", a, b)
        w.tell("w_guess_egg", a, b)
    else:
        scenes.aside(w, a)
    w.paragraph()
    w.tell("w_wrap_egg", a, t)
    w.tell("w_keep_egg", a, t, w.between(8, 24))
    c = w.creature("fly", "small", "wood")
    w.tell("w_hatch", a, t, c)
    w.paragraph()
    w.tell("w_takes_for_mother", a, c)
    if w.room(200) and w.chance(0.6):
        w.tell("w_takes_for_mother", a, c)
    w.tell("w_teach_fly", a, c)
    if stays:
        scenes.feel(w, a, glad=True)
        w.end("end_w_egg_stay", a, c, t, b)
    else:
        w.end("end_w_egg_away", a, c, t)


@plot("w_stubborn")
def w_stubborn(w: World) -> None:
    """A beast stops in front of its cart and will not go on; it has seen what nobody else saw."""
    a = w.child() if w.chance(0.75) else w.adult()
    w.tell(w.pick(MILD), a, w.place("start", "open"))
    c = w.creature("strong", "farm")
    t = w.thing("heavyload", avoid=("ride", "light", "box"))
    q = w.place("town")
    w.tell("w_load", a, c, t, q)
    scenes.aside(w, a, share=0.4)
    w.tell("w_halts", a, c, P=w.place("road"))
    w.paragraph()
    w.tell("w_tug", a, c)
    if w.chance(0.6):
        w.tell("w_tempt", a, c, w.thing("food", "carry", avoid=("heavyload", "break")))
    if w.chance(0.6):
        b = w.child()
        w.tell("meet", a, b)
        w.tell("w_push_both", a, b, c)
    else:
        w.tell("w_tug", a, c)
    w.paragraph()
    if w.chance(0.55):
        d = w.creature("small", "wood", "walk")
        w.tell("w_why_small", a, c, d)
        w.tell("w_carry_off", a, d, c)
        w.tell("w_arrive_cart", a, c)
        w.end("end_w_stubborn", a, c, d)
    else:
        w.tell("w_why_hole", a, c)
        w.paragraph()
        w.tell("w_detour", a, c)
        w.end("end_w_hollow", a, c)

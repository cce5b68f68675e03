"""Plots about being good at something: a contest, a lesson."""

from .. import scenes
from ..words import Agent, Thing
from ..world import World
from .registry import plot


@plot("contest")
def contest(w: World) -> None:
    """Two have made something for a contest; a mishap, help; the points decide."""
    a = scenes.hero(w)
    scenes.opening(w, a)
    p = w.place("open")
    w.tell("contest_news", a, p)
    t = w.thing("make", "carry", avoid=("food",))
    w.tell("enter_with", a, t)
    w.paragraph()
    w.tell("go", a, p)
    scenes.aside(w, a, share=0.4)
    b = w.somebody()
    u = w.thing("make", "carry", avoid=("food",))
    w.tell("rival", a, b, u)
    helped = w.chance(0.6)
    if helped:
        w.tell("mishap", a, b, u)
        w.tell("help_rival", a, b, u)
    w.paragraph()
    w.tell("judge_comes", a, b)
    n = w.between(5, 10)
    k = n if helped and w.chance(0.5) else w.pick([other for other in range(4, 11) if other != n])
    w.tell("points", b, u, k)
    w.tell("points", a, t, n)
    w.paragraph()
    if n == k:
        w.end("end_points_tied", a, b, t, u, n)
    elif n > k:
        scenes.feel(w, a, glad=True)
        w.end("end_points_won", a, b, t, u)
    else:
        w.end("end_points_won", b, a, u, t)


@scenes.subplot("lesson")
def lesson(w: World, a: Agent, b: Agent, t: Thing) -> None:
    """`b`, a master of `t`, teaches `a`: at once, or only after `a` has given up and been fetched back."""
    w.tell("ask_teach", a, b, t)
    w.paragraph()
    w.tell("first_try", a, t)
    w.tell("patience", b, a)
    if w.room(350):
        w.tell("small_step", a, t)
    if w.chance(0.5):
        q = w.place("open")
        w.tell("give_up_try", a, b, t, q)
        scenes.aside(w, a)
        w.paragraph()
        w.tell("come_to", b, a, q)
        w.tell("tell_own", b, a, t, w.between(8, 40))
    else:
        scenes.aside_two(w, a, b)
    w.tell("succeed", a, b, t)


@plot("teaching")
def teaching(w: World) -> None:
    """Somebody learns from a friend how to ride or play a thing, after many tries."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("open"))
    t = w.thing("learn")
    w.tell("master", b, t)
    lesson(w, a, b, t)
    w.paragraph()
    scenes.feel(w, a, glad=True, share=0.3)
    if w.get("tries", b) is not None:
        w.end("end_taught_tries", a, b, t)
    else:
        w.end("end_taught", a, b, t)


@plot("boasting")
def boasting(w: World) -> None:
    """Somebody boasts, is taken at the word, owns up, and learns in time to do it."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("open"))
    t = w.thing("learn")
    w.tell("boast", a, b, t)
    w.tell("take_at_word", b, a, t)
    w.paragraph()
    w.tell("admit_boast", a, b, t)
    w.tell("offer_lesson", b, a, t)
    w.paragraph()
    w.tell("first_try", a, t)
    if w.room(350):
        w.tell("patience", b, a)
    w.tell("succeed", a, b, t)
    w.tell("perform", a, b, t)
    w.end("end_boast", a, b, t)


@plot("stage_fright")
def stage_fright(w: World) -> None:
    """Somebody plays in front of everybody, gets stuck, and is helped by a friend who hums."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    t = w.thing("learn", "music", avoid=("toy",))
    w.tell("must_play", a, b, t, w.between(2, 9))
    scenes.aside_two(w, a, b)
    w.paragraph()
    if w.chance(0.5):
        w.tell("go", a, w.place())
        scenes.aside(w, a, share=0.4)
        w.tell("stage_nerves", a, t)
        w.tell("come_to", b, a, w.get("place", a))
    else:
        w.tell("stage_nerves", a, t)
    w.tell("give_trick", b, a, t)
    w.paragraph()
    w.tell("play_stuck", a, b, t)
    w.tell("hum_along", b, a, t)
    w.paragraph()
    scenes.feel(w, a, glad=True)
    w.end("end_stage", a, b, t)

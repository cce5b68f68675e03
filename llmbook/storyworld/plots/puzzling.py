"""Plots about a thief of buns, a stuck cart, fog, and changing places."""

from .. import scenes
from ..world import World
from .registry import plot


@plot("vanishing_food")
def vanishing_food(w: World) -> None:
    """Some of what was saved for the party is eaten in the night; two friends lie in wait for the thief."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b, w.place("house"), together=True)
    s = w.counted("food")
    w.tell("bake", a, p, s, w.between(7, 14))
    scenes.aside_two(w, a, b)
    w.paragraph()
    w.tell("some_gone", a, s, w.between(2, 3), link="day" if w.chance(0.3) else "")
    scenes.feel(w, a, glad=False, share=0.4)
    w.tell("lie_in_wait", a, b)
    w.paragraph()
    c = w.creature("walk", "small")
    w.tell("thief_comes", a, b, c)
    w.tell("why_stolen", a, c)
    w.end("end_thief_fed", a, c, s)


@plot("stuck_cart")
def stuck_cart(w: World) -> None:
    """Something heavy is stuck; one after another they pull, and the smallest makes the difference."""
    a = scenes.hero(w)
    p = w.place("open", "wild") if w.chance(0.5) else w.place("farm", "open")
    scenes.opening(w, a, p)
    u = w.thing("heavyload")
    w.tell("stuck", a, u, p)
    w.paragraph()
    b = w.somebody()
    w.tell("meet", a, b)
    w.tell("pull_first", a, b, u)
    if w.chance(0.8):
        c = w.helper() if w.chance(0.5) else w.somebody()
        w.tell("meet", b, c)
        w.tell("pull_more", a, b, c, u)
    scenes.feel(w, a, glad=False, share=0.5)
    w.paragraph()
    d = w.creature("small")
    w.tell("last_pull", a, d, u)
    scenes.feel(w, a, glad=True)
    w.end("end_freed", a, b, d, u)


@plot("fog_home")
def fog_home(w: World) -> None:
    """Fog takes the way from one friend; the other makes a noise to come home by."""
    a, b = scenes.hero(w), w.somebody()
    p = w.place("house")
    scenes.opening_two(w, a, b, p, together=True)
    t = w.thing("music", "loud", avoid=("heavy", "heavyload"))
    w.tell("own", b, t)
    if w.chance(0.6):
        scenes.aside_two(w, a, b, share=1)
    w.paragraph()
    q = w.place("wild", "open")
    w.tell("go", a, q)
    scenes.aside(w, a, share=0.3)
    w.tell("fog_falls", a, q)
    for _ in range(w.between(1, 2)):
        w.tell("fog_afraid", a)
    w.paragraph()
    w.tell("sound_signal", b, a, t)
    w.tell("follow_sound", a, b, t)
    scenes.feel(w, a, glad=True)
    scenes.aside_two(w, a, b, share=0.4)
    w.end("end_fog", a, b, t)


@plot("change_places", weight=0.7)
def change_places(w: World) -> None:
    """One sweeps and one cooks, or minds hens and washes, until they change for a day; then back, or both together."""
    a, b = scenes.hero(w), w.somebody()
    yard = w.chance(0.6)
    p = w.place("farm", "open", "start") if yard else w.place("house", avoid=("high", "dark"))
    scenes.opening_two(w, a, b, p, together=True)
    w.tell("yard_jobs" if yard else "job_of", a, b)
    scenes.aside_two(w, a, b)
    w.paragraph()
    w.tell("change_yard" if yard else "change_jobs", a, b)
    mishaps = ("wash_badly", "hens_badly") if yard else ("cook_badly", "sweep_badly")
    for who, mishap in zip((a, b), mishaps):
        w.tell(mishap, who)
        if w.chance(0.5):
            w.tell(mishap, who)
    scenes.feel(w, a, glad=False, share=0.3)
    w.paragraph()
    how = w.random()
    if how < 0.4:
        w.tell("join_jobs", a, b)
        w.end("end_joined", a, b)
    elif how < 0.65 and not yard:
        w.tell("learn_jobs", a, b)
        w.end("end_jobs_learnt", a, b)
    else:
        scenes.aside_two(w, b, a)
        w.end("end_yard" if yard else "end_jobs", a, b)

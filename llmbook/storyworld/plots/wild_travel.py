"""Plots about ways: a message that changes, a map, a boat, the moon in a bucket, a bottle with a letter."""

from .. import scenes
from ..world import World
from .registry import plot
from .wild_animals import MILD


@plot("w_message")
def w_message(w: World) -> None:
    """Somebody who cannot let go sends for a tool; the word changes on the way, and another thing arrives."""
    a = w.child()
    p = scenes.opening(w, a, w.place("start", "open", avoid=("town", "water")))
    w.tell("w_hold_gate", a, p)
    b = w.somebody()
    w.tell("meet", a, b)
    c = w.adult()
    t = w.thing("repair")
    w.tell("w_send_word", a, b, c, t, w.place("town"))
    scenes.aside(w, b, share=0.6)
    w.paragraph()
    u = w.thing("carry", avoid=("tool", "break", "light", "small", "soft", "food", "paper", "precious", "plant",
                                "repair", "wear"))
    w.tell("w_word_slips", b, a, c, t, u)
    w.tell("w_gives_wrong", c, b, a, t, u)
    w.tell("w_not_that", a, b, c)
    w.paragraph()
    if w.chance(0.6):
        w.tell("w_prop_up", a, b, c)
        scenes.feel(w, a, glad=True, share=0.4)
        w.end("end_w_word_prop", a, b, c, t, u)
    else:
        w.tell("w_run_again", b, a, c, t, u)
        w.end("end_w_word_twice", a, b, c, t, u)


@plot("w_treasure")
def w_treasure(w: World) -> None:
    """Two find a map, dig in the wrong place because its steps were a child's, and then in the right one."""
    a, b = w.child(), w.child()
    w.tell("open_pair" if w.chance(0.5) else "open_two", a, b, w.place("house"))
    t = w.thing("chart")
    w.tell("w_find_map", a, b, t)
    q = w.place("road")
    w.tell("w_map_says", a, b, t, w.between(12, 45), q)
    w.paragraph()
    w.tell("go_together", a, b, q)
    scenes.aside_two(w, a, b, share=0.3)
    w.tell("w_pace_wrong", a, b)
    scenes.feel(w, a, glad=False, share=0.3)
    w.tell("w_whose_legs", b, a)
    w.paragraph()
    owned = w.chance(0.5)
    u = w.thing("precious", "carry", avoid=("box", "paper", "food"))
    w.tell("w_dig_up", a, b, u, T=t)
    scenes.feel(w, a, glad=True, share=0.3)
    if owned:
        c = w.adult()
        w.tell("w_old_owner", c, a, b, u, t)
        w.end("end_w_map_owner", a, b, c, u, T=t)
    else:
        w.tell("w_bury_new", a, b, t, u)
        w.end("end_w_map_kept", a, b, t, u)


@plot("w_moon")
def w_moon(w: World) -> None:
    """A friend in bed has not seen the moon for many nights; somebody catches it in a pail and brings it."""
    a = w.child()
    w.tell(w.pick(MILD), a, w.place("start", "open"))
    b = w.child()
    w.tell("w_ill_in_bed", a, b, w.between(3, 20), w.place("dwell"))
    scenes.aside(w, a, share=0.4)
    w.paragraph()
    t = w.thing("pail")
    w.tell("w_catch_moon", a, t, w.place("water", "wishing", "open"))
    w.tell("w_carry_moon", a, t)
    w.tell("w_carry_moon", a, t)
    if w.room(300) and w.chance(0.6):
        w.tell("w_carry_moon", a, t)
    w.paragraph()
    if w.chance(0.5):
        w.tell("w_show_moon", a, b, t)
        scenes.feel(w, b, glad=True, share=0.4)
        w.end("end_w_moon", a, b, t)
    else:
        w.tell("w_spill_moon", a, b, t)
        w.end("end_w_moon_puddle", a, b, t)


@plot("w_boat")
def w_boat(w: World) -> None:
    """Two row out, lose the oars, and come home with what one of them had brought along for something else."""
    a, b = w.child(), w.child()
    p = w.place("shore")
    w.tell(w.pick(MILD), a, p)
    w.tell("meet", a, b)
    sails = w.chance(0.5)
    u = w.thing("cover") if sails else w.thing("paddle")
    w.tell("own", b, u)
    w.paragraph()
    t = w.thing("vessel")
    w.tell("w_row_out", a, b, t, w.place("isle"))
    w.tell("w_picnic", a, b)
    w.tell("w_oars_gone", a, b)
    w.paragraph()
    w.tell("w_hands", a, b)
    if w.room(250) and w.chance(0.5):
        w.tell("w_hands", a, b)
    scenes.feel(w, a, glad=False, share=0.3)
    w.tell("w_sail_up" if sails else "w_paddle_with", b, a, u)
    w.paragraph()
    w.tell("w_land", a, b, P=p)
    w.end("end_w_boat_sail" if sails else "end_w_boat_paddle", a, b, t, u)

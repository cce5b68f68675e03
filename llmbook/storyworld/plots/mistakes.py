"""Plots about being wrong: a friend taken for a thief, a lie, a joke that goes too far, words said in anger."""

from .. import scenes
from ..words import Agent
from ..world import World
from .registry import plot
from .strangers import stranger


@scenes.subplot("make_up")
def make_up(w: World, a: Agent, b: Agent) -> None:
    """`a`, who has wronged `b` (`wronged A = B`) and is with `b`, says sorry, and they are friends again."""
    w.tell("sorry", a, b)
    w.tell("made_up", b, a)


@plot("accused")
def accused(w: World) -> None:
    """Somebody takes a friend for a thief; the friend had only tied a label to the thing."""
    a = scenes.hero(w)
    p = scenes.opening(w, a, w.place("start", "open"))
    t = w.thing("carry", avoid=("food", "paper"))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.helper())
    else:
        w.tell("own", a, t)
    w.tell("lay_down", a, t, p)
    w.paragraph()
    w.tell("go", a, w.place())
    scenes.aside(w, a, share=0.9)
    w.tell("go", a, p, link="later")
    w.tell("find_empty", a, t, p)
    b = w.somebody()
    w.paragraph()
    w.tell("catch_with", a, b, t)
    w.tell("accuse", a, b, t)
    if w.chance(0.5):
        q = w.place()
        w.tell("throw_down", b, a, t, q)
        w.paragraph()
        w.tell("discover_label", a, t, b)
        w.tell("feel_silly", a, b)
        w.tell("come_to", a, b, q)
    else:
        w.tell("explain_label", b, a, t)
        w.paragraph()
        w.tell("feel_silly", a, b)
    make_up(w, a, b)
    w.end("end_accused", a, b, t)


@scenes.subplot("lie_over")
def lie_over(w: World, a: Agent, b: Agent) -> None:
    """`b` leaves `a` to guard some sweet things; `a` eats of them, lies, and tells the truth after all."""
    s = w.counted("baked") if w.chance(0.6) else w.counted("fruit")
    n = w.between(6, 14)
    w.tell("entrust_many", b, a, s, n)
    p = w.get("place", a)
    w.tell("go_out", b, a, w.place())
    w.paragraph()
    scenes.aside(w, a)
    w.tell("nibble", a, s, w.between(2, 4))
    w.paragraph()
    w.tell("return_to", b, a, p)
    w.tell("count_again", b, a, s)
    w.tell("blame_bird", a, b, s)
    if w.chance(0.6):
        w.tell("lie_grows", a, b)
    if w.chance(0.5):
        w.tell("see_through", b, a, s)
    else:
        w.tell("believe_lie", b, a, s)
        w.paragraph()
        w.tell("bad_conscience", a, b)
    w.tell("confess_eaten", a, b, s)
    w.tell("forgive_lie", b, a, s)
    w.end("end_lie", a, b, s)


@plot("lie_found_out")
def lie_found_out(w: World) -> None:
    """Somebody guards good things, eats some, blames a bird, and tells the truth."""
    a, b = scenes.hero(w), w.helper()
    scenes.opening(w, a, w.place("house"))
    w.tell("comes_in", a, b)
    lie_over(w, a, b)


@scenes.subplot("quarrel")
def fall_out(w: World, a: Agent, b: Agent) -> None:
    """`a` and `b`, who are together, quarrel about nothing, and `a` walks off. Both are wronged."""
    w.tell("quarrel_trifle", a, b)
    if w.chance(0.6):
        w.tell("insult", a, b)
    w.tell("leave_cross", a, b, w.place())


@plot("quarrel_return")
def quarrel_return(w: World) -> None:
    """Two friends quarrel about nothing; a borrowed thing, or two ways that cross, bring them together again."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b)
    lent = w.chance(0.55)
    if lent:
        t = w.thing("carry", "gift", avoid=("food",))
        w.tell("own", b, t)
        w.tell("ask_borrow", a, b, t)
        w.tell("lend", b, a, t)
    else:
        scenes.aside_two(w, a, b, share=1)
    w.paragraph()
    fall_out(w, a, b)
    w.paragraph()
    scenes.aside(w, a)
    w.tell("miss", a, b)
    if lent:
        w.tell("has_still", a, b, t)
        w.paragraph()
        w.tell("come_to", a, b, p)
        w.tell("bring_pretext", a, b, t)
    else:
        scenes.feel(w, b, glad=False)
        w.tell("cross_paths", a, b, w.get("place", a), p)
        w.paragraph()
        w.tell("meet_halfway", a, b, w.place("open"))
    w.tell("both_sorry", a, b)
    w.tell("made_up", a, b)
    if lent:
        w.end("end_pretext", a, b, t)
    else:
        w.end("end_quarrel", b, a)


@plot("said_in_anger")
def said_in_anger(w: World) -> None:
    """A thing breaks, its owner never wants to see the friend again, and the friend takes it at its word."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b)
    t = w.thing("break", "carry", avoid=("food",))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.helper())
    else:
        w.tell("own", a, t)
    scenes.aside_two(w, a, b)
    w.paragraph()
    w.tell("break_other", b, a, t)
    w.tell("say_never", a, b, t)
    q = w.place()
    w.tell("obey_never", b, a, q)
    w.paragraph()
    scenes.aside(w, a)
    w.tell("miss", a, b)
    w.tell("feel_silly", a, b)
    w.paragraph()
    w.tell("look_for_hidden", a, b, q)
    w.tell("found_hidden", b, a, q)
    w.tell("take_back", a, b)
    w.tell("made_up", b, a)
    w.tell("mend_together", a, b, t)
    w.end("end_never", a, b, t)


@plot("joke_goes_wrong")
def joke_goes_wrong(w: World) -> None:
    """Somebody hides a friend's dear thing for fun; then it is gone, or the friend is; both are put right."""
    a, b = scenes.hero(w), w.somebody()
    p = scenes.opening_two(w, a, b, w.place("open", "start"))
    t = w.thing("carry", avoid=("food", "heavy"))
    if w.chance(0.4):
        w.tell("gift_from", b, t, w.helper())
    else:
        w.tell("own", b, t)
    w.tell("hide_joke", a, b, t, p)
    w.tell("giggle", a, b, t)
    q = w.place()
    w.tell("search_upset", b, t, q)
    w.paragraph()
    gone = w.chance(0.5)
    w.tell("joke_gone" if gone else "still_there", a, t, p)
    w.tell("joke_shame", a, b)
    w.paragraph()
    w.tell("come_to", a, b, q)
    w.tell("joke_confess", a, b, t)
    if gone:
        if w.chance(0.5):
            w.tell("sorry", a, b)
            w.tell("joke_returned", a, b, t)
        else:
            w.tell("joke_returned", a, b, t)
            w.tell("sorry", a, b)
        scenes.feel(w, b, glad=True)
    else:
        w.tell("give_back", a, b, t)
        w.tell("sorry", a, b)
    w.tell("made_up", b, a)
    w.end("end_joke", a, b, t)


@plot("broken_window")
def broken_window(w: World) -> None:
    """A thing flies through a window; its owner runs away, comes back, and works for the pane."""
    a = scenes.hero(w)
    p = scenes.opening(w, a, w.place("dwell"))
    t = w.thing("carry", "toy", avoid=("light", "soft", "music", "wear"))
    if w.chance(0.4):
        w.tell("gift_from", a, t, w.helper())
    else:
        w.tell("own", a, t)
    scenes.aside(w, a)
    w.tell("kick_far", a, t, p)
    w.paragraph()
    w.tell("run_off", a, w.place("open"))
    w.tell("think_window", a, t)
    w.paragraph()
    b = stranger(w)
    w.tell("go_confess", a, b, t, p)
    w.tell("window_price", b, a, w.between(2, 9))
    w.paragraph()
    w.tell("do_work", a, b)
    scenes.aside_two(w, a, b)
    w.end("end_window", a, b, t)


@plot("pretend_ill")
def pretend_ill(w: World) -> None:
    """Somebody pretends to be ill so as not to have to help, is nursed, and jumps up."""
    a, b = scenes.hero(w), w.somebody()
    scenes.opening_two(w, a, b, w.place("house"))
    scenes.aside_two(w, a, b, share=0.3)
    w.tell("big_job", b, a, w.between(5, 14))
    w.tell("pretend_ill", a, b)
    w.paragraph()
    w.tell("nurse", b, a)
    w.tell("watch_work", a, b)
    w.paragraph()
    w.tell("jump_up", a, b)
    make_up(w, a, b)
    w.end("end_pretend", a, b)

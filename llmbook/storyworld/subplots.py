"""Plots that nest in others: each takes the world and the people it is about, and may be told in the middle of any."""

from .scenes import aside_two, subplot
from .words import Agent
from .world import World


@subplot("chore")
def chore(w: World, a: Agent, b: Agent) -> None:
    """Before `b` does anything for `a`, `a` helps `b` with a job; sometimes it is one to reckon with."""
    w.tell("ask_help", b, a)
    how = w.random()
    if how < 0.4:
        w.tell("do_stack", a, b, w.between(3, 9), w.between(2, 6))
    elif how < 0.7:
        w.tell("do_hold", a, b)
    else:
        w.tell("do_sweep", a, b)
    if w.room(300):
        aside_two(w, b, a, share=0.3)
    w.tell("thanks", b, a)

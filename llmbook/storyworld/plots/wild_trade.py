"""A stall, one coin apiece."""

from .. import scenes
from ..world import World
from .registry import plot
from .wild_animals import MILD


@plot("w_stall")
def w_stall(w: World) -> None:
    """Somebody sells things for a coin each and gives one away, and that one sells the rest."""
    a = w.child()
    p = w.place("town", "open", avoid=("water",))
    w.tell(w.pick(MILD), a, p)
    s, coins = w.counted("baked") if w.chance(0.5) else w.counted("fruit"), w.counted_kind("coins")
    n = w.between(14, 30)
    w.tell("w_stall", a, s, coins, n)
    scenes.aside(w, a)
    w.paragraph()
    for _ in range(w.between(1, 2)):
        k = w.between(2, 5)
        w.tell("w_sell", a, w.adult(), K=k)
        scenes.aside(w, a, share=0.3)
    w.paragraph()
    b = w.child()
    w.tell("w_no_coin", a, b)
    w.tell("w_give_one", a, b)
    w.tell("w_crier", b, a)
    scenes.feel(w, a, glad=True, share=0.5)
    w.paragraph()
    w.end("end_w_stall", a, b)

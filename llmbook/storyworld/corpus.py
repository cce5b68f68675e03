"""Stories without end: one seed and one number make one story, the same everywhere."""

import zlib
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import Literal

from .plots import all_plots
from .world import Story, Unfit, World

Split = Literal["train", "test"]
HELD_OUT_ONE_IN = 40
SHORT_PLOTS = ("borrow_break_mend", "debt", "fog_home", "guess_jar", "hide_and_seek", "lose_find", "promise", "race",
               "same_thing", "share_out", "storm_carries", "stuck_cart")
_TRIES = 400


def held_out(name: str, thing: str, plot: str) -> bool:
    """Whether this combination belongs to the test stories: a fixed rule, one in 40, the same on every machine."""
    return zlib.crc32(f"{name}|{thing}|{plot}".encode()) % HELD_OUT_ONE_IN == 0


def has_held_out(story: Story) -> bool:
    """Whether a combination of a name, a thing and the main plot of this story is held out from training."""
    return any(held_out(name, thing, story.plots[0]) for name in story.cast for thing in story.things)


def one_story(seed: int, index: int = 0, *, plot: str | None = None, split: Split | None = None,
              short: bool = False, strict: bool = False) -> Story:
    """Story number `index` of a seed. `plot` asks for a kind of plot; `split` keeps to its side of the held-out kinds;
    `short` for a short story, as `stories` has them.

    Raises ValueError if the plot or the split has another name, or no short story has that plot; RuntimeError if no
    fitting story turns up.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"split {split!r} is neither 'train' nor 'test' (nor None, for all stories)")
    names, totals = _weights(short)
    if plot is not None and plot not in names:
        raise ValueError(f"plot {plot!r} is not one of {', '.join(names)}")
    world = World(seed * 4_294_967_311 + index, short=short, strict=strict)
    plots = all_plots_cached()
    for _ in range(_TRIES if split != "test" else 40 * _TRIES):
        name = plot or _draw(names, totals, world.random())
        world.plots.append(name)
        try:
            plots[name].tell(world)
        except Unfit:
            world.clear()
            continue
        if world.fits():
            story = Story(world)
            if split is None or has_held_out(story) == (split == "test"):
                return story
        world.clear()
    raise RuntimeError(f"no story of {plot or 'any plot'} fitted in {_TRIES} tries (seed {seed}, index {index})")


def stories(seed: int, n: int, *, split: Split | None = None, plot: str | None = None, short: bool = False
            ) -> Iterator[Story]:
    """`n` stories of a seed, one after the other. Story i does not depend on n.

    With `split="train"` no story has a held-out combination of a name, a thing and a plot; with `"test"` each has one.
    With `short=True` the stories are those that a small model can master: of the plots of `SHORT_PLOTS`, without side
    scenes, 60 to 170 words, and most kinds of event are told in one of three ways instead of twelve or more.
    """
    for index in range(n):
        yield one_story(seed, index, plot=plot, split=split, short=short)


@cache
def all_plots_cached() -> dict:
    return all_plots()


@cache
def _weights(short: bool) -> tuple[list[str], list[float]]:
    plots = all_plots_cached()
    names = [name for name in plots if not short or name in SHORT_PLOTS]
    return names, list(accumulate(plots[name].weight for name in names))


def _draw(names: list[str], totals: list[float], chance: float) -> str:
    wanted = chance * totals[-1]
    return next(name for name, total in zip(names, totals) if wanted < total)

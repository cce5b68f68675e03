"""What the benchmarks share: a row of the table that `make bench` prints, and how its figures are measured.

Two things compared take turns: `alternate` calls each once a round, in one order and then in the other, so that a
machine that slows down slows both. A row's figures are medians over the rounds, and its ratio is the median of the
rounds' own ratios. A ratio says how many times better ours is, whether the unit is one to have more of (tokens a
second) or less (seconds): above 1 is better, and the floor is the least it may be.

    measured = alternate(rounds, ours=lambda: 60 / seconds(ours), theirs=lambda: 60 / seconds(theirs))
    row = compare("generation, float32", measured["ours"], measured["theirs"], "tokens/s", "transformers", floor=1.35)
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LESS_IS_BETTER = {"s", "ms", "MB", "MiB", "GiB"}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: what was done, with its sizes and number format.
        ours, peer: the figures, in `unit`; peer is None where ours stands alone.
        ratio: how many times better ours is; None where nothing is compared.
        floor: the least that the ratio may be; None where none is promised.
        note: what else a reader should know, or why a figure is missing.
        peer_name: whose figure `peer` is.
    """

    work: str
    ours: float | None
    peer: float | None = None
    ratio: float | None = None
    floor: float | None = None
    unit: str = ""
    note: str = ""
    peer_name: str = ""

    @property
    def held(self) -> bool:
        """Whether the floor holds. One that was promised and not measured does not."""
        return self.floor is None or (self.ratio is not None and self.ratio >= self.floor)


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(rounds: int, **measure: Callable[[], float]) -> dict[str, list[float]]:
    """Call each of `measure` once a round, the order turned round from one round to the next; their results."""
    results: dict[str, list[float]] = {name: [] for name in measure}
    for number in range(rounds):
        names = list(measure)
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(measure[name]())
    return results


def better(ours: float, other: float, unit: str) -> float:
    """How many times better ours is than the other, both in `unit`."""
    high, low = (other, ours) if unit in LESS_IS_BETTER else (ours, other)
    return high / low if low else math.inf


def compare(work: str, ours: Sequence[float], peer: Sequence[float], unit: str, peer_name: str,
            floor: float | None = None, note: str = "") -> Row:
    """The row of two that took turns: round i of the one beside round i of the other."""
    ratio = statistics.median(better(a, b, unit) for a, b in zip(ours, peer, strict=True))
    return Row(work, statistics.median(ours), statistics.median(peer), ratio, floor, unit, note, peer_name)


def against_limit(work: str, values: Sequence[float], limit: float, unit: str, note: str = "") -> Row:
    """The row of a figure that has no peer but a limit of its own, at least or (of seconds) at most so much."""
    median = statistics.median(values)
    return Row(work, median, limit, better(median, limit, unit), 1.0, unit, note, "limit")


def alone(work: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """The row of a figure that is compared with nothing."""
    return Row(work, statistics.median(values), unit=unit, note=note)


def missing(work: str, why: str, floor: float | None = None) -> Row:
    """The row of what could not be measured here. With a floor, that counts as missed."""
    return Row(work, None, floor=floor, note=why)


def figure(value: float | None) -> str:
    """Three or four digits of it."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """A row as the table shows it: work, ours, peer, ratio, floor, remarks."""
    peer = "-" if row.peer is None else f"{figure(row.peer)} {row.peer_name}".rstrip()
    remarks = ["" if row.held else "BELOW", row.note]
    return [row.work, f"{figure(row.ours)} {row.unit}".rstrip(), peer,
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            "-" if row.floor is None else f"{row.floor:.2f}", "  ".join(filter(None, remarks))]


HEADINGS = ["work", "ours", "peer", "ratio", "floor", ""]


def table(rows: Iterable[Row]) -> str:
    """The rows as text in columns, with headings."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    turn = [str.ljust, str.rjust, str.ljust, str.rjust, str.rjust, str.ljust]
    return "\n".join("  ".join(place(cell, width) for place, cell, width in zip(turn, line, widths)).rstrip()
                     for line in lines)


def missed(rows: Iterable[Row]) -> list[Row]:
    """The rows whose floor does not hold."""
    return [row for row in rows if not row.held]

"""What a run found: its rows, and the page and the JSON that are written from them."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import figure

OURS, PLAIN, THEIRS = CONTENDERS = ("llmbook", "nanoGPT-style", "transformers")
LESS_IS_BETTER = {"GiB", "s", "MiB", "waits a step", "waits a token", "difference"}
FAILED, MISSING, SKIPPED = "failed", "missing", "skipped"


@dataclass
class Row:
    """One measurement of those that could make it.

    Args:
        section, work, unit: what was measured, in which unit.
        values: a number for each contender that gave one.
        problems: why another gave none; begins with "failed", "missing" (a package that is not installed) or
            "skipped" (no time, no such device).
        limit: the most that ours may be, where it is checked.
        note: a remark.
    """

    section: str
    work: str
    unit: str = ""
    values: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    limit: float | None = None
    note: str = ""

    @property
    def failures(self) -> list[str]:
        """What went wrong: an error of a contender, or a limit that ours exceeds."""
        found = [f"{name}: {why}" for name, why in self.problems.items() if why.startswith(FAILED)]
        ours = self.values.get(OURS)
        if self.limit is not None and ours is not None and not ours <= self.limit:
            found.append(f"{ours:.4g} {self.unit}, of at most {self.limit:.4g}")
        return found

    def ratio(self, other: str) -> float | None:
        """How many times better ours is than another's; below 1, worse."""
        ours, theirs = self.values.get(OURS), self.values.get(other)
        if not ours or not theirs:
            return None
        return theirs / ours if self.unit in LESS_IS_BETTER else ours / theirs

    def same_as(self, other: "Row") -> bool:
        """Whether two rows are about the same work, whichever sections they come from. One that has no unit yet, since
        nothing was measured, joins any."""
        return self.work == other.work and (self.unit == other.unit or not self.unit or not other.unit)

    def join(self, other: "Row") -> None:
        """Take over what a later row about the same work tells."""
        self.unit = self.unit or other.unit
        self.values.update(other.values)
        self.problems.update(other.problems)
        for name in self.values:
            self.problems.pop(name, None)
        self.limit = other.limit if self.limit is None else self.limit
        self.note = other.note or self.note

    def cells(self) -> list[str]:
        """As the table shows it: work, the contenders, ratio."""
        ratios = [self.ratio(other) for other in CONTENDERS[1:]]
        shown = " · ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        work = f"{self.work}: {self.unit}" if self.unit else self.work
        remarks = [self.note] + ([] if self.limit is None else [f"at most {figure(self.limit)}"])
        return [" ".join([work, *(f"({remark})" for remark in remarks if remark)]),
                *map(self._cell, CONTENDERS), shown if any(ratios) else ""]

    def _cell(self, name: str) -> str:
        if name in self.values:
            over = name == OURS and any(" of at most " in why for why in self.failures)
            return figure(self.values[name]) + (" (too much)" if over else "")
        return FAILED if self.problems.get(name, "").startswith(FAILED) else ""


def add(rows: list[Row], new: Row) -> Row:
    """Put a new row into the table, or into the row of the same work; returns that."""
    for row in rows:
        if row.same_as(new):
            row.join(new)
            return row
    # The units of one work stand together.
    places = [place for place, row in enumerate(rows) if row.work == new.work]
    rows.insert(places[-1] + 1 if places else len(rows), new)
    return new


def as_text(row: Row) -> str:
    """A row as one line of a terminal."""
    work, *cells, ratio = row.cells()
    shown = [f"{name} {cell}" for name, cell in zip(CONTENDERS, cells) if cell]
    shown += [f"{name} {why}" for name, why in row.problems.items() if not why.startswith(FAILED)]
    return "; ".join([work, *shown, *([f"ratio {ratio}"] if ratio else []), *row.failures])


def span(numbers: list[float]) -> str:
    """"1.10", or "0.95 to 1.10"."""
    low, high = f"{min(numbers):.2f}", f"{max(numbers):.2f}"
    return low if low == high else f"{low} to {high}"


def sentences(rows: Iterable[Row]) -> list[str]:
    """What the numbers say: one sentence for each section that compares speeds, one for what is checked."""
    rows, found = list(rows), []
    names = {PLAIN: "the plain loop in the style of nanoGPT", THEIRS: THEIRS}
    for section, title in (("train", "Training"), ("decode", "Decoding"), ("batch", "Batches")):
        speeds = [row for row in rows if row.section == section and row.unit == "tokens/s" and OURS in row.values]
        beside = []
        for other, name in names.items():
            ratios = [ratio for row in speeds if (ratio := row.ratio(other))]
            if ratios:
                count = f"{len(ratios)} comparison{'s' if len(ratios) > 1 else ''}"
                beside.append(f"{span(ratios)} times as fast as {name} ({count})")
        if beside:
            fastest = max(speeds, key=lambda row: row.values[OURS])
            found.append(f"{title}: llmbook is {' and '.join(beside)}. Its highest figure is "
                         f"{figure(fastest.values[OURS])} tokens per second ({fastest.work}).")
    limited = [row for row in rows if row.limit is not None and OURS in row.values]
    if limited:
        kept = sum(not row.failures for row in limited)
        found.append(f"Checked: {kept} of {len(limited)} figures that have a limit keep it.")
    return found


def page(rows: list[Row], about: Mapping[str, Any]) -> str:
    """The page that --out writes."""
    card, ended = about.get("card", "an unknown device"), about.get("minutes")
    lines = ["# On one GPU", ""]
    if about.get("tiny"):
        lines += ["**A trial of the script with tiny models: none of these figures means anything.**", ""]
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    lines += [f"Measured on {card}, {about.get('date', 'date unknown')}, with {versions}, by",
              "`python -m tests.gpu`" + (f", in {ended:.1f} minutes." if ended else ". The run did not end."), ""]
    if "matmul_tflops" in about:
        stated = about.get("stated_tflops")
        share = f", of {stated:.0f} that its maker states" if stated else ""
        lines += ["The card itself: a large product of bfloat16 matrices runs at "
                  f"{figure(about['matmul_tflops'])} TFLOP/s{share};", "a copy within its memory moves "
                  f"{about['copy_gb_s']:,.0f} GB/s, reading and writing counted.", ""]
    lines += [f"- {sentence}" for sentence in sentences(rows)] + [""]
    lines += [f"| work | {' | '.join(CONTENDERS)} | ratio |", "|---|---:|---:|---:|---:|"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row.cells()) + " |" for row in rows if row.values]
    lines += ["", f"The ratio says how many times better llmbook's figure is than {CONTENDERS[1]}'s · "
              f"{CONTENDERS[2]}'s: more tokens, or less memory or time.", ""]
    absent = [f"{row.work}{f' ({name})' if row.values else ''}" for row in rows for name, why in row.problems.items()
              if not why.startswith(FAILED)]
    if absent:
        lines += [f"Not measured here, for want of time, of a package or of a GPU: {'; '.join(dict.fromkeys(absent))}.",
                  ""]
    broken = [f"{row.work}: {why if len(why) <= 120 else why[:117] + '...'}" for row in rows for why in row.failures]
    if broken:
        lines += ["## What failed", "", *(f"- {line}" for line in broken), ""]
    lines += ["## How it was measured", "", *METHOD]
    return "\n".join(lines) + "\n"


METHOD = """\
GPT-2 124M has its published sizes and random weights, no dropout. Ours is trained by `llmbook.training.train`; the
plain loop (`tests/benchmarks/plain_gpt.py`) and the one around transformers' `GPT2LMHeadModel` have the same optimizer
(AdamW in one kernel), clipped gradients, bfloat16 by autocast with float32 weights, fused attention, and batches in
pinned memory that they do not wait for. Under autocast the plain loop's cross-entropy reads logits in bfloat16 and
computes in float32. Compiling and the first steps are left out; a figure is the median of several blocks of steps. The
share of the card's FLOP/s counts 6 operations for each weight in a matrix and each token, and attention in full
(Chowdhery et al., "PaLM" (2022), appendix B).

Decoding is greedy, with weights in bfloat16, from a short prompt; the time of the whole call counts, after one that
warms up, and llmbook and transformers take turns. The share of the bandwidth is the weights' bytes, read once for each
token of a row, over what a copy moves. "Compiled" is `llmbook.compiled.compile_decoding` beside transformers' static
cache. Waits are the operations for which PyTorch's synchronisation debugging says that the host stood still.
""".splitlines()


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows and what is known about the run, from the JSON that `write` left."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**row) for row in found["rows"]], found["about"]


def write(out: Path, rows: list[Row], about: Mapping[str, Any]) -> None:
    """The page, and beside it the same as JSON. A run that is killed leaves whole files."""
    data = json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1)
    for path, text in ((out, page(rows, about)), (out.with_suffix(".json"), data + "\n")):
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)

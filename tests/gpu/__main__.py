"""Measure and check llmbook on one GPU: `python -m tests.gpu`. The package's docstring tells how."""

import os
import sys

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for a GPU must not start CUDA: sections are forked
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import contextlib
import datetime
import importlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.report import CONTENDERS, Row, as_text, read, write
from tests.gpu.supervisor import Section, run_all


def card(bench) -> None:
    """The first section: what is measured on, then its ceilings."""
    import torch

    from tests.gpu import training

    name = torch.cuda.get_device_name() if bench.cuda else f"a CPU ({platform.machine()})"
    bench.about.update(card=name, stated_tflops=training.stated_tflops(name) if bench.cuda else None)
    training.card(bench)


@dataclass(frozen=True)
class Later:
    """A section's function, imported when it runs: a module that cannot be imported fails its own sections only."""

    module: str
    name: str

    def __call__(self, bench) -> None:
        getattr(importlib.import_module(f"tests.gpu.{self.module}"), self.name)(bench)


# With their shares of the time: most of it goes to compiling. What one leaves over, those after it may take.
SECTIONS = [Section("card", card, 4), Section("train", Later("training", "training"), 26),
            Section("waits", Later("checks", "waits"), 9), Section("correct", Later("checks", "correctness"), 9),
            Section("decode", Later("decoding", "decoding"), 28), Section("marked", Later("checks", "marked"), 8),
            Section("batch", Later("decoding", "batching"), 4), Section("load", Later("decoding", "loading"), 3),
            Section("chapters", Later("chapters", "chapters"), 4),
            Section("more", Later("training", "more_training"), 5)]

# What the sections import: done here, it is there in each process that is forked.
BEFORE = ("tests.gpu.training", "tests.gpu.decoding", "tests.gpu.checks", "tests.gpu.chapters",
          "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama", "torch._dynamo")


def versions() -> dict[str, str]:
    """Of what is measured, without touching the GPU."""
    found = {"Python": platform.python_version()}
    for name in BEFORE:
        with contextlib.suppress(Exception):  # the section that needs it will say so
            importlib.import_module(name)
    for name, title in (("torch", "PyTorch"), ("transformers", "transformers")):
        if name in sys.modules:
            found[title] = sys.modules[name].__version__
    return found


def main(arguments: list[str] | None = None, sections: list[Section] = SECTIONS) -> int:
    names = [section.name for section in sections]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"all if none is given: {', '.join(names)}")
    parser.add_argument("--tiny", action="store_true", help="tiny models, in seconds: does the script itself work?")
    parser.add_argument("--out", type=Path, help="write the page there, and JSON beside it")
    parser.add_argument("--minutes", type=float, default=8, help="for all of it together")
    parser.add_argument("--read", type=Path, metavar="JSON", help="measure nothing: write the page of an earlier run")
    options = parser.parse_args(arguments)
    if options.read:
        if not options.out:
            parser.error("--read needs --out: where to write the page")
        write(options.out, *read(options.read))
        return 0
    if unknown := set(options.sections) - set(names):
        parser.error(f"no section {', '.join(sorted(unknown))}: choose among {', '.join(names)}")
    start = time.monotonic()
    about = {"date": f"{datetime.date.today():%d %B %Y}".lstrip("0"), "tiny": options.tiny, "versions": versions()}
    chosen = [section for section in sections if not options.sections or section.name in options.sections]
    if options.sections and "card" in names and chosen[0].name != "card":
        chosen.insert(0, sections[names.index("card")])  # the others use what it finds

    def took(rows: list[Row], newest: Row) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {newest.section}: {as_text(newest)}", flush=True)
        if options.out:
            write(options.out, rows, about)

    minutes = options.minutes - (time.monotonic() - start) / 60
    rows = run_all(chosen, options.tiny, minutes, about, took)
    about["minutes"] = (time.monotonic() - start) / 60
    if options.out:
        write(options.out, rows, about)
    failures = [f"{row.section}, {row.work}: {why}" for row in rows for why in row.failures]
    absent = [f"{row.section}, {row.work}, {name}: {why}" for row in rows for name, why in row.problems.items()
              if not why.startswith("failed")]
    for title, lines in (("not measured", absent), ("failed", failures)):
        if lines:
            print(f"\n{title}:", *(f"  {line}" for line in lines), sep="\n")
    print(f"\n{len(rows)} rows in {about['minutes']:.1f} minutes; {len(failures)} failed; columns "
          f"{', '.join(CONTENDERS)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""tests/gpu, the script for one GPU: all of it runs here with tiny models, and what fails costs no other's rows."""

import json
import os
import subprocess
import sys
import time
import warnings

import pytest
import torch

from tests.gpu import checks, supervisor
from tests.gpu.__main__ import SECTIONS, main
from tests.gpu.bench import Bench
from tests.gpu.report import OURS, PLAIN, THEIRS, Row, add, page, sentences
from tests.gpu.supervisor import Section
from tests.support.repository import ROOT


@pytest.mark.slow
def test_every_section_gives_its_rows_with_tiny_models(tmp_path):
    out = tmp_path / "gpu.md"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.gpu", "--tiny", "--minutes", "5", "--out", str(out)], cwd=ROOT,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    rows = [Row(**row) for row in found["rows"]]
    assert not [why for row in rows for why in row.failures]
    for section in SECTIONS:
        own = [row for row in rows if row.section == section.name]
        assert own, f"section {section.name} gave no row"
        assert not [row for row in own if row.work == f"section {section.name}"], own
    # Each kind of work was measured. Only what a CPU cannot do is missing.
    work = {row.work for row in rows if OURS in row.values}
    for part in ("product of", "bfloat16, 2 x 16, compiled", "not compiled", "batch 3, compiled", "training, float32",
                 "whole logits", "decoding, GPT-2", "decoding, Llama", "losses of 4 steps", "in pieces beside whole",
                 "after saving", "marked gpu", "short prompts of unequal", "one by one", "prompts of 1 and 20",
                 "loading", "the code of chapter"):
        assert any(part in name for name in work), f"{part}: {sorted(work)}"
    why = {text for row in rows for text in row.problems.values()}
    assert all(text.startswith(("missing: the package", "skipped: a CPU")) for text in why), why
    assert PLAIN in next(row for row in rows if row.section == "train").values
    text = out.read_text()
    assert "none of these figures means anything" in text
    assert text.count("\n| ") == 1 + sum(bool(row.values) for row in rows)
    assert "Not measured here" in text and "What failed" not in text
    assert "did not end" not in text


def good(bench):
    bench.send(Row(bench.section, "a", "tokens/s", {OURS: 2.0, PLAIN: 1.0}))
    bench.about["copy_gb_s"] = 5.0


def raises(bench):
    bench.send(Row(bench.section, "b", "tokens/s", {OURS: 3.0}))
    raise ValueError("this one is broken")


def dies(bench):
    bench.send(Row(bench.section, "c", "tokens/s", {OURS: 4.0}))
    os._exit(7)  # as a crash of the driver


def hangs(bench):
    bench.send(Row(bench.section, "d", "tokens/s", {OURS: 5.0}))
    time.sleep(60)


def uses_what_the_first_found(bench):
    bench.compare("e", {OURS: lambda: {"GB/s": bench.about["copy_gb_s"]}, THEIRS: lambda: 1 / 0})


@pytest.mark.skipif(sys.platform != "linux", reason="functions of a test cannot be sent to a new process")
def test_a_section_that_breaks_is_reported_and_loses_no_other_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    monkeypatch.setattr("tests.gpu.__main__.BEFORE", ())  # these import nothing
    sections = [Section("hangs", hangs, 2), Section("good", good, 4), Section("raises", raises, 4),
                Section("dies", dies, 4), Section("last", uses_what_the_first_found, 4)]
    out = tmp_path / "page.md"
    assert main(["--tiny", "--minutes", "0.3", "--out", str(out)], sections) == 1
    rows = {row["work"]: row for row in json.loads(out.with_suffix(".json").read_text())["rows"]}
    assert {name: rows[name]["values"].get(OURS) for name in "abcde"} == {"a": 2.0, "b": 3.0, "c": 4.0, "d": 5.0,
                                                                          "e": 5.0}
    problems = {name: rows[f"section {name}"]["problems"][OURS] for name in ("raises", "dies", "hangs")}
    assert problems["raises"] == "failed: ValueError: this one is broken"
    assert problems["dies"] == "failed: the process ended with 7"
    assert problems["hangs"].startswith("skipped: stopped after ")
    assert rows["e"]["problems"] == {THEIRS: "failed: ZeroDivisionError: division by zero"}
    assert "section good" not in rows and "section last" not in rows
    again = tmp_path / "again.md"
    assert main(["--read", str(out.with_suffix(".json")), "--out", str(again)]) == 0
    assert again.read_text() == out.read_text()
    told = capsys.readouterr().out
    assert "3 failed" in told and "raises, section raises: llmbook: failed: ValueError: this one is broken" in told
    text = out.read_text()
    assert "- section dies: llmbook: failed: the process ended with 7" in text and "| a: tokens/s | 2 | 1 |" in text
    assert "a GPU: section hangs." in text


@pytest.mark.skipif(sys.platform != "linux", reason="functions of a test cannot be sent to a new process")
def test_good_sections_exit_with_zero_and_others_can_be_chosen(capsys, monkeypatch):
    monkeypatch.setattr("tests.gpu.__main__.BEFORE", ())
    sections = [Section("good", good, 1), Section("raises", raises, 1)]
    assert main(["--tiny", "--minutes", "0.5", "good"], sections) == 0
    assert "1 rows" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--tiny", "speed"], sections)
    assert "no section speed: choose among good, raises" in capsys.readouterr().err


def bench_of(seconds: float = 60.0) -> tuple[Bench, list[Row]]:
    rows: list[Row] = []
    return Bench("here", torch.device("cpu"), True, time.monotonic() + seconds, lambda row: add(rows, row)), rows


def test_a_contender_that_cannot_be_measured_leaves_the_others():
    bench, rows = bench_of()

    def no_package():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers.models")

    bench.compare("work", {OURS: lambda: {"tokens/s": 3.0, "GiB": 1.0}, PLAIN: lambda: {}["a"], THEIRS: no_package})
    assert [row.unit for row in rows] == ["tokens/s", "GiB"]
    assert rows[0].problems == {PLAIN: "failed: KeyError: 'a'", THEIRS: "missing: the package transformers"}
    assert rows[0].failures == ["nanoGPT-style: failed: KeyError: 'a'"] and not rows[1].problems
    bench.turns("more", "tokens/s", {OURS: lambda: lambda: 1 / 0, THEIRS: lambda: lambda: 2.0})
    assert rows[2].values == {THEIRS: 2.0} and "ZeroDivisionError" in rows[2].problems[OURS]


def test_what_a_contender_gives_is_sent_at_once_and_put_together():
    sent: list[Row] = []
    bench = Bench("here", torch.device("cpu"), True, time.monotonic() + 60, sent.append)
    known = []  # rows that were sent when the second began

    def second():
        known.extend(sent)
        return {"tokens/s": 4.0}

    bench.compare("work", {OURS: lambda: {"tokens/s": 2.0, "GiB": 1.0}, PLAIN: second})
    assert [(row.unit, row.values) for row in known] == [("tokens/s", {OURS: 2.0}), ("GiB", {OURS: 1.0})]
    table: list[Row] = []
    for row in [Row("before", "work", problems={OURS: "skipped: no time left"}), *sent, Row("here", "other")]:
        add(table, row)
    assert [(row.work, row.unit) for row in table] == [("work", "tokens/s"), ("work", "GiB"), ("other", "")]
    assert table[0].values == {OURS: 2.0, PLAIN: 4.0} and not table[0].problems


@pytest.mark.skipif(sys.platform == "win32", reason="no timers there")
def test_what_takes_too_long_is_skipped():
    bench, rows = bench_of(0.2)
    start = time.monotonic()
    assert bench.attempt(lambda: time.sleep(30)) == (None, "skipped: no time left")
    assert bench.attempt(lambda: 1, least=10) == (None, "skipped: no time left")
    assert time.monotonic() - start < 20


def test_a_limit_that_is_exceeded_fails():
    bench, rows = bench_of()
    bench.check("tokens that differ", "tokens", lambda: 1.0, 0)
    bench.check("loss", "difference", lambda: 1e-6, 1e-5)
    bench.check("loss that is no number", "difference", lambda: float("nan"), 1e-5)
    assert [bool(row.failures) for row in rows] == [True, False, True]
    assert "| tokens that differ: tokens (at most 0) | 1 (too much) |" in page(rows, {})
    assert "Checked: 1 of 3 figures that have a limit keep it." in sentences(rows)


def test_sentences_come_from_the_figures():
    rows = [Row("train", "one", "tokens/s", {OURS: 110.0, PLAIN: 100.0, THEIRS: 55.0}),
            Row("train", "two", "tokens/s", {OURS: 1200.0, PLAIN: 1000.0}),
            Row("train", "two", "GiB", {OURS: 2.0, PLAIN: 3.0}), Row("train", "three", problems={OURS: "missing: x"})]
    assert rows[2].ratio(PLAIN) == 1.5  # of memory, less is better
    assert sentences(rows) == [
        "Training: llmbook is 1.10 to 1.20 times as fast as the plain loop in the style of nanoGPT (2 comparisons) "
        "and 2.00 times as fast as transformers (1 comparison). Its highest figure is 1,200 tokens per second (two)."]


def test_waits_are_counted_by_place(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    with checks.counted_waits() as places:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        torch.cuda.synchronize()
    assert modes == ["warn", "default"] and sorted(places.values()) == [1, 3]
    assert all("test_gpu_script.py" in place for place in places)

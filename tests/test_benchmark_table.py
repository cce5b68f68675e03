"""`make bench`: the table of everything measured side by side, run here on small models."""

import pytest

from llmbook.gpt import GPTConfig
from tests.benchmarks import speed
from tests.benchmarks import table as bench
from tests.benchmarks.rows import Row


def test_a_module_joins_the_table_by_having_rows(tmp_path):
    (tmp_path / "one.py").write_text('"""One.\n\nMore."""\ndef rows(rounds):\n    pass\ndef main():\n    pass\n')
    (tmp_path / "two.py").write_text('"""Two."""\ndef main():\n    pass\n')
    (tmp_path / "helper.py").write_text('"""Helps the others."""\nrows = 3\n')
    (tmp_path / "rows.py").write_text("def rows():\n    pass\n")
    assert bench.modules(tmp_path) == ({"one": "One."}, {"two": "Two."})


def test_every_benchmark_is_in_the_table_or_listed_beside_it():
    with_rows, alone = bench.modules()
    assert "speed" in with_rows and {"classification", "instructions"} <= set(alone)


@pytest.mark.parametrize(("ratio", "status"), [(2.0, 0), (0.9, 1)])
def test_a_floor_that_is_missed_is_the_exit_status(ratio, status, monkeypatch, capsys):
    def rows(rounds):
        return [Row("work", rounds, 1.0, ratio, 1.0, "tokens/s", peer_name="peer")]

    monkeypatch.setattr(speed, "rows", rows)
    assert bench.main(["--only", "speed", "--rounds", "2"]) == status
    told = capsys.readouterr().out
    assert "2 tokens/s  1 peer" in told and f"\n{status} of 1 floors missed" in told


def test_a_module_that_fails_is_a_missed_floor(monkeypatch, capsys):
    monkeypatch.setattr(speed, "rows", lambda rounds: 1 / 0)
    assert bench.main(["--only", "speed"]) == 1
    assert ["all", "of", "speed", "-", "-", "-", "1.00", "BELOW", "failed:", "ZeroDivisionError:"] in [
        line.split()[:10] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("arguments", [["--only", "sped"], ["--rounds", "0"]])
def test_what_is_not_there_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.slow
def test_training_and_generation_are_measured_beside_their_peers(monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(speed, "SIZES", GPTConfig(97, 64, 32, 2, 2, 0.0, qkv_bias=True))
    monkeypatch.setattr(speed, "BATCH", 2)
    monkeypatch.setattr(speed, "TOKENS", 16)
    monkeypatch.setattr(speed, "NEW_TOKENS", 5)
    monkeypatch.setattr(speed, "memory_rows", lambda peers: [Row("memory", 1.0)])  # of processes of their own
    bench.main(["--only", "speed", "--rounds", "2"])
    lines = capsys.readouterr().out.split("\n\n")[-2].splitlines()
    for work, peer, floor in (("training GPT-2 124M, 2 x 16, float32", "transformers", "1.50"),
                              ("training GPT-2 124M, 2 x 16, float32", "nanoGPT-style", "1.10"),
                              ("generation GPT-2 124M, batch 1, float32", "transformers", "1.35"),
                              ("the same after 42 tokens, beside after 4", "after 4", "0.80")):
        row = [line for line in lines if line.startswith(work) and f" {peer} " in line]
        assert len(row) == 1 and floor in row[0].split(), (work, peer, lines)

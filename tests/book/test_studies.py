"""llmbook.book.studies: rows are on the disk at once, and time that is over begins nothing."""

import json

import pytest
import torch

from llmbook.book.studies import STUDENT, KeptRuns, read_study, seconds_option, tell_whether_complete


def test_a_row_is_written_at_once_and_another_study_goes_on_with_it(tmp_path, capsys):
    path = tmp_path / "study.json"
    KeptRuns(path, ("choice", "runs")).keep("runs", {"seed": 0, "long": [1, 2]}, unprinted=["long"])
    assert json.loads(path.read_text()) == {"choice": [], "runs": [{"seed": 0, "long": [1, 2]}]}
    assert capsys.readouterr().out == "{'seed': 0}\n"
    again = KeptRuns(path, ("choice", "runs", "more"))
    again.keep("more", {"seed": 1})
    assert json.loads(path.read_text()) == {"choice": [], "runs": [{"seed": 0, "long": [1, 2]}], "more": [{"seed": 1}]}


def test_time_that_is_over_begins_nothing_and_is_said(tmp_path, capsys):
    KeptRuns(tmp_path / "study.json", ("runs",)).wait()
    with pytest.raises(TimeoutError):
        KeptRuns(tmp_path / "study.json", ("runs",), seconds=-1).wait()
    tell_whether_complete(KeptRuns(tmp_path / "study.json", ("runs",), seconds=-1).wait)
    tell_whether_complete(KeptRuns(tmp_path / "study.json", ("runs",)).wait)
    assert capsys.readouterr().out == "not complete: the same command goes on\ncomplete\n"


def test_the_option_is_no_limit_unless_it_is_given():
    assert seconds_option("about").parse_args([]).seconds == float("inf")
    assert seconds_option("about").parse_args(["--seconds", "3"]).seconds == 3


def test_a_stored_study_is_read_and_a_missing_one_names_its_command():
    assert set(read_study("mixers.json", "python tools/mixers.py")) >= {"recall", "stories"}
    with pytest.raises(FileNotFoundError, match=r"none\.json is missing: make it with `python tools/none\.py`"):
        read_study("none.json", "python tools/none.py")


def test_the_factors_of_intervals_are_students():
    for number, factor in STUDENT.items():
        density = torch.distributions.StudentT(torch.tensor(number - 1.0, dtype=torch.float64))

        def within(edge, density=density):
            places = torch.linspace(-edge, edge, 100_001, dtype=torch.float64)
            return torch.trapezoid(density.log_prob(places).exp(), places)

        assert within(factor - 0.0051) < 0.95 < within(factor + 0.0051), number  # to two decimals

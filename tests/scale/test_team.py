"""Several processes that train one model: the same result as one, and what happens when one of them is lost."""

import json
import shutil
import signal
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from llmbook.files import is_first
from llmbook.scale.checkpoint_folder import CheckpointFolder
from llmbook.scale.checkpoints import Checkpoints
from llmbook.scale.team import Team
from llmbook.training import load_model, next_token_loss, save_model, train
from tests.support import training_script as script
from tests.support.training_script import forks, records, team_checkpoints, team_config, team_loader, team_model

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and needs gloo"), pytest.mark.team]


def alone(checkpoints=None, **changes):
    """One process: (records, model)."""
    model = team_model()
    history = train(model, team_loader(), next_token_loss, team_config(**changes), script.team_validation(),
                    checkpoints)
    return records(history), model


def close(first: tuple, second: tuple) -> None:
    """Histories and weights, to 1e-5."""
    assert len(first[0]) == len(second[0])
    for one, other in zip(first[0], second[0]):
        assert one.keys() == other.keys()
        assert all(other[name] == pytest.approx(value, abs=1e-5, rel=1e-5) for name, value in one.items()), one
    mine, others = first[1].state_dict(), second[1].state_dict()
    assert mine.keys() == others.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], others[name], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One start of two processes for many tests: the folder, and each one's report."""
    folder = tmp_path_factory.mktemp("together")
    alone(team_checkpoints(folder / "for-ddp"), steps=6)
    shutil.copytree(folder / "for-ddp", folder / "for-fsdp")
    team = script.pair(script.all_of_a_team, folder, out=str(folder))
    codes = [forks().wait(process) for process in team]
    printed = [(folder / f"printed-{rank}").read_text() for rank in (0, 1)]
    assert codes == [0, 0], "\n".join(printed)
    reports = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, reports=reports, printed=printed)


def result(together, name: str) -> tuple:
    return together.reports[0][name]["records"], load_model(together.folder / name)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_compute_what_one_does(together, way, batches):
    """Losses, evaluations, gradient norms, weights; from other first weights in process 1, with odd batches."""
    name = f"{way}-{batches}"
    expected = alone(accumulation_steps=batches)
    close(result(together, name), expected)
    close((together.reports[1][name]["records"], expected[1]), expected)  # process 1 knows them too
    assert expected[0][0]["examples"] == (7 if batches == 1 else 14)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_gradients_are_exchanged_once_a_step(together, way):
    one, two = (together.reports[0][f"{way}-{batches}"]["exchanges"] for batches in (1, 2))
    assert one == two and one % 10 == 0 and one >= 10


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_only_process_0_prints_and_saves(together, way):
    first, second = (report[f"{way}-1"] for report in together.reports)
    assert first["models"] == 1 and first["told"] == 10
    assert "models" not in second and second["told"] == 0
    assert "10/10" in together.printed[0] and not together.printed[1].strip()
    first, second = (report[f"{way}-begins"] for report in together.reports)
    assert first["parts"] == 2 and second.get("parts", 0) == (2 if way == "fsdp" else 0)
    newest = CheckpointFolder(together.folder / f"from-{way}").found()[-1].path
    assert len([*newest.glob("part-*")]) == (2 if way == "fsdp" else 1)


def test_checkpoints_of_one_process_go_on_in_two(together):
    expected = alone()
    for way in ("ddp", "fsdp"):
        assert together.reports[0][f"one-then-{way}"]["told"] == 4  # steps 7 to 10
        close(result(together, f"one-then-{way}"), expected)


def test_checkpoints_of_two_processes_go_on_in_one_and_in_two(together):
    expected = alone()
    assert together.reports[0]["fsdp-then-fsdp"]["told"] == 4
    close(result(together, "fsdp-then-fsdp"), expected)
    for way in ("ddp", "fsdp"):
        folder = together.folder / f"again-{way}"
        shutil.copytree(together.folder / f"from-{way}", folder)
        for checkpoint in CheckpointFolder(folder).found()[:-1]:
            shutil.rmtree(checkpoint.path)  # of fsdp the newer ones are of the run that went on
        step = CheckpointFolder(folder).found()[0].step
        loaded, told = team_model(seed=5), []
        assert Checkpoints(folder).load(loaded) == step
        model = team_model(seed=6)
        history = train(model, team_loader(), next_token_loss, team_config(), script.team_validation(),
                        team_checkpoints(folder), told.append)
        assert told[0]["step"] == step + 1 and step < 10
        close((records(history), model), expected)


def test_a_missing_part_is_noticed(together, tmp_path):
    shutil.copytree(together.folder / "from-fsdp", tmp_path / "copy")
    for checkpoint in CheckpointFolder(tmp_path / "copy").found():
        (checkpoint.path / "part-1-of-2.safetensors").unlink()
    with pytest.warns(UserWarning, match="part-1-of-2.safetensors is missing"), pytest.raises(ValueError, match="none"):
        Checkpoints(tmp_path / "copy").newest()


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("task", script.TASKS)
def test_unequal_counts_of_targets_weigh_as_in_one_process(together, way, task):
    make, batches, loss = script.TASKS[task]
    model = make(0)
    expected = records(train(model, batches(), loss, team_config(4, accumulation_steps=2), batches()))
    whole = make(0)  # and as one large batch: a step of one part, as wide as two
    for rank, report in enumerate(together.reports):
        found = report[f"{way}-{task}"]
        assert [step.keys() for step in found] == [step.keys() for step in expected] and "val_loss" in found[-1]
        for one, other in zip(expected, found):
            assert all(other[name] == pytest.approx(value, abs=1e-6, rel=1e-6) for name, value in one.items()), task
        weights = load_file(together.folder / f"{way}-{task}-{rank}.safetensors")
        assert weights.keys() == {name for name, _ in whole.named_parameters()}
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(weights[name], parameter.detach(), rtol=0, atol=2e-5)  # AdamW divides by itself


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_each_process_has_its_random_state_again(together, way):
    first, second = (report[f"{way}-random"] for report in together.reports)
    for found in (first, second):
        assert found["records"] and found["weights"] and found["states"] == 2 and found["different"]
    assert first["drew"] != second["drew"]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("layout", ["llmbook", "huggingface"])
def test_a_shared_model_is_saved_once_and_whole(together, tmp_path, way, layout):
    save_model(team_model(), tmp_path / "alone", layout)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    found = {path.name: path.read_bytes() for path in (together.folder / f"{way}-{layout}").iterdir()}
    assert found == expected
    counts = [report[f"{way}-{layout}"] for report in together.reports]
    assert counts == [1, 0] or layout == "huggingface"


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_signal_to_one_process_ends_all_after_the_same_step(together, way):
    first, second = (report[f"{way}-signal"] for report in together.reports)
    assert first["interrupted"] and second["interrupted"] and first["steps"] == second["steps"] == 3
    assert first["saved"] == 3 and Checkpoints(together.folder / f"signal-{way}").newest().name == "step-00000003"


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_what_cannot_be_divided_says_what_to_do(together, way):
    for report in together.reports:
        assert report[f"{way}-small"] == ("a batch of 1 cannot be split among 2 processes: raise batch_size, or leave "
                                          "out the last batch (drop_last)")
        for case in ("unseeded", "later"):  # at the first batch, or where they have come apart since
            assert report[f"{way}-{case}"] == "the 2 processes got different batches: give the loader a seed"


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_what_process_0_cannot_read_ends_all_at_once(together, way):
    first, second = (report[f"{way}-damaged"] for report in together.reports)
    assert "none of the" in first and "whole" in first and "process 0" in second


@pytest.mark.parametrize("way, dies, how", [("ddp", 1, signal.SIGKILL), ("ddp", 0, signal.SIGKILL),
                                            ("fsdp", 1, signal.SIGKILL),
                                            pytest.param("ddp", 1, signal.SIGSTOP, marks=pytest.mark.slow)])
def test_who_loses_another_says_so_at_once(tmp_path, way, dies, how):
    team = script.pair(script.waits_for_another, tmp_path, out=str(tmp_path / "out"), way=way, dies=dies, how=int(how))
    other = 1 - dies
    try:
        message, cause, ended = script.wait_for(tmp_path / f"out-{other}.json")
        assert f"process {other} waited in vain for another of the 2, which has ended or hangs" in message
        assert "torchrun --max-restarts" in message and cause != "None"
        assert ended - script.wait_for(tmp_path / f"out-{dies}.fourth") < 50  # and not after ten minutes
    finally:
        forks().wait(team[other], 5)
        forks().wait(team[dies], 0)


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on(tmp_path):
    done = script.torchrun(script.a_team_that_loses_one, tmp_path, restarts=1)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "result.json").read_text())
    assert not told["first"] and told["told"] in (6, 8)  # from step 4, or 2 if 4 was not on the disk yet
    model = team_model()
    history = train(model, team_loader(), next_token_loss, team_config())
    close((told["records"], load_model(tmp_path / "model")), (records(history), model))


@pytest.mark.slow
def test_a_team_may_compile(tmp_path):
    team = script.pair(script.a_compiled_team, tmp_path, out=str(tmp_path))
    assert [forks().wait(process) for process in team] == [0, 0], (tmp_path / "printed-0").read_text()
    expected = alone(steps=6, accumulation_steps=2)
    for rank in (0, 1):
        report = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        for way in ("ddp", "fsdp"):
            close((report[way], load_model(tmp_path / way)), expected)


def test_one_process_is_no_team(tmp_path, monkeypatch):
    for size in (None, "1"):  # alone, and under torchrun with one process
        if size:
            monkeypatch.setenv("WORLD_SIZE", size)
            monkeypatch.setenv("RANK", "0")
        for way in ("ddp", "fsdp"):
            team = Team("cpu", way)
            assert (team.size, team.rank, team.leads, team.sharded) == (1, 0, True, False)
            assert team.share(team_model(), next_token_loss) is next_token_loss
            assert team.gather([1.5, 2]) == [[1.5, 2]] and team.sum(3.0) == 3.0 and team.gather_bytes(b"x") == [b"x"]
            history = train(team_model(), team_loader(), next_token_loss, team_config(1), team=team)
            assert len(history.steps) == 1
    assert not dist.is_initialized() and is_first()
    save_model(team_model(), tmp_path / "model")
    assert load_model(tmp_path / "model", "cpu").config == team_model().config


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="parallel is 'x': choose one of ddp, fsdp"):
        Team("cpu", "x")


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"},
                                       {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}])
def test_a_rank_without_its_team_does_not_wait_for_ever(monkeypatch, variables):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="RANK is .* WORLD_SIZE is .*torchrun") as error:
        Team("cpu")
    assert "\n" not in str(error.value) and all(value in str(error.value) for value in variables.values())


def test_a_team_that_does_not_come_together_says_so(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="process 1 waited in vain for another of the 2"):
        Team("cpu", timeout=1)
    assert not dist.is_initialized()


def test_other_errors_are_left_as_they_are():
    def broken(model, *batch):
        raise RuntimeError("the gloo of mat1 and mat2: connection timed out")  # not what Gloo's own look like

    with pytest.raises(RuntimeError, match="^the gloo of mat1"):
        train(team_model(), team_loader(), broken, team_config(), team=Team("cpu"))
    team = Team("cpu")
    team.size = 2  # as if there were another
    with pytest.raises(RuntimeError, match="^the gloo of mat1"), team._lost_explained():
        broken(None)

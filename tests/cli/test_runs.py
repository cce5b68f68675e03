"""The command: runs."""



from llmbook.book.corpora import data_folder
from tests.cli.helpers import STORY, pretrain, rows, tree


def test_a_finished_run_is_left_alone(place, call):
    code, out, err = pretrain(call)
    assert code == 0, err
    losses = [float(row["val_loss"]) for row in rows("out/log.csv") if row["val_loss"]]
    assert len(losses) == 2 and losses[1] < losses[0]
    before = tree(place)
    code, out, _ = pretrain(call)
    assert (code, out) == (0, "out is complete: 4 steps; the model is in out/model\n")
    assert tree(place) == before
    code, out, err = pretrain(call, "--learning-rate", 1e-3)
    assert (code, out) == (1, "")
    assert "out holds a run whose training.learning_rate is 0.005, not 0.001: choose another --out" in err
    assert tree(place) == before
    assert pretrain(call, "--device", "cuda", "--set", "training.progress=false")[1].startswith("out is complete")


def test_what_may_change_lets_a_run_go_on(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    code, out, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 6)
    assert code == 0, err
    assert "going on after step 4, from a checkpoint" in out
    assert [row["step"] for row in rows("out/log.csv")] == list("123456")
    assert pretrain(call, "--max-steps", 6)[1].startswith("out is complete: 6 steps")


def test_a_folder_with_other_files_is_refused(place, call):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    before = tree(place)
    for arguments in (["pretrain", "run.toml"], ["finetune", "--data", data_folder() / "instructions.json"]):
        code, _, err = call(*arguments, "--out", "mine")
        assert (code, err) == (1, "llmbook: mine exists and is no run of llmbook: choose another --out\n")
    assert tree(place) == before


def test_a_damaged_note_is_named(place, call):
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"settings": ')
    assert "llmbook: out/run.json is damaged (" in pretrain(call)[2]


def test_a_changed_text_is_noticed(place, call):
    assert pretrain(call, "--set", 'checkpoints.allow=["max_steps"]')[0] == 0
    (place / "story.txt").write_text(STORY + "The end.")
    code, _, err = pretrain(call, "--set", 'checkpoints.allow=["max_steps"]', "--max-steps", 5)
    assert code == 1 and "out holds a run on other content of data.train, text 1" in err and "another --out" in err

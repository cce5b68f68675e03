"""The program around the commands: help, usage, errors, exit codes and interruptions."""

import os
import subprocess
import sys

import pytest

import llmbook
from llmbook.cli import models
from llmbook.cli.example import EXAMPLE
from tests.cli.helpers import COMMANDS, start, tree
from tests.support.repository import ROOT


def test_help_is_instant_and_shows_an_example():
    code = ("import sys; before = set(sys.modules)\n"
            "import llmbook.cli.main as c\n"
            f"for name in {COMMANDS}: print(c.main([name, '--help']))\n"
            "print(c.main(['--help']), c.main(['frob']), c.main(['pretrain', '--example']))\n"
            "print(c.main([]), c.main(['--version']), c.main(['generate', 'x', '--top-k', 'y']))\n"
            "slow = {'torch', 'numpy', 'tiktoken', 'tqdm', 'pydantic', 'prompt_toolkit', 'pandas', 'filelock'}\n"
            "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
            "new = set(sys.modules) - before\n"
            "assert len(new) < 150, sorted(new)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"example: llmbook {name} " in done.stdout
    assert EXAMPLE in done.stdout


def test_the_command_alone_prints_its_help_and_its_version(call):
    code, out, err = call()
    assert (code, err) == (0, "") and "usage: llmbook" in out and "python -m llmbook" in out
    code, out, err = call("--version")
    assert (code, out, err) == (0, f"llmbook {llmbook.__version__}\n", "")


@pytest.mark.parametrize("where", ["llmbook.cli.program", "torch", pytest.param("pydantic", marks=pytest.mark.slow)])
def test_ctrl_c_while_modules_are_imported_is_one_line(where):
    """The signal comes at one known import, so that no test waits for the right moment."""
    code = ("import builtins, os, signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was ignored\n"
            "real = builtins.__import__\n"
            "def importing(name, *rest):\n"
            "    level = rest[3] if len(rest) > 3 else 0\n"
            f"    if name == {where!r} or (level and name == {where.rpartition('.')[2]!r}):\n"
            "        builtins.__import__ = real\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "    return real(name, *rest)\n"
            "from llmbook.cli.main import main\n"
            "builtins.__import__ = importing\n"
            "sys.exit(main(['pretrain', 'run.toml']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "llmbook: interrupted\n")


def test_ctrl_c_inside_the_import_of_a_module_that_hides_it(tmp_path):
    """Some modules turn whatever happens while they are loaded into an ImportError of their own."""
    (tmp_path / "torch.py").write_text("import os, signal\n"
                                       "try:\n"
                                       "    os.kill(os.getpid(), signal.SIGINT)\n"
                                       "except BaseException:\n"
                                       "    raise ImportError('something else')\n")
    code = ("import signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from llmbook.cli.main import main\n"
            "sys.exit(main(['generate', 'x']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "llmbook: interrupted\n")


def test_debug_shows_where_an_error_comes_from_and_a_surprise_its_type(place, call, monkeypatch):
    code, _, err = call("generate", "--model", "gone", "x", "--debug")
    assert code == 1 and "Traceback" in err and err.splitlines()[-1].startswith("llmbook: gone does not exist")
    monkeypatch.setattr(models, "find_model", lambda name: 1 / 0 if name == "a" else {}["key"])
    assert call("generate", "--model", "b", "x")[2] == "llmbook: KeyError: 'key': --debug shows where it comes from\n"


def test_interruptions_and_closed_pipes_end_quietly(place, call, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "find_model", interrupt)
    assert call("generate", "--model", "x", "x") == (130, "", "llmbook: interrupted\n")


@pytest.mark.slow
def test_as_a_program_it_ends_with_the_exit_code_and_bears_a_closed_pipe(chat_model):
    wrong = start("pretrain", "none.toml")
    out, err = wrong.communicate()
    assert (wrong.returncode, out) == (2, "") and err.startswith("llmbook: none.toml does not exist")
    long = start("generate", "--model", str(chat_model), "x", "--max-new-tokens", "100000", "--temperature", "2")
    assert long.stdout.read(1) == "x"
    long.stdout.close()
    assert long.stderr.read() == "" and long.wait(30) == 1


@pytest.mark.parametrize("arguments, message", [
    (["pretrain"], "give a file of settings: `llmbook pretrain --example > run.toml` writes one that runs"),
    (["pretrain", "none.toml"], "none.toml does not exist: `llmbook pretrain --example > none.toml` writes one"),
    (["pretrain", "run.toml"], "run.toml: out is missing: add it"),
    (["pretrain", "story.txt"], "story.txt cannot be read as TOML ("),
    (["pretrain", "run.toml", "--set", "training.max_step=3"],
     "--set training.max_step: [training] max_step is not known: did you mean 'max_steps'?"),
    (["pretrain", "run.toml", "--set", "max_steps"], "--set max_steps: write --set section.key=value"),
    (["pretrain", "run.toml", "--set", "training.max_steps=many"], "[training] max_steps is 'many': it must be a"),
    (["pretrain", "run.toml", "--max-steps", "0"], "--max-steps: [training] max_steps is 0: it must be"),
    (["pretrain", "run.toml", "--max-steps", "x"], "argument --max-steps: 'x' must be a whole number (see llmbook pre"),
    (["frob"], "invalid choice: 'frob'"),
    (["generate"], "the following arguments are required: prompt"),
    (["finetune", "--data", "x"], "--out is missing: add it"),
    (["finetune", "--data", "x", "--out", "y", "--set", "model.d_model=3"], "--set model.d_model: no section [model]"),
    (["finetune", "--data", "x", "--out", "y", "--validation", "1.5"], "--validation is 1.5: a share must be above 0"),
    (["finetune", "--data", "x", "--out", "y", "--learning-rate", "-1"], "--learning-rate: [training] learning_rate"),
])
def test_wrong_usage_is_named_in_one_line(place, call, arguments, message):
    before = tree(place)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert tree(place) == before


@pytest.mark.parametrize("arguments, message", [
    (["pretrain", "run.toml", "--out", "o", "--set", "data.train=gone"], "--set data.train: [data] train: gone does "
     "not exist: give a text file, a folder, or stories or short-stories or python-documentation or twenty-in-hand"),
    (["pretrain", "run.toml", "--out", "o", "--set", "data.tokenizer=gpt5"], "no tokenizer named 'gpt5'"),
    (["tokenize", "run.toml", "t", "--tokenizer", "tokenizer.json"], "run.toml is not of a known kind"),
    (["tokenize", "gone", "t"], "gone does not exist"),
    (["generate", "--model", "gone", "x"], "gone does not exist: give a .gguf file, a Hugging Face folder"),
    (["finetune", "--data", "gone.json", "--out", "o"], "gone.json: No such file or directory"),
    (["finetune", "--data", "story.txt", "--out", "o"], "story.txt, line 1 is not JSON"),
])
def test_work_that_fails_says_why_in_one_line(place, call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert not (place / "o").exists()

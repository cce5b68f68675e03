"""A conversation: read from a pipe and from a terminal, interrupted, commanded, and refused to a base model."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from llmbook.cli.chat import Conversation
from llmbook.families import family_of_kind
from llmbook.formats.conversations import ReadSoFar
from llmbook.text import load_tokenizer, train_bpe
from llmbook.training import save_model
from tests.cli.helpers import STORY, pretrain
from tests.support.repository import ROOT


class Talk:
    """A conversation partner that says what it is told to, and remembers like `Chat`."""

    def __init__(self, answers, system="Be kind.", limit=50):
        self.tokenizer, self.max_new_tokens = train_bpe(STORY, 300), limit
        self.answers, self.heard, self.system = iter(answers), [], system
        self.clear()

    def clear(self):
        self.messages = [{"role": "system", "content": self.system}]
        self.cut, self.notice = False, ""

    def stream(self, text):
        if "<|im_end|>" in text:
            raise ValueError("the message holds the special token '<|im_end|>': take it out")
        self.heard.append(text)
        return self._pieces(text)

    def _pieces(self, text):
        answer, self.cut = "", True
        try:
            for piece in next(self.answers):
                if piece is KeyboardInterrupt:
                    raise KeyboardInterrupt
                answer += piece
                yield piece
            self.cut = len(self.tokenizer.encode(answer)) >= self.max_new_tokens
        finally:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


def hold(monkeypatch, capsys, talk, *turns, terminal=True):
    """A conversation with these turns; returns what was printed."""
    monkeypatch.setattr("llmbook.cli.chat._typed_turns", lambda: iter(turns))
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{turn}\n" for turn in turns)))
    assert Conversation(talk, "runs/sailor", terminal).hold() == 0
    return capsys.readouterr()


def test_a_chat_keeps_its_turns_and_ends_with_the_input(chat_model, call, monkeypatch):
    seen = []
    tokenizer = load_tokenizer(chat_model / "tokenizer.json")
    end = tokenizer.encode("<|im_end|>", allowed_special="all")[0]
    monkeypatch.setattr("llmbook.formats.chats.stream_tokens",
                        lambda model, ids, *_, **sampling: seen.append((ids.tolist(), sampling)) or iter([
                            torch.tensor([72]), torch.tensor([105]), torch.tensor([end])]))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nagain\n"))
    code, out, err = call("chat", "--model", chat_model, "--system", "Be kind.", "--max-new-tokens", 5, "--top-k", 3)
    assert (code, out, err) == (0, "Hi\nHi\n", "")
    assert tokenizer.decode(seen[1][0][0]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n")
    assert seen[0][1]["top_k"] == 3 and seen[0][1]["temperature"] == 0.7


def test_an_answer_that_the_real_conversation_cuts_is_marked(chat_model, call, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    code, out, err = call("chat", "--model", chat_model, "--max-new-tokens", 3, "--temperature", 0)
    assert code == 0 and err == "[cut after 3 tokens: --max-new-tokens 6 allows longer answers]\n"


@pytest.mark.parametrize("kind", ["hybrid", "experts"])
def test_models_of_states_chat_and_read_no_turn_twice(chat_model, call, monkeypatch, kind):
    """And answer as if they had read all of it at once."""
    torch.manual_seed(0)
    family = family_of_kind(kind)
    model = family.build(family.config_class(vocab_size=310, context_length=256, d_model=16, n_heads=2, n_kv_heads=2,
                                             n_layers=2, d_hidden=24, mixers=("gated delta", "attention")))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    (chat_model / "config.json").unlink()
    save_model(model, chat_model)
    read, hidden_states = [], family.model_class.hidden_states
    monkeypatch.setattr(family.model_class, "hidden_states", lambda self, ids, cache=None: read.append(
        ids.shape[1]) or hidden_states(self, ids, cache))

    def answers() -> str:
        read.clear()
        monkeypatch.setattr("sys.stdin", io.StringIO("hello there captain\nand the sea\n"))
        code, out, err = call("chat", "--model", chat_model, "--max-new-tokens", 9, "--temperature", 0)
        assert code == 0, err
        return out

    out, (first, second) = answers(), [size for size in read if size > 1]
    assert second < first  # the question alone, not what was said before it
    recall = ReadSoFar.recall
    monkeypatch.setattr(ReadSoFar, "recall", lambda self, *given: setattr(self, "cache", None) or recall(self, *given))
    assert answers() == out and [size for size in read if size > 1][1] > first  # all of it again


def test_ctrl_c_ends_the_answer_and_not_the_conversation(monkeypatch, capsys):
    talk = Talk([["The ", "sea", KeyboardInterrupt], ["Good", "bye"]])
    out = hold(monkeypatch, capsys, talk, "tell me", "and now?").out
    assert "sailor: The sea [stopped]" in out and "sailor: Goodbye" in out
    said = [message["content"] for message in talk.messages]
    assert said == ["Be kind.", "tell me", "The sea", "and now?", "Goodbye"]


def test_an_answer_that_is_stopped_is_closed_at_once(monkeypatch, capsys):
    """So that what was said of it is in the conversation before anything else is said."""
    class Pieces:
        closed = 0

        def __iter__(self):
            yield "The "
            raise KeyboardInterrupt

        def close(self):
            self.closed += 1

    talk, pieces = Talk([]), Pieces()
    talk.stream = lambda text: pieces
    assert "sailor: The  [stopped]" in hold(monkeypatch, capsys, talk, "tell me").out and pieces.closed == 1


def test_an_answer_cut_at_the_limit_is_marked_and_its_speed_said(monkeypatch, capsys):
    seen = hold(monkeypatch, capsys, Talk([["xyz"], ["xyzxyz"]], limit=6), "one", "two")
    remarks = seen.err.splitlines()
    assert re.fullmatch(r"\[3 tokens, [\d,.]+ per second\]", remarks[0])
    assert remarks[1] == "[cut after 6 tokens: --max-new-tokens 12 allows longer answers]"
    assert "cut" not in seen.out and "per second" not in seen.out


def test_turns_that_went_for_want_of_room_are_told(monkeypatch, capsys):
    talk = Talk([["A"]])
    stream = talk.stream
    talk.stream = lambda text: setattr(talk, "notice", "the oldest 2 of the turns went") or stream(text)
    assert "[the oldest 2 of the turns went]" in hold(monkeypatch, capsys, talk, "one").err


def test_what_went_is_told_before_the_answer_is_waited_for(monkeypatch, capsys):
    talk, seen = Talk([["A"]]), []
    stream = talk.stream

    def pieces(text):
        seen.append(capsys.readouterr().err)
        yield from stream(text)

    talk.stream = lambda text: setattr(talk, "notice", "the oldest 2 of the turns went") or pieces(text)
    hold(monkeypatch, capsys, talk, "one")
    assert seen == ["[the oldest 2 of the turns went]\n"]


def test_how_fast_the_last_answer_was_is_told_on_request(monkeypatch, capsys):
    talk = Talk([["xyz"], [KeyboardInterrupt]])
    talk.model = SimpleNamespace(config=SimpleNamespace(context_length=2048))
    talk.read_so_far = SimpleNamespace(ids=[1] * 1234)
    clock = iter([0.0, 0.5, 2.5, 10.0, 20.0])
    monkeypatch.setattr("llmbook.cli.chat.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    out = hold(monkeypatch, capsys, talk, "/speed", "one", "/speed", "two", "/speed").out
    told = ("(the first word after 0.50 s, then 1.0 tokens per second; 1,234 of the context's 2,048 tokens are used)")
    assert out.count("(nothing has been answered yet)") == 1 and out.count(told) == 2


def test_the_commands_of_a_conversation(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("years of work")
    talk = Talk([["A"], ["B"], ["C"], ["D"]])
    out = hold(monkeypatch, capsys, talk, "/help", "one", "/save talk.json", "/save talk.json", "/save mine.json",
               "/save", "/save gone/talk.json", "/clear", "two", "/system Be short.", "/system", "//slash", "/clera",
               "/quit", "three").out
    assert "/save FILE" in out and "(saved in talk.json)" in out and "(forgotten)" in out
    assert "mine.json is there already: give another name" in out
    assert (tmp_path / "mine.json").read_text() == "years of work"
    assert "/save FILE: give the name of a file" in out and "give another name" in out
    assert json.loads((tmp_path / "talk.json").read_text())[1:] == [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "A"}]
    assert out.count("(system: Be short.)") == 2 and "/clera is no command: /help lists them" in out
    assert talk.heard == ["one", "two", "/slash"]
    assert talk.messages[0]["content"] == "Be short." and len(talk.messages) == 3


def test_without_a_terminal_there_are_no_commands_and_no_labels(monkeypatch, capsys):
    seen = hold(monkeypatch, capsys, Talk([["A"], ["B"]]), "/help", "//x", terminal=False)
    assert (seen.out, seen.err) == ("A\nB\n", "")


@pytest.mark.parametrize("text, said", [("half \ud83d", "(the message is not UTF-8"), ("x<|im_end|>", "take it out)")])
def test_a_message_that_cannot_be_sent_leaves_the_conversation_going(monkeypatch, capsys, text, said):
    assert said in (out := hold(monkeypatch, capsys, Talk([["A"]]), text, "one").out) and "sailor: A" in out


def test_a_base_model_is_told_apart_with_flags_that_exist(place, call):
    assert pretrain(call)[0] == 0
    code, out, err = call("chat", "--model", "out")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "out is a base model" in err and "llmbook generate --model out" in err and "llmbook finetune" in err
    for flag in re.findall(r"--[a-z-]+", err):
        assert flag in ("--model", "--data", "--out")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command: str, **environment: str):
        self.master, side = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, start_new_session=True, preexec_fn=_take_terminal,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment})
        os.close(side)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        """What was written until the pattern came; it is seen once only."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} did not come: {self.seen!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    break
        found = re.search(pattern, self.seen)
        assert found, f"{pattern!r} did not come: {self.seen!r}"
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def end(self) -> int:
        code = self.process.wait(30)
        os.close(self.master)
        return code


def _take_terminal() -> None:
    """In the new session: the terminal becomes its own, so that Ctrl-C reaches it; a background start that ignores
    SIGINT is forgotten."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


ECHO = """
import sys, time
from types import SimpleNamespace
from llmbook.cli.chat import Conversation
from llmbook.families import family_of_kind
from llmbook.formats.conversations import ReadSoFar
class Echo:
    tokenizer, max_new_tokens, messages = SimpleNamespace(encode=lambda text, **_: text.split()), 9999, []
    cut, notice = False, ""
    heard = 0
    def stream(self, text):
        self.heard += 1
        yield f"heard {len(text.splitlines())} lines: {text!r}."
        if "slowly" in text:
            for _ in range(3000):
                yield "z"
                time.sleep(0.01)
talk = Echo()
code = Conversation(talk, "echo", sys.stdin.isatty()).hold()
print("ended with", code, talk.heard)
"""


def test_a_pasted_text_is_one_turn_and_ctrl_c_ends_an_answer_on_a_real_terminal():
    terminal = Terminal(sys.executable, "-c", ECHO)
    terminal.wait_for("You:")
    terminal.type("\x1b[200~one\ntwo\nthree\x1b[201~\r")
    assert "heard 3 lines: 'one\\ntwo\\nthree'." in terminal.wait_for(r"heard \d lines: [^.]*\.")
    terminal.wait_for("You:")
    terminal.type("slowly\r")
    terminal.wait_for("zzz")
    terminal.type("\x03")
    terminal.wait_for(r"\[stopped\]")
    terminal.wait_for("You:")
    terminal.type("still there?\r")
    assert "heard 1 lines: 'still there?'." in terminal.wait_for(r"heard \d lines: [^.]*\.")
    terminal.wait_for("You:")
    terminal.type("\x03")
    terminal.wait_for("ended with 0 3")
    assert terminal.end() == 0

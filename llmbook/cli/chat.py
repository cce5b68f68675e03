"""`llmbook chat`: talk with a model that was trained to."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UsageError
from .text_input import check_text, input_lines

__all__ = ["Conversation", "run"]

HELP = """\
/help          these lines
/clear         forget the conversation; the model begins anew
/system TEXT   tell the model how to answer, from now on, and begin anew; without TEXT: show it
/save FILE     write the conversation to FILE, as JSON
/speed         how long the last answer took, and how full the context is
/quit          end, as Ctrl-D does
//...          send a message that begins with /
Ctrl-C ends an answer that is too long; at the prompt it ends the conversation.
A pasted text of several lines is one message; Alt-Enter begins a new line."""


def run(arguments: argparse.Namespace) -> int:
    """Hold a conversation on the terminal; returns the exit code."""
    if sys.stdin is None:
        raise UsageError("the standard input is closed: there is nobody to talk with; give it a terminal or a file")
    check_text(arguments.system or "", "--system")
    from .writers import open_writer

    names = ("temperature", "top_k", "top_p", "seed")
    sampling = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    model, tokenizer = open_writer(arguments)
    from ..open_weights import Chat

    sampling["vocab_size"] = tokenizer.n_vocab  # of more ids than that, none is ever said
    try:
        talk = Chat(model, tokenizer, arguments.system, arguments.max_new_tokens, **sampling)
    except ValueError as error:
        name = arguments.model
        raise ValueError(f"{name} is a base model, which was never taught to answer ({error}). Let it go on with a "
                         f"text (llmbook generate --model {name} \"Once\"), teach it (llmbook finetune --model {name} "
                         "--data FILE --out FOLDER), or choose another --model") from error
    return Conversation(talk, arguments.model, terminal=sys.stdin.isatty() and sys.stdout.isatty()).hold()


class Conversation:
    """Turns read from the standard input, and answers written as they grow.

    Args:
        talk: a `llmbook.open_weights.Chat`.
        name: the model's, for the label of its answers.
        terminal: whether a person reads and writes: then there are labels, commands, and the speed of each answer.
            Otherwise each line of the input is a message, and nothing but answers is printed.
    """

    def __init__(self, talk: Any, name: str, terminal: bool):
        self.talk, self.terminal = talk, terminal
        self.label = Path(name).name or name
        self.saved: set[Path] = set()
        self.timed = ""  # how the last answer went

    def hold(self) -> int:
        """Talk until the input ends; returns the exit code."""
        if self.terminal:
            print("/help lists the commands, Ctrl-D ends the conversation.")
        try:
            for text in self._turns():
                if self.terminal and text.startswith("/") and not text.startswith("//"):
                    if self._obey(text):
                        break
                elif text.strip():
                    self._answer(text[1:] if self.terminal and text.startswith("//") else text)
        except KeyboardInterrupt:
            print()
        return 0

    def _turns(self) -> Iterator[str]:
        if self.terminal:
            yield from _typed_turns()
            return
        for line in input_lines():
            yield line.rstrip("\r\n")

    def _answer(self, text: str) -> None:
        """Say one message and print the answer; Ctrl-C ends the answer only."""
        label = f"{self.label}: " if self.terminal else ""
        started, first, answer, stopped = time.perf_counter(), None, [], False
        try:
            check_text(text, "the message")
            pieces = self.talk.stream(text)
            if self.talk.notice:
                self._aside(self.talk.notice)
            print(label, end="", flush=True)
            try:
                for piece in pieces:
                    first = first or time.perf_counter()
                    answer.append(piece)
                    print(piece, end="", flush=True)
            except KeyboardInterrupt:
                stopped = True
                pieces.close()  # what was said so far stays in the conversation
            print(" [stopped]" if stopped and self.terminal else "")
            self._remark("".join(answer), started, first, stopped)
        except (ValueError, UsageError) as error:  # a message that cannot be sent: the conversation goes on
            print(f"({error})")
        except KeyboardInterrupt:  # before the first word
            print(" [stopped]" if self.terminal else "")

    def _remark(self, answer: str, started: float, first: float | None, stopped: bool) -> None:
        """That an answer was cut, and how fast it came: the call and the first piece were at these times."""
        seconds = time.perf_counter() - started
        tokens = len(self.talk.tokenizer.encode(answer, disallowed_special=())) if answer else 0
        limit = self.talk.max_new_tokens
        if self.talk.cut and not stopped:
            self._aside(f"cut after {limit:,} tokens: --max-new-tokens {2 * limit} allows longer answers")
        if self.terminal and tokens:
            self._aside(f"{tokens:,} tokens, {tokens / max(seconds, 1e-9):,.1f} per second")
        if first is not None:
            rest = max(started + seconds - first, 1e-9)
            self.timed = (f"the first word after {first - started:.2f} s, then "
                          f"{max(tokens - 1, 0) / rest:,.1f} tokens per second")

    def _aside(self, text: str) -> None:
        """Something about the conversation rather than of it: to the standard error, dim on a terminal."""
        dim, plain = ("\033[2m", "\033[0m") if sys.stderr.isatty() else ("", "")
        print(f"{dim}[{text}]{plain}", file=sys.stderr, flush=True)

    def _obey(self, text: str) -> bool:
        """Carry out a command; returns whether it ends the conversation."""
        word, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return True
        if word == "/help":
            print(HELP)
        elif word == "/clear":
            self.talk.clear()
            print("(forgotten)")
        elif word == "/system":
            if rest:
                self.talk.system = rest
                self.talk.clear()
            print(f"(system: {self.talk.system or 'none'})")
        elif word == "/speed":
            print(f"({self._speed()})")
        elif word == "/save":
            self._save(rest)
        else:
            print(f"({word} is no command: /help lists them; //{word[1:]} sends it as a message)")
        return False

    def _speed(self) -> str:
        if not self.timed:
            return "nothing has been answered yet"
        read, model = len(self.talk.read_so_far.ids), self.talk.model
        return f"{self.timed}; {read:,} of the context's {model.config.context_length:,} tokens are used"

    def _save(self, name: str) -> None:
        """Write the conversation to a new file, or again to one that was written by this one."""
        from ..files import replace_file

        path = Path(name).expanduser()
        if not name:
            print("(/save FILE: give the name of a file)")
        elif path.exists() and path.resolve() not in self.saved:
            print(f"({name} is there already: give another name)")
        else:
            try:
                replace_file(path, json.dumps(self.talk.messages, indent=1, ensure_ascii=False).encode())
                self.saved.add(path.resolve())
                print(f"(saved in {name})")
            except OSError as error:
                print(f"({name}: {error.strerror}: give another name)")
            except UnicodeEncodeError:
                print(f"({name} is no name for a file: give another)")


def _typed_turns() -> Iterator[str]:
    """What a person types or pastes, a turn at a time: prompt_toolkit takes a paste for one."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession("You: ", key_bindings=keys)
    while True:
        try:
            yield session.prompt()
        except EOFError:
            return

"""Boxes to type into, where the notebook can show them."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..threads import dismiss_threads

__all__ = ["streamed_response", "text_box"]

_OFTEN = 0.05  # seconds between two pictures of an answer that grows
_TYPED = 0.2  # seconds until the last letter has come from the browser, after Enter
_TURN = '<div style="white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4">{}</div>'
_NOTE = '<span style="opacity: 0.75">[{}]</span>'


def text_box(answer: Callable[[str], str | Iterable[str]], label: str = "You", button: str = "Send",
             instead: str | None = None, notice: Callable[[], str] | None = None) -> object:
    """A text field whose text is answered below it, as a notebook's last expression.

    Enter sends, like the button. An answer grows while the notebook stays free, and the button stops it meanwhile: the
    text that comes next waits in the field until it is sent.

    Args:
        answer: takes what was typed; returns the answer, or yields it piece by piece. The message of a ValueError is
            shown instead of an answer. It is called in a thread of its own.
        label, button: words beside the field and on its button.
        instead: the call that does the same without a box, such as `chat.say("your text")`.
        notice: asked after each call of `answer`; a sentence that is shown before the answer, "" for none.

    Where widgets are not shown (on paper, in a plain viewer, without the package ipywidgets), one line names that call.
    """
    call = instead or f'{getattr(answer, "__name__", "the function")}("your text")'
    instead = f"No box is shown here. Call {call} instead."
    try:
        import ipywidgets
    except ImportError:
        return _Line(instead)

    field = ipywidgets.Text(description=label, layout={"width": "80%"}, continuous_update=False,
                            style={"description_width": "initial"})  # else a label ends after ten letters
    send, turns = ipywidgets.Button(description=button), ipywidgets.VBox()
    box = _box_class(ipywidgets)([ipywidgets.HBox([field, send]), turns])
    talk = _Talk(answer, notice, label, field, send, turns, ipywidgets.HTML)
    send.on_click(lambda _: talk.press())
    # Enter comes as a message of its own, before what was typed last.
    field.on_msg(lambda _, content, __: threading.Timer(_TYPED, talk.enter).start()
                 if content.get("event") == "submit" else None)
    box.instead, box.wait = instead, talk.wait
    return box


class _Talk:
    """What a box does: one answer at a time, each in a thread."""

    def __init__(self, answer: Callable[[str], str | Iterable[str]], notice: Callable[[], str] | None, label: str,
                 field: Any, send: Any, turns: Any, make_html: Callable[..., Any]):
        self.answer, self.notice, self.label, self.button = answer, notice, label, send.description
        self.field, self.send, self.turns, self.make_html = field, send, turns, make_html
        self.thread: threading.Thread | None = None
        self.stopped, self.lock = threading.Event(), threading.Lock()

    def press(self) -> None:
        """The button: begins an answer, or stops the one that comes."""
        if self.thread is not None:
            self.stopped.set()
        else:
            self.enter()

    def enter(self) -> None:
        """Send what is in the field, unless an answer is coming."""
        with self.lock:
            if self.thread is not None or not (text := self.field.value).strip():
                return
            self.field.value = ""
            self.stopped.clear()
            self.thread = threading.Thread(target=self._turn, args=(text,), daemon=True)
        self.send.description = "Stop"
        dismiss_threads()  # of the kernel's own thread, which only waits now
        self.thread.start()

    def wait(self) -> None:
        """Until the answer that is coming has come."""
        if (thread := self.thread) is not None:
            thread.join()

    def _turn(self, text: str) -> None:
        turn = self.make_html()
        self.turns.children = (*self.turns.children, turn)
        head = f"<b>{html.escape(self.label)}:</b> {html.escape(text)}\n"
        said, note, shown = "", "", 0.0

        def show(busy: str = "") -> None:
            turn.value = _TURN.format(head + note + html.escape(said) + busy)

        try:
            show(" \u25cf")
            pieces = self.answer(text)
            if self.notice is not None and (remark := self.notice()):
                note = _NOTE.format(html.escape(remark)) + "\n"
            pieces = iter([pieces] if isinstance(pieces, str) else pieces)
            while not self.stopped.is_set() and (piece := next(pieces, None)) is not None:
                said += piece
                if time.monotonic() - shown > _OFTEN:
                    shown = time.monotonic()
                    show(" \u25cf")
            if self.stopped.is_set() and hasattr(pieces, "close"):
                pieces.close()  # what was said so far stays in the conversation
        except ValueError as error:
            said += f"({error})"
        except Exception as error:  # nobody else would hear of it
            said += f"({type(error).__name__}: {error})"
        show(" " + _NOTE.format("stopped") if self.stopped.is_set() else "")
        self.thread, self.send.description = None, self.button


class _Line:
    """Shown as its text."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _box_class(ipywidgets: object) -> type:
    class TextBox(ipywidgets.VBox):
        """A box whose plain-text form, for viewers without widgets, says what to do."""

        instead = ""

        def __repr__(self) -> str:
            return self.instead

    return TextBox


def streamed_response(model: Any, tokenizer: Any, instruction: str, style: str | None = None,
                      max_new_tokens: int = 100, **sampling: Any) -> Iterator[str]:
    """`llmbook.instructions.respond`, piece by piece. Raises as that does, at the call."""
    import torch

    from ..formats.decoding import TextStream
    from ..generation import stream
    from ..instructions import encode_instruction, style_for
    from ..prompt_ends import special_ids

    if not instruction.strip():
        raise ValueError("the instruction is empty: say what to do")
    stops = special_ids(tokenizer)
    ids = encode_instruction(instruction, "", tokenizer, style or style_for(tokenizer))
    tokens = stream(model, torch.tensor([ids]), max_new_tokens, stop_tokens=sorted(stops),
                    **{"temperature": 0.0, **sampling})

    def pieces() -> Iterator[str]:
        text, begun = TextStream(tokenizer), False
        for token in map(int, tokens):
            if token in stops:
                break
            piece = text.push(token)
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            if piece:
                yield piece

    return pieces()

"""Boxes to type into, where the notebook can show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["text_box"]


def text_box(answer: Callable[[str], str | Iterable[str]], label: str = "You", button: str = "Send",
             instead: str | None = None, notice: Callable[[], str] | None = None) -> object:
    """A text field whose text is answered below it, as a notebook's last expression.

    Args:
        answer: takes what was typed; returns the answer, or yields it piece by piece. The message of a ValueError is
            shown instead of an answer.
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

    field = ipywidgets.Text(description=label, layout={"width": "80%"}, continuous_update=False)
    send, output = ipywidgets.Button(description=button), ipywidgets.Output()

    def show(text: str) -> None:
        """All text is one output: with one for each piece, ever more of them would be sent with each piece."""
        before = output.outputs[0]["text"] if output.outputs else ""
        output.outputs = ({"output_type": "stream", "name": "stdout", "text": before + text},)

    def respond(_: object) -> None:
        text, field.value = field.value, ""
        if not text.strip():
            return
        show(f"{label}: {text}\n")
        try:
            pieces = answer(text)
            if notice is not None and (said := notice()):
                show(f"[{said}]\n")
            for piece in [pieces] if isinstance(pieces, str) else pieces:
                show(piece)
        except ValueError as error:
            show(f"({error})")
        show("\n\n")

    send.on_click(respond)
    box = _box_class(ipywidgets)([ipywidgets.HBox([field, send]), output])
    box.instead, box.respond = instead, respond
    return box


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

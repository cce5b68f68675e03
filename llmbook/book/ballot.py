"""A reader's votes on pairs of stories: in a box, or as a list of answers."""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["Ballot"]

_STORY = ('<div style="flex: 1 1 260px; border: 1px solid #C4C9CF; border-radius: 6px; padding: 8px; line-height: 1.4">'
          "<b>{number}</b><br>{text}</div>")


class Ballot:
    """Pairs of texts, and which of each the reader prefers.

    Args:
        pairs: two different texts each.

    Attributes: `answers`, a number for each pair that was looked at: 1 or 2 for the text that is preferred, 0 where the
    reader passed.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        self.pairs, self.answers = [tuple(pair) for pair in pairs], []

    def answer(self, answers: Sequence[int]) -> None:
        """Set all answers so far. Raises ValueError for one that is not 0, 1 or 2, or more answers than pairs."""
        if len(answers) > len(self.pairs):
            raise ValueError(f"{len(answers)} answers to {len(self.pairs)} pairs: leave out the last ones")
        for place, answer in enumerate(answers):
            if answer not in (0, 1, 2):
                raise ValueError(f"answer {place} is {answer!r}: it must be 1 or 2, or 0 to pass")
        self.answers = list(answers)

    def show(self, number: int) -> None:
        """Print a pair, counted from 0."""
        for place, text in enumerate(self.pairs[number], 1):
            print(f"--- {place}\n{text}\n")

    @property
    def votes(self) -> list[dict[str, str]]:
        """The votes as chapter 8 uses them: prompt (empty), chosen, rejected."""
        return [{"prompt": "", "chosen": pair[answer - 1], "rejected": pair[2 - answer]}
                for pair, answer in zip(self.pairs, self.answers) if answer]

    def box(self) -> object:
        """Two texts side by side, or one above the other where it is narrow, and three buttons; the last expression of
        a cell. Where widgets are not shown, a line says what to do instead."""
        try:
            import ipywidgets
        except ImportError:
            return _Line()
        return _box(self, ipywidgets)


class _Line:
    """Shown as what to do without a box."""

    def __repr__(self) -> str:
        return "No box is shown here. Read ballot.show(0), ballot.show(1), ... and call ballot.answer([1, 2, ...])."


def _box(ballot: Ballot, ipywidgets: object) -> object:
    class VotingBox(ipywidgets.VBox):
        """A box whose plain-text form, for viewers without widgets, says what to do."""

        __repr__ = _Line.__repr__

    texts, state = ipywidgets.HTML(), ipywidgets.HTML()
    buttons = [ipywidgets.Button(description=words) for words in ("I prefer 1", "I prefer 2", "Pass")]

    def refresh() -> None:
        place, all_pairs = len(ballot.answers), len(ballot.pairs)
        state.value = f"votes: {len(ballot.votes)}, pair {min(place + 1, all_pairs)} of {all_pairs}"
        if place >= all_pairs:
            texts.value, state.value = "", f"{len(ballot.votes)} votes: you have seen all pairs. Run the next cells."
            for button in buttons:
                button.disabled = True
            return
        stories = [_STORY.format(number=number, text=html.escape(text).replace("\n\n", "<br><br>"))
                   for number, text in enumerate(ballot.pairs[place], 1)]
        texts.value = f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(stories)}</div>'

    def vote(answer: int) -> None:
        if len(ballot.answers) == len(ballot.pairs):
            return
        ballot.answer([*ballot.answers, answer])
        refresh()

    for button, answer in zip(buttons, (1, 2, 0)):
        button.on_click(lambda _, answer=answer: vote(answer))
    refresh()
    return VotingBox([texts, ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"}), state])

"""Byte-pair encoding, merge by merge, on a text that the reader may change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import regex
from matplotlib.figure import Figure

from ...text import GPT2_PATTERN
from ..figures import token_strip
from .frame import STILL_WIDTH, Interactive, visible

__all__ = ["learn", "merges", "tokens_after"]

LONGEST_TEXT = 2000
MERGES = 40
SHOWN = 110  # characters of the text in the still picture


def merges(text: str, learned: Sequence[tuple[bytes, bytes]] | None = None, start: int = 0) -> Interactive:
    """A text field, and byte-pair encoding learned from what it holds, one merge per step, forwards and backwards.

    The page learns by itself, with the rules of `llmbook.text.train_bpe`: GPT-2's chunks, the most frequent pair
    first, among equals the one with the lowest ids.

    Args:
        text: what the field holds at first, up to 2,000 characters.
        learned: the merges of the text, first learned first, as from `bpe_merges`; up to 40 are learned here if None.
            Only the still picture and the number of steps follow them.
        start: merges that are done when the picture opens.

    Raises:
        ValueError: if the text is empty or too long.

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016), section 3.2.
    """
    if not text.strip() or len(text) > LONGEST_TEXT:
        raise ValueError(f"the text has {len(text)} characters: give 1 to {LONGEST_TEXT}, not only spaces")
    learned = learn(text, MERGES) if learned is None else list(learned)
    data = {"text": text, "most": len(learned) if len(learned) > 1 else MERGES, "longest": LONGEST_TEXT,
            "start": min(start, len(learned))}
    before, after = len(text.encode()), len(tokens_after(text, learned))
    return Interactive("merges", data, lambda: _still(text, learned),
                       f"Byte-pair encoding of the text {text[:60]!r}: {before} bytes become {after} tokens after "
                       f"{len(learned)} merges.")


def learn(text: str, most: int) -> list[tuple[bytes, bytes]]:
    """Up to `most` merges of a text, fewer if its pairs run out."""
    learned: list[tuple[bytes, bytes]] = []
    numbers = {bytes([byte]): byte for byte in range(256)}
    while len(learned) < most:
        chunks = _chunks_after(text, learned)
        counts = Counter(pair for chunk in chunks for pair in zip(chunk, chunk[1:]))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], numbers[pair[0]], numbers[pair[1]]))
        numbers[b"".join(best)] = 256 + len(learned)
        learned.append(best)
    return learned


def tokens_after(text: str, learned: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The tokens of a text after these merges, in the order in which they were learned."""
    return [token for chunk in _chunks_after(text, learned) for token in chunk]


def _chunks_after(text: str, learned: Sequence[tuple[bytes, bytes]]) -> list[list[bytes]]:
    chunks = [[bytes([byte]) for byte in chunk.encode()] for chunk in regex.findall(GPT2_PATTERN, text)]
    for pair in learned:
        for chunk in chunks:
            place = 0
            while place + 1 < len(chunk):
                if (chunk[place], chunk[place + 1]) == pair:
                    chunk[place : place + 2] = [b"".join(pair)]
                place += 1
    return chunks


def _written(token: bytes) -> str:
    try:
        return visible(token.decode())
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in token)


def _still(text: str, learned: list[tuple[bytes, bytes]]) -> Figure:
    """The beginning of the text as tokens after no merge, some, and all; and the first merges."""
    part = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0]
    cut = "" if part == text else ", the beginning shown"
    steps = sorted({0, min(5, len(learned)), min(15, len(learned)), len(learned)})
    pieces = [[_written(token) for token in tokens_after(part, learned[:step])] for step in steps]
    widths = [sum(max(len(piece), 0.75) + 0.7 for piece in row) for row in pieces]
    lines = [1 + int(width / 50) for width in widths]
    figure = Figure(figsize=(STILL_WIDTH, 0.36 * sum(lines) + 0.42 * len(steps) + 1.3), layout="constrained")
    *strips, below = figure.subplots(len(steps) + 1, 1, height_ratios=[*[line + 0.6 for line in lines], 3.2])
    for axes, step, row in zip(strips, steps, pieces):
        count = len(tokens_after(text, learned[:step]))
        done = f"{step or 'no'} merge{'' if step == 1 else 's'}"
        token_strip(row, title=f"{done}: {count} tokens{cut}", per_line=52, ax=axes)
    shown = [f"{number}. {_written(left)} + {_written(right)}" for number, (left, right) in enumerate(learned[:15], 1)]
    for number, line in enumerate(shown):
        below.text(number // 5 / 3, 1 - (number % 5) / 5, line, va="top", family="monospace", transform=below.transAxes)
    below.set(title="the first merges")
    below.axis("off")
    return figure

"""Texts that byte-pair encoding is tested on, and a plain reference for its merges, written apart from the package."""

import random
from collections import Counter

import regex

from llmbook.files import data_folder, read_text
from llmbook.text import GPT2_PATTERN

STORY = read_text(data_folder() / "twenty_in_hand.txt")


def few_letters(seed: int, letters: str = "ab", size: int = 2000) -> str:
    """Words of few letters: dense in ties, runs of one letter and pairs that spell the same bytes."""
    rng = random.Random(seed)
    return " ".join("".join(rng.choice(letters) for _ in range(rng.randint(1, 12))) for _ in range(size // 7))


TEXTS = {
    "story": STORY[:3000],
    "two letters": few_letters(0),
    "three letters": few_letters(1, "abc"),
    "one letter": " ".join("a" * n for n in range(1, 40)),
    "other scripts": "潮水一天涨两次。 Η παλίρροια ανεβαίνει. ज्वार दिन में \N{OCTOPUS}\N{OCTOPUS} e\u0301e\u0301 " * 5,
    "white space": "a  b\n\n\tc   \r\n" * 9 + "   ",
}


def rescan_merges(text: str, pattern: str = GPT2_PATTERN):
    """Yields (pair, counts, token) for each merge, the counts made again from nothing each time.

    A row of ids is a string with a character for each id, so that `str.replace` does the merging.
    """
    rows = ["".join(map(chr, chunk.encode("utf-8"))) for chunk in regex.findall(pattern, text)]
    tokens = [bytes([byte]) for byte in range(256)]
    while counts := Counter(pair for row in rows for pair in zip(row, row[1:])):
        top = max(counts.values())
        pair = min(pair for pair, count in counts.items() if count == top)
        tokens.append(tokens[ord(pair[0])] + tokens[ord(pair[1])])
        assert len(set(tokens)) == len(tokens), "two merges spell the same bytes"
        rows = [row.replace(pair[0] + pair[1], chr(len(tokens) - 1)) for row in rows]
        yield (ord(pair[0]), ord(pair[1])), {(ord(a), ord(b)): n for (a, b), n in counts.items()}, tokens[-1]

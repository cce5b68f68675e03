"""English and German sentences, one for one, from the translation catalogues of seven web applications.

Programs keep the texts of their windows, messages and mails in catalogues, one for each language: the text in English
(`msgid`), and what a volunteer made of it (`msgstr`). `translation_pairs` reads the German ones, which `fetch` brings,
keeps the whole sentences and phrases among them, and cuts them into three parts that share no near-copies. The card in
`data/README.md` says who wrote them and under which licences.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .assets import fetch

__all__ = ["Pair", "PairSplit", "clean_pair", "near_copies", "read_catalogue", "split_pairs", "translation_pairs"]

LEAST_WORDS, MOST_WORDS = 2, 20  # of either sentence
MOST_RATIO = 2.0  # words of the longer one to those of the shorter one, with two words' grace
NEAR_COPY = 0.7  # from this share of common words on, two sentences are near-copies
HELD_OUT = {"test": 7, "val": 7}  # per cent of the groups of near-copies

STAND_INS = "XYZ"  # for what a program fills in

_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sdi](?!\w)|\{\{?\s?\w*\s?\}?\}")
_INLINE_TAG = re.compile(r"</?(?:a|b|i|em|strong|span|code|tt|u|br|p|mark|li|ul|h\d|Param|0|1)(?:\s[^<>]*)?/?>",
                         re.IGNORECASE)
_MARKUP = re.compile(r"[%$]\w|%\(|<[^<>]*>|&\w+;|https?://|www\.|`|\*\*|\\|[|_^~#=@<>\[\]{}]|\b\w+\(\)|\w/\w+/\w")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")


class Pair(NamedTuple):
    """A sentence in both languages, and the application whose catalogue has it."""

    english: str
    german: str
    source: str


@dataclass(frozen=True)
class PairSplit:
    """Pairs to learn from, to choose settings by, and to report on once."""

    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    test: tuple[Pair, ...]


def read_catalogue(text: str) -> Iterator[tuple[str, str]]:
    """The translated entries of a catalogue in GNU gettext's `.po` format: (English, German) each.

    Left out are the header, entries that are marked as fuzzy (a guess that nobody has confirmed) or as obsolete, and
    those without a translation. Of a plural entry both forms are given: one, and many.

    Raises ValueError for a line that is no part of such a file, with its number.

    Source: the manual of GNU gettext, "The Format of PO Files".
    """
    entry: dict[str, str] = {}
    fuzzy, keyword = False, ""
    lines = [*text.split("\n"), ""]  # a text may hold other line separators
    for number, line in enumerate(map(str.strip, lines), 1):
        starts = re.match(r'(msgctxt|msgid|msgid_plural|msgstr(?:\[\d\])?)\s+(?=")', line)
        ends = not line or line.startswith("#") or (starts and starts[1] in ("msgctxt", "msgid"))
        if ends and "msgstr" in keyword:  # the entry before is complete
            if not fuzzy:
                yield from _translations(entry)
            entry, fuzzy, keyword = {}, False, ""
        if line.startswith("#"):
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
        elif starts:
            keyword = starts[1]
            entry[keyword] = _unquoted(line[starts.end():], number)
        elif line.startswith('"') and keyword:
            entry[keyword] += _unquoted(line, number)
        elif line:
            raise ValueError(f"line {number} is {line[:60]!r}: that is no line of a .po catalogue")


def _unquoted(text: str, number: int) -> str:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        raise ValueError(f"line {number} ends with {text[:60]!r}: give a string in double quotes") from None


def _translations(entry: dict[str, str]) -> Iterator[tuple[str, str]]:
    forms = [("msgid", "msgstr"), ("msgid", "msgstr[0]"), ("msgid_plural", "msgstr[1]")]
    for english, german in forms:
        if entry.get(english) and entry.get(german):
            yield entry[english], entry[german]


def clean_pair(english: str, german: str) -> tuple[str, str] | None:
    """The two sentences on one line each, with plain quotation marks, without tags, and with X, Y or Z where a program
    fills something in; None if the pair is no good example: it has other markup or addresses, is too short, too long or
    of unequal length, ends as a sentence in one language only, or was not translated at all."""
    english, german = _with_stand_ins(english, german)
    english, german = (_plain(text) for text in (english, german))
    if any(_MARKUP.search(text) for text in (english, german)):
        return None
    counts = [len(_WORD.findall(text)) for text in (english, german)]
    if min(counts) < LEAST_WORDS or max(counts) > MOST_WORDS or max(counts) > MOST_RATIO * min(counts) + 2:
        return None
    if english.casefold() == german.casefold() or not re.match(r"[\"(']?\w", english):
        return None
    if (english[-1] in ".!?:") != (german[-1] in ".!?:"):
        return None
    return english, german


def _with_stand_ins(english: str, german: str) -> tuple[str, str]:
    """Both with X, Y, Z for their placeholders, if these are the same in both and no more than three."""
    found = list(dict.fromkeys(_PLACEHOLDER.findall(english)))
    if len(found) <= len(STAND_INS) and sorted(_PLACEHOLDER.findall(english)) == sorted(_PLACEHOLDER.findall(german)):
        for placeholder, letter in zip(found, STAND_INS):
            english, german = english.replace(placeholder, letter), german.replace(placeholder, letter)
    return english, german


def _plain(text: str) -> str:
    text = _INLINE_TAG.sub("", text)
    text = re.sub(r"[“”„«»″]", '"', re.sub(r"[‘’‚`´]", "'", text)).replace("…", "...").replace("\u00ad", "")
    text = re.sub(r"&(?=\w)(?!\w+;)", "", text)  # the letter that a shortcut takes
    text = re.sub(r"\s*[–—]\s*", " - ", text)
    return " ".join(text.split())


def words_of(text: str) -> frozenset[str]:
    """The different words of a sentence in small letters; all numbers count as one word."""
    return frozenset("0" if word.isdigit() else word for word in _WORD.findall(text.casefold()))


def near_copies(sentences: Sequence[str], share: float = NEAR_COPY) -> Iterator[tuple[int, int]]:
    """Places of two sentences that have `share` or more of their words in common (the Jaccard index of the sets).

    Two such sentences share at least one of their rarest words, so only sentences that do are compared.

    Source: Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search" (2007).
    """
    sets = [words_of(sentence) for sentence in sentences]
    frequency: dict[str, int] = defaultdict(int)
    for words in sets:
        for word in words:
            frequency[word] += 1
    having: dict[str, list[int]] = defaultdict(list)  # rare word -> the sentences before that have it
    for place, words in enumerate(sets):
        rarest = sorted(words, key=lambda word: (frequency[word], word))
        prefix = rarest[: len(words) - int(-(-share * len(words) // 1)) + 1]
        for other in dict.fromkeys(other for word in prefix for other in having[word]):
            if len(words & sets[other]) >= share * len(words | sets[other]):
                yield other, place
        for word in prefix:
            having[word].append(place)


def split_pairs(pairs: Sequence[Pair]) -> PairSplit:
    """Three parts. Pairs whose English or whose German sentences are near-copies of each other stay together; a group
    goes where a checksum of its first English sentence says, so that more data moves no pair to another part unless it
    joins two groups."""
    leader = list(range(len(pairs)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for side in ("english", "german"):
        for one, other in near_copies([getattr(pair, side) for pair in pairs]):
            one, other = sorted((find(one), find(other)))
            leader[other] = one
    parts: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
    for place, pair in enumerate(pairs):
        draw = zlib.crc32(pairs[find(place)].english.encode()) % 100
        parts["test" if draw < HELD_OUT["test"] else "val" if draw < sum(HELD_OUT.values()) else "train"].append(pair)
    return PairSplit(*(tuple(parts[name]) for name in ("train", "val", "test")))


def translation_pairs(folder: Path | None = None) -> list[Pair]:
    """The cleaned pairs of all catalogues, the first of equal English sentences only.

    Args:
        folder: of `.po` files named `<application>--<anything>.po`; by default what `fetch("translations")` brings.

    Raises ValueError if the folder has no catalogue; `llmbook.assets.AssetError` if the files cannot be had.
    """
    folder = fetch("translations") if folder is None else folder
    paths = sorted(folder.glob("*.po"))
    if not paths:
        raise ValueError(f"{folder} holds no .po file: give a folder of catalogues")
    pairs: dict[str, Pair] = {}
    for path in paths:
        for english, german in read_catalogue(path.read_text(encoding="utf-8")):
            if (cleaned := clean_pair(english, german)) is not None:
                pairs.setdefault(cleaned[0].casefold(), Pair(*cleaned, path.name.split("--")[0]))
    return list(pairs.values())

"""Reading a generated story back: the phrasings that tell it, compiled to one tree of tokens.

Each path from the root is a phrasing: literal tokens, and slots that a lexicon fills. What a text says is what the
paths through the tree say, so a sentence that no path yields is no sentence of this world.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from .grammar import CLASSES, SEASONS, Slot, Variant, all_kinds, links, word_lists
from .words import FORMS, NUMBER_WORDS, Entity, lexicon

_TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
_AGENT_PRONOUNS = {"s": {p: p for p in FORMS}, "o": {f[0]: p for p, f in FORMS.items()},
                   "g": {f[1]: p for p, f in FORMS.items()}, "he": {p: p for p in FORMS},
                   "him": {f[0]: p for p, f in FORMS.items()}, "his": {f[1]: p for p, f in FORMS.items()},
                   "himself": {f[2]: p for p, f in FORMS.items()}, "hers": {f[3]: p for p, f in FORMS.items()}}
_ONLY_PRONOUN = frozenset({"he", "him", "his", "himself", "hers"})
_WITH_SPECIES = frozenset({"intro", "kind", "a", "the"})
_WITH_ADJECTIVE = frozenset({"a", "full", "thefull", "adj"})
MAY, MUST = 2, 1


class Said(NamedTuple):
    """One reading of a sentence: its kind and phrasing, the keys, pronouns and details of its roles, the season."""

    kind: str
    phrasing: int
    keys: dict
    pronouns: dict
    details: dict
    words: dict


class Unit(NamedTuple):
    """A stretch of the text that is one phrasing (`readings` has more than one if it is ambiguous), or unknown."""

    text: str
    readings: tuple[Said, ...]
    paragraph: int


class Node:
    """A point in the tree of phrasings."""

    __slots__ = ("words", "slots", "ends")

    def __init__(self):
        self.words: dict[str, Node] = {}
        self.slots: dict[tuple, Node] = {}
        self.ends: list[tuple[str, int]] = []


def tokenise(text: str) -> list[str]:
    """Words (with their apostrophes and hyphens) and punctuation marks."""
    return _TOKEN.findall(text)


def _starts(tokens: list[str]) -> list[int]:
    """For each token whether a sentence must or may begin there (0: it does not)."""
    starts, open_quote = [], False
    for number, token in enumerate(tokens):
        before = tokens[number - 1] if number else "."
        opening = token == '"' and not open_quote
        if before == '"' and number > 1 and not open_quote:  # after a closing quotation mark
            start = {".": MUST, "!": MAY, "?": MAY}.get(tokens[number - 2], 0)
        elif before == '"' and open_quote:
            start = MUST if number < 2 or tokens[number - 2] in ".!?" else MAY
        else:
            start = MUST if before in ".!?" else MAY if before == ":" else 0
        starts.append(start)
        if token == '"':
            open_quote = opening
    return starts


@cache
def _forms(class_name: str, form: str) -> dict[str, list[tuple[tuple[str, ...], object, str | None, str | None]]]:
    """First token -> (tokens, key, pronoun, detail) of everything that a slot of this class and form can hold."""
    found: dict[str, list] = {}

    def add(text: str, key: object, pronoun: str | None = None, detail: str | None = None) -> None:
        tokens = tuple(tokenise(text))
        entry = (tokens, key, pronoun, detail)
        if entry not in found.setdefault(tokens[0], []):
            found[tokens[0]].append(entry)

    if class_name == "agent":
        for word, pronoun in _AGENT_PRONOUNS.get(form, {}).items():
            add(word, None, pronoun)
    if not (class_name == "agent" and form in _ONLY_PRONOUN):
        for entity in _entities(class_name):
            detail = (entity.species if class_name == "agent" and form in _WITH_SPECIES else
                      entity.adj if class_name == "thing" and form in _WITH_ADJECTIVE else None)
            text = getattr(entity, form, None)
            if text is None:
                raise ValueError(f"{class_name} {entity.key} has no form {form!r}")
            key = None if class_name == "agent" and form in ("kind", "a", "the") else entity.key
            if isinstance(text, str) and text:
                add(text, key, None, detail)
    return found


def _entities(class_name: str) -> list[Entity]:
    words = lexicon()
    if class_name == "agent":
        animals = [words.animal(name, pronoun, kind) for name, pronoun in words.animal_names for kind in words.species]
        return [*words.people, *words.creatures, *animals]
    return {"thing": [thing for group in words.things for thing in group], "countable": words.countables,
            "place": words.places, "number": words.numbers, "feeling": words.feelings}[class_name]


@cache
def _list_forms(name: str) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list] = {}
    for word in word_lists()[name]:
        tokens = tuple(tokenise(word))
        found.setdefault(tokens[0], []).append(tokens)
    return found


@cache
def tree() -> Node:
    """All phrasings of all kinds."""
    root = Node()
    for kind in all_kinds().values():
        for number, phrasing in enumerate(kind.phrasings):
            for variant in phrasing.variants:
                node = root
                for step in steps(variant):
                    where = node.words if isinstance(step, str) else node.slots
                    node = where.setdefault(step, Node())
                if (kind.name, number) not in node.ends:
                    node.ends.append((kind.name, number))
    return root


def steps(variant: Variant) -> list:
    """The tokens and slots of a phrasing."""
    found: list = []
    for piece in variant.pieces:
        if isinstance(piece, str):
            found += tokenise(piece)
        elif isinstance(piece, Slot):
            found.append((piece.role, CLASSES[piece.role], piece.form, piece.second))
        else:
            found.append(("", "list", piece[1], None))
    return found


Env = tuple[tuple[str, str, object], ...]


class Reader:
    """Finds the phrasings that begin at a place in the tokens of one paragraph."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.starts = tokens, _starts(tokens)
        self.lowered = [token[0].lower() + token[1:] for token in tokens]

    def matches(self, position: int) -> Iterator[tuple[int, tuple[str, int], Env]]:
        """(end, kind, bindings) of each phrasing that begins here, with or without a joining word."""
        yield from self._walk(tree(), position, ())
        for tokens in _link_tokens():
            end = position + len(tokens)
            if tuple(self.tokens[position:end]) == tokens:
                for edge, node in tree().slots.items():
                    if edge[1] == "agent" and edge[2] in ("s", "n"):
                        yield from self._slot(edge, node, end, ())

    def _walk(self, node: Node, position: int, env: Env) -> Iterator[tuple[int, tuple[str, int], Env]]:
        for told in node.ends:
            yield position, told, env
        if position == len(self.tokens):
            return
        follow = node.words.get(self.tokens[position])
        if follow is not None:
            yield from self._walk(follow, position + 1, env)
        for edge, follow in node.slots.items():
            yield from self._slot(edge, follow, position, env)

    def _slot(self, edge: tuple, follow: Node, position: int, env: Env) -> Iterator[tuple[int, tuple[str, int], Env]]:
        role, class_name, form, second = edge
        if class_name == "list":
            for end, word in self._listed(_list_forms(form), position):
                bound = _bind(env, "list", form, word)
                if form in SEASONS:
                    bound = _bind(bound, "word", "season", word[0])
                if bound is not None:
                    yield from self._walk(follow, end, bound)
        elif second:
            for end, numeral, noun in self._counted(position):
                bound = _bind(_bind(env, "key", role, numeral), "key", second, noun)
                if bound is not None:
                    yield from self._walk(follow, end, bound)
        else:
            for end, key, pronoun, detail in self._lexical(_forms(class_name, form), position):
                bound: Env | None = env
                for what, value in (("key", key), ("pronoun", pronoun), ("detail", detail)):
                    if value is not None:
                        bound = _bind(bound, what, role, value)
                if bound is not None:
                    yield from self._walk(follow, end, bound)

    def _at(self, position: int) -> tuple[str, ...]:
        """The token here as the lexicon may have it: at the beginning of a sentence also without its capital."""
        if position >= len(self.tokens):
            return ()
        token, start = self.tokens[position], self.starts[position]
        if start == MUST and not token[0].isupper():
            return ()
        return (token, self.lowered[position]) if start and token[0].isupper() else (token,)

    def _lexical(self, forms: dict, position: int):
        for first in self._at(position):
            for tokens, *entry in forms.get(first, ()):
                end = position + len(tokens)
                if len(tokens) == 1 or tuple(self.tokens[position + 1:end]) == tokens[1:]:
                    yield (end, *entry)

    def _listed(self, forms: dict, position: int):
        for first in self._at(position):
            for tokens in forms.get(first, ()):
                end = position + len(tokens)
                if tuple(self.tokens[position + 1:end]) == tokens[1:]:
                    yield end, tokens

    def _counted(self, position: int):
        for first in self._at(position):
            numeral = _NUMERALS.get(first)
            if numeral is not None:
                form = "one" if numeral == 1 else "many"
                for tokens, key, _, _ in _forms("countable", form).get(
                        self.tokens[position + 1] if position + 1 < len(self.tokens) else "", ()):
                    end = position + 1 + len(tokens)
                    if tuple(self.tokens[position + 1:end]) == tokens:
                        yield end, numeral, key


_NUMERALS = {word: number for number, word in enumerate(NUMBER_WORDS)}


@cache
def _link_tokens() -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tokenise(word)) for words in links().values() for word in words if word)


def _bind(env: Env | None, what: str, role: str, value: object) -> Env | None:
    """The bindings with one more; None if the role has another value already."""
    if env is None:
        return None
    for known, of, bound in env:
        if known == what and of == role:
            return env if bound == value else None
    return (*env, (what, role, value))


def read_paragraph(text: str, number: int = 0) -> list[Unit]:
    """The units of a paragraph in order. A stretch that no phrasing yields is a unit without readings."""
    spans = [(match.start(), match.end()) for match in _TOKEN.finditer(text)]
    tokens = [text[start:end] for start, end in spans]
    reader = Reader(tokens)
    table: dict[int, list[tuple[int, tuple[Said, ...]]]] = {}

    def options(position: int) -> list[tuple[int, tuple[Said, ...]]]:
        if position not in table:
            by_end: dict[int, list[Said]] = {}
            for end, told, env in reader.matches(position):
                said = Said(*told, *[{role: value for known, role, value in env if known == what}
                                    for what in ("key", "pronoun", "detail", "word")])
                if said not in by_end.setdefault(end, []):
                    by_end[end].append(said)
            table[position] = sorted(((end, tuple(found)) for end, found in by_end.items()), reverse=True)
        return table[position]

    units: list[Unit] = []
    position = 0
    while position < len(tokens):
        path = _furthest(options, position, len(tokens))
        for end, found in path:
            units.append(Unit(text[spans[position][0]:spans[end - 1][1]], found, number))
            position = end
        if position < len(tokens):
            end = _sentence_end(tokens, reader.starts, position)
            units.append(Unit(text[spans[position][0]:spans[end - 1][1]], (), number))
            position = end
    return units


def _furthest(options, position: int, goal: int) -> list[tuple[int, tuple[Said, ...]]]:
    """The units from here that reach furthest, longest first."""
    best: list = []
    best_end = position
    dead: set[int] = set()

    def search(at: int, path: list) -> bool:
        nonlocal best, best_end
        if at > best_end:
            best, best_end = list(path), at
        if at == goal:
            return True
        if at in dead:
            return False
        for end, found in options(at):
            path.append((end, found))
            if search(end, path):
                return True
            path.pop()
        dead.add(at)
        return False

    search(position, [])
    return best


def _sentence_end(tokens: list[str], starts: list[int], position: int) -> int:
    for end in range(position + 1, len(tokens)):
        if starts[end] and tokens[end - 1] in '.!?"' and (starts[end] == MUST or tokens[end][0].isupper()):
            return end
    return len(tokens)


def read(text: str) -> list[Unit]:
    """The units of a story, paragraph by paragraph."""
    return [unit for number, paragraph in enumerate(text.strip().split("\n\n"))
            for unit in read_paragraph(paragraph, number)]

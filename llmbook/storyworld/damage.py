"""Spoiling stories on purpose: pairs of a good and a bad text, to test the checker and to train on preferences."""

import random
from collections.abc import Callable
from typing import NamedTuple

from .grammar import AGENT_ROLES, THING_ROLES, Kind, all_kinds
from .rules import roles_in
from .words import NUMBER_WORDS, genitive, lexicon
from .world import Event, Story, Unfit, World

_PLAIN = frozenset({"known", "place", "together", "feels", "weather"})


class Damaged(NamedTuple):
    """A spoiled text: what was done, and to which sentence (its number in the story)."""

    text: str
    kind: str
    sentence: int


def _matters(kind: Kind, role: str) -> bool:
    """Whether the world cares who stands in this role: somebody's having, owning, owing, breaking or promising."""
    return any(role in roles_in(text) and text.removeprefix("not ").split()[0] not in _PLAIN
               for text in kind.needs_text if " = " in text or len(text.split()) > 2)


def _has_owner(kind: Kind) -> bool:
    """Whether a need says in whose hands, or whose, a thing is: then two people cannot change places."""
    return any(words[0] in ("holder", "owner") and words[-1] in AGENT_ROLES
               for words in map(str.split, kind.needs_text))


def _join(story: Story, changed: dict[int, str | None]) -> str:
    """The story with some sentences replaced or (None) left out."""
    pieces, position = [], 0
    for number, sentence in enumerate(story.sentences):
        start = story.text.index(sentence, position)
        gap, position = story.text[position:start], start + len(sentence)
        told = changed.get(number, sentence)
        if told is not None:
            pieces.append((gap if pieces else "") + told)
        elif "\n" in gap and pieces:
            pieces.append("")
    return "".join(pieces)


def _replace_name(sentence: str, old: str, new: str) -> str:
    """One name for another, with the genitive and the capital at the beginning."""
    for a, b in ((genitive(old), genitive(new)), (old, new)):
        if sentence.startswith(a[0].upper() + a[1:]):
            sentence = b[0].upper() + b[1:] + sentence[len(a):]
        sentence = sentence.replace(a, b)
    return sentence


def _owners_swapped(story: Story, rng: random.Random) -> Damaged | None:
    """Two people change places in one sentence about a thing."""
    choices = []
    for event in story.facts:
        kind = all_kinds()[event.kind]
        agents = [event.roles[role] for role in kind.agents if role in event.roles]
        sentence = story.sentences[event.sentence]
        if _has_owner(kind) and len(agents) == 2 and all(name in sentence for name in agents):
            choices.append((event.sentence, sentence, agents))
    if not choices:
        return None
    number, sentence, (one, other) = choices[int(rng.random() * len(choices))]
    marked = _replace_name(sentence, one, "\x00")
    swapped = _replace_name(_replace_name(marked, other, one), "\x00", other)
    swapped = swapped[0].upper() + swapped[1:]
    return Damaged(_join(story, {number: swapped}), "swap owner", number)


def _names_swapped(story: Story, rng: random.Random) -> Damaged | None:
    """Somebody else's name stands in one sentence in which it matters who it is."""
    choices = []
    for event in story.facts:
        kind, sentence = all_kinds()[event.kind], story.sentences[event.sentence]
        named = [event.roles[role] for role in kind.agents if event.roles.get(role, "\x00") in sentence]
        for role in kind.agents:
            name = event.roles.get(role)
            if name in named and role not in kind.new and _matters(kind, role):
                others = [other for other in story.cast if other not in named]
                choices += [(event.sentence, sentence, name, other) for other in others]
    if not choices:
        return None
    number, sentence, name, other = choices[int(rng.random() * len(choices))]
    return Damaged(_join(story, {number: _replace_name(sentence, name, other)}), "swap names", number)


def _finding_dropped(story: Story, rng: random.Random) -> Damaged | None:
    """A sentence after which somebody has a thing is left out, though somebody later has it."""
    choices = []
    for place, event in enumerate(story.facts[:-1]):
        kind = all_kinds()[event.kind]
        for text in kind.does_text:
            words = text.split()
            if words[0] == "holder" and words[-1] in AGENT_ROLES:
                holder, thing = event.roles.get(words[-1]), event.roles.get(words[1])
                if any(_needs_holder(later, thing, holder) for later in story.facts[place + 1:]):
                    choices.append(event.sentence)
    if not choices:
        return None
    number = choices[int(rng.random() * len(choices))]
    return Damaged(_join(story, {number: None}), "drop finding", number)


def _needs_holder(event: Event, thing: object, holder: object) -> bool:
    for text in all_kinds()[event.kind].needs_text:
        words = text.split()
        if words[0] == "holder" and event.roles.get(words[1]) == thing and event.roles.get(words[-1]) == holder:
            return True
    return False


def _number_changed(story: Story, rng: random.Random) -> Damaged | None:
    """A number is another number in one sentence that reckons."""
    choices = []
    for event in story.facts:
        kind = all_kinds()[event.kind]
        for role in ("N", "K", "M"):
            value = event.roles.get(role)
            if value is None or not any(role in roles_in(text) and ("=" in text) for text in kind.needs_text):
                continue
            word = NUMBER_WORDS[value] if value else "none"
            tokens = story.sentences[event.sentence].split(" ")
            places = [place for place, token in enumerate(tokens) if token.lower().strip('.,:;!?"') == word]
            if value > 1 and places:
                choices.append((event.sentence, tokens, places, value))
    if not choices:
        return None
    number, tokens, places, value = choices[int(rng.random() * len(choices))]
    other = value + 1 + int(rng.random() * 3) if rng.random() < 0.5 or value < 4 else value - 1
    tokens = list(tokens)
    for place in places[:1]:
        old, new = NUMBER_WORDS[value], NUMBER_WORDS[other]
        tokens[place] = tokens[place].replace(old, new).replace(old.capitalize(), new.capitalize())
    return Damaged(_join(story, {number: " ".join(tokens)}), "change number", number)


def _ending_changed(story: Story, rng: random.Random) -> Damaged | None:
    """The ending of another kind of story, told of these people and things."""
    last = story.facts[-1]
    own = all_kinds()[last.kind]
    others = [kind for name, kind in sorted(all_kinds().items())
              if name.startswith("end_") and name != last.kind and _said_roles(kind) == _said_roles(own)]
    if not others:
        return None
    kind = others[int(rng.random() * len(others))]
    world = World(int(rng.random() * 2**31))
    roles = {role: _entity(last.roles[role], role, story) for role in _said_roles(kind)}
    try:
        sentence = world.realise(kind, roles)
    except Unfit:
        return None
    return Damaged(_join(story, {last.sentence: sentence}), "change ending", last.sentence)


def _said_roles(kind: Kind) -> tuple[str, ...]:
    return tuple(role for role in kind.roles if role in "ABTU")


def _entity(key: object, role: str, story: Story):
    words = lexicon()
    if role in THING_ROLES:
        return next(thing for group in words.things for thing in group if thing.key == key)
    known = [agent for agent in [*words.people, *words.creatures] if agent.key == key]
    return known[0] if known else words.animal(str(key), dict(words.animal_names)[key], next(iter(words.species)))


DAMAGES: dict[str, Callable[[Story, random.Random], Damaged | None]] = {
    "swap owner": _owners_swapped, "drop finding": _finding_dropped, "change number": _number_changed,
    "swap names": _names_swapped, "change ending": _ending_changed}


def damage(story: Story, seed: int, kind: str | None = None) -> Damaged | None:
    """A spoiled copy of the story: by this kind of damage, or by one that fits, drawn with the seed.

    The kinds are the keys of DAMAGES. None if the story has nothing that this kind could spoil. ValueError for a
    kind that does not exist.
    """
    if kind is not None and kind not in DAMAGES:
        raise ValueError(f"damage {kind!r} is not one of {', '.join(DAMAGES)}")
    rng = random.Random(seed)
    kinds = [kind] if kind else sorted(DAMAGES, key=lambda _: rng.random())
    for name in kinds:
        spoiled = DAMAGES[name](story, rng)
        if spoiled is not None and spoiled.text != story.text:
            return spoiled
    return None

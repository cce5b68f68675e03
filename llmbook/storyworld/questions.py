"""Instructions about stories, each with an answer and a check that a program can run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random

from .checks import check
from .corpus import Split, one_story
from .grammar import Kind, Variant, all_kinds
from .words import NUMBER_WORDS, Entity, Place, Thing, lexicon
from .world import Event, Story, Unfit, World

MARKS = '.,!?;:"'
_TRIES = 60
_SMALL = ("aside_", "feel_", "open_")


@dataclass(frozen=True)
class Task:
    """An instruction about the text `story` ("" for none). `answer` is one good answer, `kind` a key of KINDS."""

    kind: str
    instruction: str
    story: str
    answer: str
    passes: Callable[[str], bool] = field(repr=False, compare=False)

    @property
    def prompt(self) -> str:
        """The story and the instruction, as a model reads them."""
        return f"{self.story}\n\n{self.instruction}" if self.story else self.instruction


class _Draw:
    """The random choices of one task."""

    def __init__(self, seed: int):
        self.random = Random(seed).random

    def pick(self, items):
        items = list(items)
        return items[int(self.random() * len(items))]


def _names(text: str, known: set[str]) -> set[str]:
    """Which of these names (or nouns) stand in the text, as whole words."""
    words = "".join(" " if mark in MARKS else mark for mark in text).replace("'s ", " ")
    padded = f" {words} ".lower()
    return {name for name in known if f" {name.lower()} " in padded}


def _only(right: str, wrong: Iterable[str]) -> Callable[[str], bool]:
    """An answer must name what is right and nothing that would be wrong."""
    known = {right, *wrong}
    return lambda answer: _names(answer, known) == {right}


@cache
def _everybody() -> frozenset[str]:
    """All names, and "nobody"."""
    words = lexicon()
    return frozenset([agent.key for agent in words.people + words.creatures]
                     + [name for name, _ in words.animal_names] + ["nobody"])


def _before(story: Story, sentence: int) -> tuple[str, dict]:
    """The story up to (not with) a sentence, and the state of the world there."""
    state: dict = {}
    for event in story.facts:
        if event.sentence < sentence:
            all_kinds()[event.kind].apply(state, dict(event.roles))
    text, position = story.text, 0
    for told in story.sentences[:sentence]:
        position = text.index(told, position) + len(told)
    return text[:position], state


def _cut(story: Story, draw: _Draw) -> int:
    """A sentence in the second half before which a question can be asked; one in two times the end."""
    count = len(story.sentences)
    return count if draw.random() < 0.5 else count // 2 + int(draw.random() * (count - count // 2))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _who_has(story: Story, draw: _Draw) -> Task | None:
    text, state = _before(story, _cut(story, draw))
    held = sorted((about[1], holder) for about, holder in state.items()
                  if about[0] == "holder" and about[1] in story.things and holder in (*story.cast, "nobody"))
    if not held:
        return None
    thing, holder = draw.pick(held)
    question = draw.pick([f"Who has the {thing} now?", f"Who has got the {thing}?", f"In whose hands is the {thing}?",
                          f"Tell me who has the {thing} now."])
    if holder == "nobody":
        return Task("who_has", question, text, f"Nobody has the {thing}.", _only("nobody", _everybody()))
    return Task("who_has", question, text, _sentence(f"{holder} has the {thing}."),
                _only(str(holder), _everybody() - {holder}))


def _whose(story: Story, draw: _Draw) -> Task | None:
    text, state = _before(story, _cut(story, draw))
    owned = sorted((about[1], owner) for about, owner in state.items()
                   if about[0] == "owner" and about[1] in story.things and owner in story.cast)
    if not owned:
        return None
    thing, owner = draw.pick(owned)
    question = draw.pick([f"Whose is the {thing}?", f"To whom does the {thing} belong?", f"Who owns the {thing}?"])
    return Task("whose", question, text, f"The {thing} belongs to {owner}.",
                _only(str(owner), _everybody() - {owner}))


def _where(story: Story, draw: _Draw) -> Task | None:
    text, state = _before(story, _cut(story, draw))
    placed = sorted((about[1], place) for about, place in state.items() if about[0] == "place")
    if not placed:
        return None
    who, key = draw.pick(placed)
    place = _places()[key]
    question = draw.pick([f"Where is {who} now?", f"Where would you find {who} now?", f"Say where {who} is."])
    wrong = {other for other in _places() if other != key and other not in key}
    return Task("where", question, text, _sentence(f"{who} is {place.at}."), _only(str(key), wrong))


def _places() -> dict[str, Place]:
    return {place.key: place for place in lexicon().places}


def _how_many(story: Story, draw: _Draw) -> Task | None:
    text, state = _before(story, _cut(story, draw))
    counts = sorted((about[1], about[2], number) for about, number in state.items() if about[0] == "count")
    counts = [entry for entry in counts if entry[0] in story.cast]
    if not counts:
        return None
    who, what, number = draw.pick(counts)
    question = draw.pick([f"How many {what} does {who} have now?", f"How many {what} has {who} got now?",
                          f"Count the {what} that {who} has now."])
    noun = next(kind for kind in lexicon().countables if kind.key == what)
    wrong = {word for word in NUMBER_WORDS if word != NUMBER_WORDS[number]}
    return Task("how_many", question, text, _sentence(f"{who} has {noun.counted[number]}."),
                _only(NUMBER_WORDS[number], wrong))


def _promised(story: Story, draw: _Draw) -> Task | None:
    text, state = _before(story, _cut(story, draw))
    promises = sorted((about[1], about[2], thing) for about, thing in state.items()
                      if about[0] == "promised" and len(about) == 3 and thing in story.things)
    if not promises:
        return None
    who, whom, thing = draw.pick(promises)
    question = draw.pick([f"What did {who} promise {whom}?", f"What was it that {who} promised to {whom}?"])
    return Task("promised", question, text, _sentence(f"{who} promised {whom} the {thing}."),
                _only(str(thing), {things[0].key for things in lexicon().things
                                   if not set(things[0].key.split()) & set(str(thing).split())}))


def _continue(story: Story, draw: _Draw) -> Task | None:
    cut = 2 + int(draw.random() * (len(story.sentences) - 4))
    text, _ = _before(story, cut)
    rest = story.text[len(text):].strip()
    instruction = draw.pick(["Continue the story.", "How does the story go on?", "Go on with this story until its end.",
                             "Finish this story."])

    def passes(answer: str) -> bool:
        return check(f"{text} {answer.strip()}").consistent or check(f"{text}\n\n{answer.strip()}").consistent
    return Task("continue", instruction, text, rest, passes)


def retell(story: Story, events: list[Event], seed: int) -> str:
    """These events of a story told again, with other phrasings."""
    world = World(seed)
    world.entities = dict(story.entities)
    breaks = {number for number, gap in enumerate(story.gaps) if "\n" in gap}
    for event in events:
        if any(last < number <= event.sentence for number in breaks
               for last in [world.events[-1][2] if world.events else event.sentence]):
            world.paragraph()
        world.tell(event.kind, **_entities(story, event.roles))
        world.events[-1] = (event.kind, event.roles, event.sentence)
    return "".join(gap + text for text, gap in world.told)


def _entities(story: Story, keys: dict) -> dict[str, Entity]:
    """The words with their forms that these keys stand for."""
    return {role: lexicon().numbers[key] if isinstance(key, int) else story.entities[key]
            for role, key in keys.items() if isinstance(key, int) or key in story.entities}


def _shorten(story: Story, draw: _Draw) -> Task | None:
    kept = [event for event in story.facts
            if not event.kind.startswith(_SMALL[:2]) or event is story.facts[-1]]
    if len(kept) > len(story.facts) - 2:
        return None
    answer = retell(story, kept, int(draw.random() * 2**31))
    if len(answer.split()) > 0.9 * len(story.text.split()) or not check(answer).consistent:
        return None
    instruction = draw.pick(["Tell this story in fewer words.", "Make this story shorter.",
                             "Shorten the story, but keep what matters.", "Tell the same story, only shorter."])
    longest, ending = int(0.9 * len(story.text.split())), story.ending

    def passes(text: str) -> bool:
        return len(text.split()) <= longest and check(text, prompt={"names": [story.hero], "ending": ending}).consistent
    return Task("shorten", instruction, story.text, answer, passes)


def title(kind: Kind, story: Story, roles: dict) -> str:
    """How an ending is asked for: "the kite is back with Mira"."""
    clause = Variant(kind.title).first.format_map(_entities(story, roles))
    return clause if clause.startswith(tuple(story.cast)) else clause[0].lower() + clause[1:]


def _tell(story: Story, draw: _Draw) -> Task | None:
    last = story.facts[-1]
    kind = all_kinds()[last.kind]
    if not kind.title:
        return None
    names = [key for key in dict.fromkeys(last.roles.values()) if key in story.cast]
    others = [name for name in names if name != story.hero]
    things = [key for key in last.roles.values() if isinstance(story.entities.get(key), Thing)]
    about = [story.entities[story.hero].intro, *[story.entities[name].intro for name in others],
             *[story.entities[thing].a for thing in things]]
    listed = ", ".join(about[:-1]) + " and " + about[-1] if len(about) > 1 else about[0]
    ending = title(kind, story, last.roles)
    instruction = draw.pick([f"Tell a story about {listed} in which, at the end, {ending}.",
                             f"Write a short story about {listed}. It should end like this: {ending}.",
                             f"I would like a story about {listed}. At the end {ending}."])
    asked = {"names": [story.hero, *others], "things": things, "ending": last.kind}
    return Task("tell", instruction, "", story.text, lambda text: check(text, prompt=asked).consistent)


def _change_ending(story: Story, draw: _Draw) -> Task | None:
    last = story.facts[-1]
    text, state = _before(story, last.sentence)
    roles = {role: key for role, key in last.roles.items() if role in "ABTU"}
    swapped = {**roles, "A": roles["B"], "B": roles["A"]} if "B" in roles else {}
    found = []
    for name, kind in sorted(all_kinds().items()):
        if name.startswith("end_") and kind.title and name != last.kind:
            for given in (roles, swapped):
                keys = {role: given[role] for role in kind.roles if role in given}
                if not kind.missing(state, keys) and set(kind.roles) <= set(keys):
                    found.append((kind, keys))
    if not found:
        return None
    kind, keys = draw.pick(found)
    world = World(int(draw.random() * 2**31))
    try:
        answer = world.realise(kind, _entities(story, keys))
    except Unfit:
        return None
    wanted = title(kind, story, keys)
    instruction = draw.pick([f"Change the ending: {wanted}.", f"Write another last sentence, so that {wanted}.",
                             f"How would the story end if it ended like this: {wanted}?"])

    def passes(given: str) -> bool:
        report = check(f"{text} {given.strip()}")
        return report.consistent and report.ending == kind.name
    return Task("change_ending", instruction, text, answer, passes) if passes(answer) else None


KINDS: dict[str, Callable[[Story, _Draw], Task | None]] = {
    "tell": _tell, "who_has": _who_has, "whose": _whose, "where": _where, "how_many": _how_many,
    "promised": _promised, "continue": _continue, "shorten": _shorten, "change_ending": _change_ending}


def tasks(seed: int, n: int, *, kinds: tuple[str, ...] | None = None, split: Split | None = None) -> Iterator[Task]:
    """`n` instructions about stories of this seed (`split` as in `stories`), with answers and checks.

    `kinds` chooses among the keys of KINDS, which are drawn equally often. ValueError for a
    kind that does not exist.
    """
    wanted = tuple(KINDS) if kinds is None else kinds
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"task {kind!r} is not one of {', '.join(KINDS)}")
    index = 0
    for number in range(n):
        draw = _Draw(seed * 4_294_967_291 + number)
        task, tried = None, 0
        kind = draw.pick(wanted)
        while task is None:
            if tried == _TRIES:  # no story near has what this kind asks about
                kind, tried = draw.pick(wanted), 0
            task = KINDS[kind](one_story(seed, index, split=split), draw)
            index, tried = index + 1, tried + 1
        yield task


__all__ = ["KINDS", "Task", "retell", "tasks", "title"]

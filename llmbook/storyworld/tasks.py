"""Instructions about short stories, each with an answer that a child would be pleased with, and a check for a program.

    task = next(tasks(seed=1, n=1))
    task.story, task.instruction, task.answer      # "... \n\n ...", "Who has the kite now?", "Mira has the kite."
    check_task(task, "Bram has the kite.")       # False: the world knows better
    next(conversations(seed=1, n=1))               # several tasks about one story, one after the other

`KINDS` are to be learned; `KEPT_OUT` are three more that no training should see, to test what carries over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from .corpus import Split, one_story
from .grammar import Variant, all_kinds
from .task_checks import Wanted, says, words_of_the_world
from .task_words import DEEDS, ENDINGS, FRAMES, LAST_WISHES, MOVES_UNSAID, PLOT_PHRASES, SUMMARIES, WORDINGS
from .words import NUMBER_WORDS, Entity, lexicon
from .world import Event, Story

__all__ = ["KEPT_OUT", "KINDS", "Task", "check_task", "conversations", "tasks"]

_TRIES = 400


@dataclass(frozen=True)
class Task:
    """An instruction about the text `story` ("" for none). `answer` is one good answer, `kind` a key of KINDS or
    KEPT_OUT, `wanted` what `check_task` looks for."""

    kind: str
    instruction: str
    story: str
    answer: str
    wanted: Wanted = field(repr=False)

    @property
    def prompt(self) -> str:
        """The story and the instruction, as a person would write them."""
        return f"{self.story}\n\n{self.instruction}" if self.story else self.instruction


def check_task(task: Task, text: str) -> bool:
    """Whether a text is a good answer to a task.

    A question's answer is one sentence of at most 20 words that names who or what is right and nobody and nothing else.
    A story must have what was asked for, consist of sentences of this world and come to an end; whether all of it is
    consistent is asked of `llmbook.storyworld.check`, not here.
    """
    return says(text, task.wanted, task.story)


def tasks(seed: int, n: int, split: Split | None = None, *, kinds: tuple[str, ...] | None = None) -> Iterator[Task]:
    """`n` tasks about short stories of this seed, of kinds that take turns. Task i does not depend on n.

    split: "train" for stories without a held-out combination of name, thing and plot, "test" for stories with one (see
    `stories`). kinds: some of KINDS and KEPT_OUT; all of KINDS if None. Raises ValueError for a kind that is not there.
    """
    wanted = _known(kinds)
    index = 0
    for number in range(n):
        draw = _Draw(seed * 4_294_967_291 + number)
        kind, task = wanted[number % len(wanted)], None
        for _ in range(_TRIES):
            if task is None:
                task, index = _of_kind(kind, one_story(seed, index, split=split, short=True), draw), index + 1
        if task is None:
            raise RuntimeError(f"no story near number {index} of seed {seed} has what {kind!r} asks about")
        yield task


def conversations(seed: int, n: int, split: Split | None = None, *, kinds: tuple[str, ...] | None = None,
                  turns: int = 4) -> Iterator[list[Task]]:
    """`n` conversations about one short story each: up to `turns` tasks in order, no two with the same answer.

    One in six begins with a wish for the story, and one in six with its beginning, which is to be continued (where
    "tell" and "continue" are among the kinds), so the story or its end is the first answer; else it is there from the
    start. The first task has the text that is there, the others have `story` "". They are checked as those of `tasks`,
    because what they want is known without it.
    """
    wanted = _known(kinds)
    spoken = [kind for kind in wanted if kind not in ("tell", "continue")]
    for number in range(n):
        draw = _Draw(seed * 4_294_967_279 + number)
        story = one_story(seed, number, split=split, short=True)
        first = ("tell", "continue", *[""] * 4)[int(draw.random() * 6)]
        if not spoken:
            first = draw.pick(wanted)
        begun = [_of_kind(first, story, draw)] if first in wanted else []
        often = [kind for kind in spoken for _ in range(2 if kind == "another_ending" else 4)]
        asked = [task for kind in draw.shuffled(often) if (task := _of_kind(kind, story, draw)) is not None]
        found = list({task.answer: task for task in reversed([*begun, *asked])}.values())[::-1][:turns]
        yield [task if place == 0 and (begun or not task.story) else
               Task(task.kind, task.instruction, "" if place else task.story, task.answer, task.wanted)
               for place, task in enumerate(found)]


def _known(kinds: tuple[str, ...] | None) -> tuple[str, ...]:
    every = KINDS | KEPT_OUT
    for kind in kinds or ():
        if kind not in every:
            raise ValueError(f"task {kind!r} is not one of {', '.join(every)}")
    return tuple(KINDS) if kinds is None else tuple(kinds)


def _of_kind(kind: str, story: Story, draw: _Draw) -> Task | None:
    return (KINDS | KEPT_OUT)[kind](story, draw)


class _Draw:
    """The random choices of one task."""

    def __init__(self, seed: int):
        self.random = Random(seed).random

    def pick(self, items):
        items = list(items)
        return items[int(self.random() * len(items))]

    def shuffled(self, items):
        return [item for _, item in sorted((self.random(), place) for place in range(len(items)))
                for item in [items[item]]]

    def wording(self, kind: str, **words: str) -> str:
        return self.pick(WORDINGS[kind]).format(**words)


# --- how things are called ----------------------------------------------------------------------------------------

def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _noun(story: Story, key: object) -> str:
    """A person, an animal or a thing, as a story calls it: "Mira", "the kite"."""
    entity = story.entities[key]
    return entity.the if hasattr(entity, "the") and hasattr(entity, "adj") else str(key)


def _bare(key: object) -> str:
    return str(key).removeprefix("the ")


def _words(story: Story, event: Event) -> dict[str, str]:
    """The roles of an event, as words."""
    words = {}
    for role, key in event.roles.items():
        if isinstance(key, int):
            words[role] = NUMBER_WORDS[key]
        elif key in story.entities:
            place = next((place for place in lexicon().places if place.key == key), None)
            words[role] = place.to if place else _noun(story, key)
    return words


def _entities(story: Story, keys: dict) -> dict[str, Entity]:
    return {role: lexicon().numbers[key] if isinstance(key, int) else story.entities[key]
            for role, key in keys.items() if isinstance(key, int) or key in story.entities}


def _ending_clause(story: Story) -> str:
    """How an ending is asked for: "the kite is back with Mira"."""
    last = story.facts[-1]
    clause = Variant(all_kinds()[last.kind].title).first.format_map(_entities(story, last.roles))
    return clause if clause.startswith(tuple(story.cast)) else clause[0].lower() + clause[1:]


# --- kinds that tell ----------------------------------------------------------------------------------------------

def _tell(story: Story, draw: _Draw) -> Task:
    hero = story.entities[story.hero].key
    last = story.facts[-1].roles.values()
    things = [key for key in story.things if key in last]
    about = f"{hero} and {story.entities[things[0]].a}" if things and draw.random() < 0.67 else hero
    asked = [_bare(hero), *(things[:1] if about != hero else [])]
    way = draw.pick(["plain", "plot", "ending"]) if about != hero else draw.pick(["plot", "ending"])
    endings: tuple[str, ...] = ()
    more = ""
    if way == "plot":
        more, endings = draw.pick(PLOT_PHRASES[story.plots[0]]), ENDINGS[story.plots[0]]
    elif way == "ending":
        more, endings = f"that ends like this: {_ending_clause(story)}", (story.ending,)
    instruction = draw.wording("tell", about=f"{about} {more}".strip())
    return Task("tell", instruction, "", story.text, Wanted("story", tuple(asked), endings=endings))


def _continue(story: Story, draw: _Draw) -> Task:
    count = len(story.sentences)
    cut = max(2, min(count - 2, count // 2 + int(draw.random() * 3) - 1))
    text = "".join(gap + told for gap, told in zip(story.gaps[:cut], story.sentences))
    rest = story.text[len(text):].strip()
    hero = _bare(story.hero)
    return Task("continue", draw.wording("continue"), text, rest,
                Wanted("continuation", (hero,), endings=ENDINGS[story.plots[0]]))


def _another_ending(story: Story, draw: _Draw) -> Task:
    name = draw.pick([key for key in story.cast if not str(key).startswith("the ")])
    wish, told = draw.pick(LAST_WISHES)
    instruction = draw.wording("another_ending", wish=wish.format(A=name))
    answer = f"In the end {told.format(A=name)}."
    return Task("another_ending", instruction, story.text, answer, Wanted("exact", (answer,)))


def _shorten(story: Story, draw: _Draw) -> Task | None:
    template = SUMMARIES[story.ending]
    words: dict[str, str] = {}
    for event in story.facts:
        words |= {f"{event.kind}_{role}": word for role, word in _words(story, event).items()}
    try:
        answer = " ".join(_sentence(part.format_map(words)) for part in template)
    except KeyError:
        return None
    return Task("shorten", draw.wording("shorten"), story.text, answer, Wanted("exact", (answer,)))


# --- kinds that ask -----------------------------------------------------------------------------------------------

def _who_has(story: Story, draw: _Draw) -> Task | None:
    held = sorted((about[1], holder) for about, holder in story.state.items()
                  if about[0] == "holder" and about[1] in story.things and holder in story.cast)
    if not held:
        return None
    thing, holder = draw.pick(held)
    the = _noun(story, thing)
    return Task("who_has", draw.wording("who_has", thing=the), story.text, _sentence(f"{holder} has {the}."),
                Wanted("fact", (_bare(holder),), (thing,)))


def _where(story: Story, draw: _Draw) -> Task | None:
    places = {place.key: place for place in lexicon().places}
    told = {}
    for event in story.facts:  # who was said to be where, and in which sentence
        place = next((key for role, key in event.roles.items() if key in places), None)
        for who in story.cast:
            if place and who in event.roles.values() and story.state.get(("place", who)) == place:
                told[who] = place
    if any(event.kind in MOVES_UNSAID for event in story.facts):
        return None
    near = [(who, place) for who, place in sorted(told.items()) if places[place].at in story.text]
    if not near:
        return None
    who, place = draw.pick(near)
    return Task("where", draw.wording("where", who=str(who)), story.text, _sentence(f"{who} is {places[place].at}."),
                Wanted("fact", (place,), (_bare(who),)))


def _who_did(story: Story, draw: _Draw) -> Task | None:
    told = [event for event in story.facts if event.kind in DEEDS]
    if not told:
        return None
    event = draw.pick(told)
    role, deed = DEEDS[event.kind]
    words = _words(story, event)
    same = [other for other in told if DEEDS[other.kind][1].format_map(_words(story, other)) == deed.format_map(words)]
    if len({other.roles[DEEDS[other.kind][0]] for other in same}) > 1:
        return None
    done = deed.format_map(words)
    answer = _sentence(f"{words[role]} {done}.")
    cast = {_bare(key).lower() for key in story.cast}
    named = words_of_the_world(answer)
    return Task("who_did", draw.pick(FRAMES).format(did=done), story.text, answer,
                Wanted("fact", tuple(name for name in named if name in cast),
                       tuple(name for name in named if name not in cast)))


# --- kinds kept out -----------------------------------------------------------------------------------------------

def _felt(story: Story, draw: _Draw) -> Task | None:
    felt = sorted((about[1], feeling) for about, feeling in story.state.items()
                  if about[0] == "feels" and about[1] in story.cast)
    if not felt:
        return None
    who, feeling = draw.pick(felt)
    return Task("felt", draw.wording("felt", who=str(who)), story.text, _sentence(f"{who} was {feeling}."),
                Wanted("fact", (feeling,), (_bare(who),)))


def _how_many(story: Story, draw: _Draw) -> Task | None:
    counted = sorted((about[1], about[2], number) for about, number in story.state.items()
                     if about[0] == "count" and about[1] in story.cast and number > 1)
    if not counted:
        return None
    who, what, number = draw.pick(counted)
    return Task("how_many", draw.wording("how_many", who=str(who), what=what), story.text,
                _sentence(f"{who} has {NUMBER_WORDS[number]} {what}."),
                Wanted("fact", (NUMBER_WORDS[number],), (_bare(who), what)))


def _who_else(story: Story, draw: _Draw) -> Task | None:
    others = [key for key in story.cast if key != story.hero]
    if len(others) != 1:
        return None
    return Task("who_else", draw.wording("who_else", who=str(story.hero)), story.text,
                _sentence(f"{others[0]} is in the story too."), Wanted("fact", (_bare(others[0]),)))


Make = Callable[[Story, _Draw], "Task | None"]
KINDS: dict[str, Make] = {"who_has": _who_has, "where": _where, "who_did": _who_did, "tell": _tell,
                          "continue": _continue, "another_ending": _another_ending, "shorten": _shorten}
KEPT_OUT: dict[str, Make] = {"felt": _felt, "how_many": _how_many, "who_else": _who_else}

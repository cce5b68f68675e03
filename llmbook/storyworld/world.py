"""The simulator and its narrator: who is in a story, what happens to the state of the world, and how it is told."""

import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

from .grammar import SEASONS, Kind, Phrasing, Variant, all_kinds, links, word_lists
from .rules import State
from .words import Agent, Countable, Entity, Place, Thing, Word, lexicon

Item = TypeVar("Item")
WORDS = (100, 250)  # of a story, the fewest and the most
SHORT_WORDS = (60, 170)
FEW_PHRASINGS = 3  # of each kind in a short story, but for openings and for what happens in most stories:
COMMON_KINDS = {"come_to", "come_upon", "feel_glad", "feel_sad", "go", "go_together", "meet"}
_PRONOUN_SHARE = 0.72


class Event(NamedTuple):
    """What happened: a kind, who and what in its roles (keys of the lexicon), and the number of the sentence."""

    kind: str
    roles: dict
    sentence: int


class Unfit(Exception):
    """This world cannot hold the story that a plot wants: another is drawn."""


class Story:
    """A finished story.

    `text` is the story; `sentences` are its told units in order (each says one event); `facts` the events;
    `plots` the kinds of plot in it, the main one first; `hero`, `cast`, `things` are keys; `ending` is the kind of
    the ending; `state` is the world at the end. `gaps` stand before the sentences (a space or a new
    paragraph), `entities` is key -> word with its forms.
    """

    __slots__ = ("text", "sentences", "facts", "plots", "hero", "cast", "things", "ending", "state", "seed",
                 "gaps", "entities")

    def __init__(self, world: "World"):
        self.sentences = tuple(text for text, _ in world.told)
        self.gaps = tuple(gap for _, gap in world.told)
        self.entities = world.entities
        self.text = "".join(gap + text for text, gap in world.told)
        self.facts = tuple(Event(*event) for event in world.events)
        self.plots = tuple(world.plots)
        self.hero = world.hero.key
        self.cast = tuple(agent.key for agent in world.cast)
        self.things = tuple(thing.key for thing in world.props)
        self.ending = world.ending
        self.state = world.state
        self.seed = world.seed

    @property
    def prompt(self) -> dict[str, object]:
        """What could be asked of a story like this one: `check(text, prompt=story.prompt)` says whether it has it."""
        last = self.facts[-1].roles.values()
        return {"names": [key for key in self.cast if key in last or key == self.hero],
                "things": [key for key in self.things if key in last], "ending": self.ending}

    def __repr__(self) -> str:
        return f"Story({self.seed!r}, {self.plots[0]}, {self.hero}: {self.text[:40]!r}...)"


class World:
    """A small world with its people, things and places, in which one story happens.

    `seed` decides everything: the same seed gives the same story on every machine. `short` leaves out what a plot can
    do without, and says each kind of event in one of its first few phrasings that suit. `strict` checks before each
    event that the world allows it (the tests do; it costs time).
    """

    def __init__(self, seed: int | str, *, short: bool = False, strict: bool = False):
        self.seed, self.short, self.strict = seed, short, strict
        self.rng = random.Random(seed)
        self.random = self.rng.random
        self.words = lexicon()
        self.clear()

    def clear(self) -> None:
        """An empty world; the random numbers go on."""
        self.state: State = {}
        self.told: list[tuple[str, str]] = []
        self.events: list[tuple[str, dict, int]] = []
        self.length = 0
        self.plots: list[str] = []
        self.cast: list[Agent] = []
        self.props: list[Thing] = []
        self.nouns: set[str] = set()
        self.used_places: set[str] = set()
        self.entities: dict = {}
        self.ending = ""
        self._gap = ""
        self._focus: Agent | None = None
        self._before: dict = {}
        self._linked: set[str] = set()
        self._year: int | None = None
        self._hour: str | None = None
        self._used: dict[str, list[int]] = {}
        self._trees: dict[object, str] = {}
        self.target = 520 + int(self.random() * 620)

    # --- chance ---------------------------------------------------------------------------------------------------

    def pick(self, items: Sequence[Item]) -> Item:
        """One of them."""
        return items[int(self.random() * len(items))]

    def chance(self, share: float) -> bool:
        return self.random() < share

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.random() * (high - low + 1))

    def room(self, characters: int = 0) -> bool:
        """Whether the story is still shorter than it is meant to be by so many characters (a sentence has about 60)."""
        return not self.short and self.length + characters < self.target

    def crowded(self) -> bool:
        """Whether the paragraph that is being told has a side scene (a kind `aside_…`) already."""
        if self._gap:
            return False
        for name, _, sentence in reversed(self.events):
            if name.startswith("aside_"):
                return True
            if self.told[sentence][1] == "\n\n":
                break
        return False

    # --- who, what, where -----------------------------------------------------------------------------------------

    def _join(self, agent: Agent) -> Agent:
        self.cast.append(agent)
        self.entities[agent.key] = agent
        return agent

    def _free(self, agents: Sequence[Agent]) -> Agent:
        for _ in range(30):
            agent = self.pick(agents)
            if agent.key not in self.entities:
                return agent
        raise Unfit("nobody is free")

    def child(self) -> Agent:
        """A child whose name is new in this story."""
        return self._join(self._free(self.words.children))

    def adult(self) -> Agent:
        """A grown-up, who may have a name ("Aunt Noor") or only a trade ("the miller")."""
        return self._join(self._free(self.words.adults))

    def creature(self, *tags: str) -> Agent:
        """An animal without a name ("the hedgehog"), with these tags."""
        fitting = _creatures_with(tags)
        for _ in range(30):
            found = self.pick(fitting)
            if found.key not in self.entities and all(found.species != other.species for other in self.cast):
                return self._join(found)
        raise Unfit("no such creature is free")

    def animal(self, *tags: str) -> Agent:
        """A named animal of a species with these tags."""
        species = _species_with(tags)
        for _ in range(40):
            name, pronoun = self.pick(self.words.animal_names)
            kind = self.pick(species)
            if name not in self.entities and all(kind != other.species for other in self.cast):
                return self._join(self.words.animal(name, pronoun, kind))
        raise Unfit("no such animal is free")

    def somebody(self) -> Agent:
        """A child, or (where the hero is an animal) another animal: who would be this hero's friend."""
        if self.cast and "animal" in self.cast[0].tags:
            return self.animal("walk")
        return self.child()

    def helper(self) -> Agent:
        """A grown-up in a story of people, an animal in a story of animals."""
        if self.cast and "animal" in self.cast[0].tags:
            return self.animal("walk")
        return self.adult()

    def thing(self, *tags: str, avoid: Iterable[str] = ()) -> Thing:
        """A thing with these tags, whose noun is new in this story and that has none of the tags to avoid."""
        groups = _things_with(tags, tuple(avoid))
        for _ in range(40):
            found = self.pick(self.pick(groups))
            if self._new_noun(found.key):
                self.props.append(found)
                self.entities[found.key] = found
                return found
        raise Unfit("no such thing is free")

    def counted(self, *tags: str) -> Countable:
        """Small things that are counted."""
        groups = [kind for kind in self.words.countables if kind.tags.issuperset(tags)]
        for _ in range(40):
            found = self.pick(groups)
            if self._new_noun(found.one) and self._new_noun(found.key):
                self.entities[found.key] = found
                return found
        raise Unfit("no such small things are free")

    def counted_kind(self, key: str) -> Countable:
        """The small things of this name, for a plot that needs just these ("coins")."""
        found = next((kind for kind in self.words.countables if kind.key == key), None)
        if found is None or not self._new_noun(found.one) or not self._new_noun(found.key):
            raise Unfit(f"{key} are no small things of words/countables.txt, or are in this story already")
        self.entities[found.key] = found
        return found

    def _new_noun(self, noun: str) -> bool:
        """Nouns of one story share no word, so that "the boat" is never two boats."""
        parts = set(noun.split())
        if parts & self.nouns:
            return False
        self.nouns |= parts
        return True

    def place(self, *tags: str, avoid: Iterable[str] = ()) -> Place:
        """A place with these tags where this story has not been."""
        groups = _places_with(tags, tuple(avoid))
        for _ in range(40):
            found = self.pick(groups)
            if found.key not in self.used_places and not self.nouns & set(found.key.split()):
                self.used_places.add(found.key)
                self.entities[found.key] = found
                return found
        raise Unfit("no such place is free")

    def feeling(self, tag: str) -> Word:
        """A feeling, "good" or "bad"."""
        return self.pick([word for word in self.words.feelings if tag in word.tags])

    # --- what is so -----------------------------------------------------------------------------------------------

    def get(self, relation: str, *about: Entity) -> Entity | int | str | bool | None:
        """What the state says: `get("holder", T)` is an Agent, `get("count", A, S)` a number, None if nothing."""
        found = self.state.get((relation, *[item.key for item in about]))
        return self.entities.get(found, found)

    # --- telling --------------------------------------------------------------------------------------------------

    def paragraph(self) -> None:
        """The next sentence begins a new paragraph."""
        if self.told:
            self._gap = "\n\n"

    def tell(self, name: str, *given: Entity | int, link: str = "", **more: Entity | int) -> None:
        """Let an event of a kind happen, and say it.

        The roles are given in the kind's order or by letter; those left out are what the kind's needs find in the
        state. `link` asks for a word that joins the sentence to the last one ("then", "so", "but", "later", "day",
        "end": words/links.txt).
        """
        kind = _kind(name)
        roles = dict(zip(kind.roles, given))
        roles.update(more)
        numbers = self.words.numbers
        for role, entity in roles.items():
            if type(entity) is int:
                roles[role] = numbers[entity]
        keys = {role: entity.key for role, entity in roles.items()}
        if self.strict or len(roles) < len(kind.roles):
            self._complete(kind, roles, keys)
        if link == "day":
            self._hour = None
        sentence = len(self.told)
        kind.apply(self.state, keys)
        self.events.append((name, keys, sentence))
        self._say(kind, roles, link)

    def _complete(self, kind: Kind, roles: dict, keys: dict) -> None:
        problems = kind.missing(self.state, keys) if self.strict else kind.fill(self.state, keys)
        if problems:
            raise ValueError(f"{kind.name} {keys} cannot happen now: {'; '.join(problems)}. Told so far: "
                             f"{' '.join(text for text, _ in self.told)}")
        for role in kind.roles:
            if role not in roles:
                if role not in keys:
                    raise ValueError(f"{kind.name}: role {role} was not given and its needs do not find it")
                value = keys[role]
                roles[role] = self.words.numbers[value] if isinstance(value, int) else self.entities[value]

    def _say(self, kind: Kind, roles: dict, link: str) -> None:
        chance = self.random()
        agents = [roles[role] for role in kind.agents]
        first = agents[0] if agents else None
        alike = len(agents) > 1 and len({agent.he for agent in agents}) < len(agents)
        phrasing = self._choose(kind, roles, alike, bool(link), chance)
        variants = phrasing.variants
        variant = variants[int(chance * 9973) % len(variants)] if len(variants) > 1 else variants[0]
        if (first is not None and first is self._focus and not self._gap and phrasing.leads
                and chance * 97 % 1 < _PRONOUN_SHARE and not any(first.he == other.he for other in agents[1:])):
            told = {**roles, kind.agents[0]: first.pronoun_view}
        else:
            told = roles
        text = self._text(variant, told, link)
        self._before.update(roles)
        gap = self._gap or (" " if self.told else "")
        self.told.append((text, gap))
        self.length += len(text) + 1
        self._gap = ""
        alone = phrasing.leads and not kind.brings and not any(first.he == other.he for other in agents[1:])
        self._focus = first if alone else None

    def realise(self, kind: Kind, roles: dict) -> str:
        """One way to say an event of a kind, without letting it happen."""
        fitting = [phrasing for phrasing in kind.phrasings if not phrasing.distinct and phrasing.fits(roles, {})
                   and all(role in roles for role in phrasing.named)]
        if not fitting:
            raise Unfit(f"no phrasing of {kind.name} suits {roles}")
        phrasing = self.pick(fitting)
        return self._text(self.pick(phrasing.variants), roles, "")

    def _choose(self, kind: Kind, roles: dict, alike: bool, linked: bool, chance: float) -> Phrasing:
        """One of the phrasings that suit, each as likely as the others; none twice in a story while there are more."""
        phrasings, used = kind.phrasings, self._used.setdefault(kind.name, [])
        few = self.short and kind.name not in COMMON_KINDS and not kind.name.startswith("open_")
        share = chance * (FEW_PHRASINGS if few else len(phrasings))
        number = int(share)
        if number in used or not self._suits(phrasings[number], roles, alike, linked):
            fit = [place for place, phrasing in enumerate(phrasings) if self._suits(phrasing, roles, alike, linked)]
            if not fit:
                if linked:
                    return self._choose(kind, roles, alike, False, chance)
                raise ValueError(f"{kind.source}: {kind.name} has no phrasing for {roles}")
            fit = fit[:FEW_PHRASINGS] if few else fit
            fresh = [place for place in fit if place not in used] or fit
            number = fresh[int(share % 1 * len(fresh))]
        used.append(number)
        return phrasings[number]

    def _suits(self, phrasing: Phrasing, roles: dict, alike: bool, linked: bool) -> bool:
        """Whether it can be said of these, here and now."""
        return not ((alike and phrasing.distinct) or (linked and not phrasing.linkable)
                    or (phrasing.conditions and not phrasing.fits(roles, self.state))
                    or (phrasing.carried and any(self._before.get(role) is not roles[role]
                                                 for role in phrasing.carried)))

    def _text(self, variant: Variant, roles: dict, link: str) -> str:
        extra = {}
        for role, second in variant.counts:
            n, kind = roles[role].value, roles[second]
            extra[f"{role}_{second}"] = kind.counted[n]
            extra[f"{role}_{second}_c"] = kind.counted_c[n]
        for name in variant.free:
            extra[f"_{name}"] = self._word(name)
        if extra:
            roles = {**roles, **extra}
        if link and variant.linked:
            words = [word for word in links()[link] if word not in self._linked] or links()[link]
            joint = self.pick(words)
            self._linked.add(joint)
            return f"{joint} {variant.linked.format_map(roles)}"
        return variant.first.format_map(roles)

    def _word(self, name: str) -> str:
        """A word of a list that carries no fact. The season, the time and the tree of a place stay what they are."""
        if name in SEASONS:
            return self._season(name)
        if name == "time":
            return self._time()
        if name == "tree" and self.cast:
            where = self.state.get(("place", self.hero.key))
            return self._trees.setdefault(where, self.pick(word_lists()[name]))
        return self.pick(word_lists()[name])

    def _season(self, name: str) -> str:
        """The season, the same in the whole story and one that goes with the weather, as that list says it."""
        if self._year is None:
            sky = self.state.get(("weather", "sky"))
            self._year = 3 if sky == "snow" else self.between(0, 2 if sky == "sun" else 3)
        return word_lists()[name][self._year]

    def _time(self) -> str:
        """The time of day, the same until another day comes."""
        if self._hour is None:
            self._hour = self.pick(word_lists()["time"])
        return self._hour

    # --- finishing ------------------------------------------------------------------------------------------------

    def end(self, name: str, *given: Entity | int, **more: Entity | int) -> None:
        """The last sentence: its kind is the story's ending."""
        self.tell(name, *given, **more)
        self.ending = name

    def fits(self) -> bool:
        """Whether the story has the right length and an ending."""
        words = sum(text.count(" ") + 1 for text, _ in self.told)
        fewest, most = SHORT_WORDS if self.short else WORDS
        return bool(self.ending) and fewest <= words <= most

    @property
    def hero(self) -> Agent:
        return self.cast[0]


_KINDS: dict[str, Kind] = {}


def _kind(name: str) -> Kind:
    """The kind, with a message that helps who writes a plot."""
    if not _KINDS:
        _KINDS.update(all_kinds())
    try:
        return _KINDS[name]
    except KeyError:
        near = [other for other in _KINDS if name.split("_")[0] in other]
        raise ValueError(f"no kind {name!r} in phrases/*.txt; near it: {near[:8]}") from None


@cache
def _species_with(tags: tuple[str, ...]) -> list[str]:
    return [kind for kind, has in lexicon().species.items() if has.issuperset(tags)]


@cache
def _creatures_with(tags: tuple[str, ...]) -> list[Agent]:
    return [creature for creature in lexicon().creatures if creature.tags.issuperset(tags)]


@cache
def _things_with(tags: tuple[str, ...], avoid: tuple[str, ...]) -> list[tuple[Thing, ...]]:
    groups = [group for group in lexicon().things
              if group[0].tags.issuperset(tags) and not group[0].tags.intersection(avoid)]
    if not groups:
        raise ValueError(f"no thing has the tags {tags} without {avoid}: see words/things.txt")
    return groups


@cache
def _places_with(tags: tuple[str, ...], avoid: tuple[str, ...]) -> list[Place]:
    groups = [place for place in lexicon().places
              if place.tags.issuperset(tags) and not place.tags.intersection(avoid)]
    if not groups:
        raise ValueError(f"no place has the tags {tags} without {avoid}: see words/places.txt")
    return groups

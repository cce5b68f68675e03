"""The words of the small world: who lives in it, what there is, where one can be, and the forms in which they are said.

Each entity is made once and holds all its forms as attributes, so that a phrasing is a format string: `{A.s}` is
the subject's name or pronoun, `{T.a}` a thing with its article and adjective, `{P.at}` a place with its preposition.
The lists are package data, `words/*.txt`, in a format that their first lines describe.
"""

from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FORMS = {"she": ("her", "her", "herself", "hers"), "he": ("him", "his", "himself", "his"),
         "it": ("it", "its", "itself", "its")}
NUMBER_WORDS = ("no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
                "seventeen eighteen nineteen twenty").split()
NUMBER_WORDS += [f"{tens}{'-' * bool(unit)}{unit}" for tens in ("twenty", "thirty", "forty", "fifty")
                 for unit in ["", *NUMBER_WORDS[1:10]]][1:]
ORDINALS = ("zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth").split()


def article(noun_phrase: str) -> str:
    """`a` or `an` with the phrase. The one vowel that sounds like a consonant here is the u of "useful"."""
    vowel = noun_phrase[0] in "aeiou" and not noun_phrase.startswith(("use", "one", "uni", "eu"))
    return f"{'an' if vowel else 'a'} {noun_phrase}"


def genitive(name: str) -> str:
    return f"{name}'s"


class Entity:
    """Something that a role of a sentence can stand for. `key` is its name in the facts."""

    key: str
    tags: frozenset[str]

    def __repr__(self) -> str:
        return self.key

    def _capitals(self) -> None:
        """Each form again for the beginning of a sentence: `the_c` is "The kite"."""
        for name, form in list(vars(self).items()):
            if isinstance(form, str) and form:
                setattr(self, f"{name}_c", form[0].upper() + form[1:])

    def __reduce__(self):
        return _again, (type(self).__name__, self.key, getattr(self, "adj", None) or getattr(self, "species", None))


class Agent(Entity):
    """A person or an animal: `s` subject, `o` object, `g` genitive (these three become pronouns in a pronoun's view),
    `n` and `ng` always the name, `he him his himself`, `kind` ("girl", "hedgehog"), `a` ("a girl"), `voc` (spoken to),
    `intro` at the first mention ("Pip the hedgehog", "a fox", "Mira").
    """

    def __init__(self, key: str, pronoun: str, species: str, tags: frozenset[str]):
        self.key, self.species, self.tags = key, species, tags
        self.n = self.s = self.o = self.voc = key
        self.ng = self.g = genitive(key)
        self.he = pronoun
        self.him, self.his, self.himself, self.hers = FORMS[pronoun]
        self.kind, self.a, self.the = species, article(species), f"the {species}"
        self.intro = article(species) if "creature" in tags else f"{key} the {species}" if "animal" in tags else key
        self.pronoun_view: Agent | None = None
        self._capitals()

    def with_view(self) -> "Agent":
        view = Agent(self.key, self.he, self.species, self.tags)
        view.s, view.o, view.g = self.he, self.him, self.his
        view._capitals()
        self.pronoun_view = view
        return self


class Thing(Entity):
    """One thing: `a` ("a red kite"), `the` ("the kite"), `n` ("kite"), `full` ("red kite"), `thefull`, `adj`."""

    def __init__(self, noun: str, adj: str, tags: frozenset[str]):
        self.key, self.adj, self.tags = noun, adj, tags
        self.n, self.full = noun, f"{adj} {noun}"
        self.a = f"some {self.full}" if "some" in tags else article(self.full)
        self.an = f"some {noun}" if "some" in tags else article(noun)
        self.the, self.thefull = f"the {noun}", f"the {self.full}"
        self._capitals()


class Countable(Entity):
    """Small things of one kind: `many` ("apples"), `one` ("apple"), `an` ("an apple"); counted as `{N_S}`."""

    def __init__(self, one: str, many: str, tags: frozenset[str]):
        self.key, self.one, self.many, self.tags = many, one, many, tags
        self.an = article(one)
        self.the, self.theone = f"the {many}", f"the {one}"
        self.counted = [f"{word} {one if n == 1 else many}" for n, word in enumerate(NUMBER_WORDS)]
        self.counted_c = [text.capitalize() for text in self.counted]
        self._capitals()


class Place(Entity):
    """`at` ("by the river"), `to` ("down to the river"), `the` ("the river")."""

    def __init__(self, key: str, tags: frozenset[str], at: str = "", to: str = "", the: str = ""):
        self.key, self.tags = key, tags
        self.the = the or f"the {key}"
        self.at, self.to = at or f"at {self.the}", to or f"to {self.the}"
        self._capitals()


class Number(Entity):
    """`w` ("three"), `th` ("third"), `was`, `is` and `were` in agreement."""

    def __init__(self, value: int):
        self.key, self.value, self.tags = value, value, frozenset()
        self.w = NUMBER_WORDS[value] if value else "none"
        self.th = ORDINALS[value] if value < len(ORDINALS) else ""
        self.was, self.is_, self.has = ("was", "is", "has") if value == 1 else ("were", "are", "have")
        self.them = "it" if value == 1 else "them"
        self._capitals()


class Word(Entity):
    """A feeling, or another word that is only itself: `w`."""

    def __init__(self, key: str, tags: frozenset[str] = frozenset()):
        self.key = self.w = key
        self.tags = tags
        self._capitals()


def _lines(name: str) -> list[str]:
    text = (HERE / "words" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _split(text: str, mark: str = ",") -> list[str]:
    return [part.strip() for part in text.split(mark)]


class Lexicon:
    """All words, by kind. `people` and `animal_names` are agents' names; `things` has a tuple of Thing per noun."""

    def __init__(self):
        self.people: list[Agent] = []
        self.species: dict[str, frozenset[str]] = {}
        self.animal_names: list[tuple[str, str]] = []
        for line in _lines("people.txt"):
            head, names = _split(line, ":")
            pronoun, kind, *tags = head.split()
            self.people += [Agent(name, pronoun, kind, frozenset([*tags, kind, "person"])).with_view()
                            for name in _split(names)]
        for line in _lines("creatures.txt"):
            head, rest = _split(line, ":")
            if head.endswith(" names"):
                self.animal_names += [(name, head.split()[0]) for name in _split(rest)]
            else:
                self.species[head] = frozenset(rest.split())
        self.children = [agent for agent in self.people if "child" in agent.tags]
        self.adults = [agent for agent in self.people if "adult" in agent.tags]
        self.creatures = [Agent(f"the {kind}", "it", kind, tags | {"creature"}).with_view()
                          for kind, tags in self.species.items()]
        self.things = [_thing(line) for line in _lines("things.txt")]
        self.countables = [_countable(line) for line in _lines("countables.txt")]
        self.places = [_place(line) for line in _lines("places.txt")]
        self.feelings = [Word(word, frozenset([tag])) for line in _lines("moods.txt")
                         for tag, words in [_split(line, ":")] for word in _split(words)]
        self.numbers = [Number(value) for value in range(len(NUMBER_WORDS))]
        self._named: dict[tuple[str, str], Agent] = {}

    def animal(self, name: str, pronoun: str, species: str) -> Agent:
        """A named animal, the same object each time."""
        known = self._named.get((name, species))
        if known is None:
            tags = self.species[species] | {"animal", "named"}
            known = self._named[name, species] = Agent(name, pronoun, species, tags).with_view()
        return known


def _thing(line: str) -> tuple[Thing, ...]:
    head, adjectives = _split(line, "|")
    noun, tags = _split(head, ":")
    return tuple(Thing(noun, adj, frozenset(tags.split())) for adj in _split(adjectives))


def _countable(line: str) -> Countable:
    nouns, tags = _split(line, ":")
    return Countable(*nouns.split("/"), frozenset(tags.split()))


def _place(line: str) -> Place:
    head, tags = _split(line.split("|")[0], ":")
    return Place(head, frozenset(tags.split()), *_split(line, "|")[1:])


@cache
def lexicon() -> Lexicon:
    """The words, read once."""
    return Lexicon()


@cache
def indoor_places() -> frozenset[str]:
    """The keys of the places that have a roof."""
    return frozenset(place.key for place in lexicon().places if "indoors" in place.tags)


@cache
def _by_key() -> dict:
    words = lexicon()
    found = {agent.key: agent for agent in [*words.people, *words.creatures]}
    found |= {item.key: item for item in [*words.countables, *words.places, *words.feelings, *words.numbers]}
    return found | {(thing.key, thing.adj): thing for group in words.things for thing in group}


def _again(kind: str, key, extra):
    """The entity that was pickled: the same object as everywhere in this process."""
    if kind == "Thing":
        return _by_key()[key, extra]
    if kind == "Agent" and key not in _by_key():
        pronoun = dict(lexicon().animal_names)[key]
        return lexicon().animal(key, pronoun, extra)
    return _by_key()[key]

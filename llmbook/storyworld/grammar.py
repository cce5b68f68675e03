"""The sentence kinds and their phrasings, read from `phrases/*.txt` and compiled to format strings.

A kind stands in the files like this (`llmbook/storyworld/phrases/README.md` explains all of it):

    == give A B T
    needs: holder T = A
    does: holder T = B
    - {A} gave {B.o} {T}.
    - "[Here|Take it], {B.voc}," said {A}, and handed over {T.the}.

A phrasing may be one sentence or several. `[a|b]` are alternatives, `<colour>` a word from a list that carries no
fact, `(T food)` in front says for what it is used. One kind is compiled when it is first told.
"""

import re
from functools import cache
from itertools import product

from . import rules
from .english import begins_sentence, genitive_form, subject_form
from .words import HERE

PHRASES = HERE / "phrases"
AGENT_ROLES, THING_ROLES = frozenset("ABCD"), frozenset("TUV")
CLASSES = {**dict.fromkeys("ABCD", "agent"), **dict.fromkeys("TUVO", "thing"), **dict.fromkeys("SR", "countable"),
           **dict.fromkeys("PQ", "place"), **dict.fromkeys("NKM", "number"), **dict.fromkeys("F", "feeling")}
_DEFAULT = {"agent": "s", "thing": "the", "countable": "many", "place": "the", "number": "w", "feeling": "w"}
_PRONOUNS = frozenset({"he", "him", "his", "himself", "hers"})
_SLOT = re.compile(r"\{(\^?)(\w)(?:(?:\.(\w+))|('s)|(?: (\w)))?\}")
_TOUCHING = re.compile(r"[>}]\w|\w[<{]")
_PIECE = re.compile(r"(\{[^}]*\}|<\w+>)")
LINKABLE = 64  # characters: longer phrasings stand better without a joining word
SEASONS = frozenset({"season", "season_day"})  # lists in step: a story keeps to one season


class Slot:
    """A place in a phrasing that an entity's form fills: `{T.a}` is role T, form "a"."""

    __slots__ = ("role", "form", "second")

    def __init__(self, role: str, form: str, second: str | None = None):
        self.role, self.form, self.second = role, form, second


class Variant:
    """A phrasing with its alternatives decided: `pieces` (text, Slot, or the name of a list), and format strings."""

    __slots__ = ("pieces", "first", "linked", "free", "counts")

    def __init__(self, text: str):
        touching = _TOUCHING.search(text)
        if touching:
            raise ValueError(f"{text!r}: at {touching[0]!r} a slot touches a letter; for plurals take <birds>, {{S}}")
        self.pieces = [_piece(part, *around) for part, *around in _parts(text) if part]
        self.free = list(dict.fromkeys(piece[1] for piece in self.pieces if isinstance(piece, tuple)))
        self.counts = [(piece.role, piece.second) for piece in self.pieces if isinstance(piece, Slot) and piece.second]
        self.first = self._format(True)
        head = self.pieces[0]
        linkable = isinstance(head, Slot) and CLASSES[head.role] == "agent" and head.form in ("s", "n")
        self.linked = self._format(False) if linkable else None

    def _format(self, capital: bool) -> str:
        out, text = [], ""
        for piece, following in zip(self.pieces, [*self.pieces[1:], ""]):
            after = following if isinstance(following, str) else " x"
            raised = (capital and not text.strip('"')) or begins_sentence(text, after)
            if isinstance(piece, str):
                shown = _raise(piece) if raised else piece
            elif isinstance(piece, tuple):
                shown = f"{{_{piece[1]}}}"  # a list that stands twice in a phrasing gives one word
            elif piece.second:
                shown = f"{{{piece.role}_{piece.second}{'_c' if raised else ''}}}"
            else:
                shown = f"{{{piece.role}.{piece.form}{'_c' if raised else ''}}}"
            out.append(shown)
            text += piece if isinstance(piece, str) else "x"
        return "".join(out)


def _raise(text: str) -> str:
    quotes = len(text) - len(text.lstrip('"'))
    return text[:quotes] + text[quotes:quotes + 1].upper() + text[quotes + 1:]


def _parts(text: str):
    position = 0
    for match in _PIECE.finditer(text):
        yield text[position:match.start()], "", ""
        yield match[0], text[:match.start()], text[match.end():]
        position = match.end()
    yield text[position:], "", ""


def _piece(part: str, before: str, after: str):
    if part.startswith("<"):
        return ("list", part[1:-1])
    if not part.startswith("{"):
        return part
    match = _SLOT.fullmatch(part)
    if not match or match[2] not in CLASSES:
        raise ValueError(f"slot {part} is not of the form {{A}}, {{A's}}, {{A.form}} or {{N S}}")
    _, role, form, genitive, second = match.groups()
    if second:
        return Slot(role, "counted", second)
    if genitive:
        return Slot(role, genitive_form(after))
    form = form or _DEFAULT[CLASSES[role]]
    if form == "s":
        form = subject_form(before, after)
    elif form == "o" and after.startswith(", who"):
        form = "n"
    return Slot(role, form)


def alternatives(text: str) -> list[str]:
    """All the texts that `[a|b]` stands for."""
    pieces = re.split(r"\[([^\]]*)\]", text)
    choices = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*choices)]


class Phrasing:
    """One way to say a kind: its variants, and when it may be used."""

    __slots__ = ("text", "conditions", "variants", "distinct", "linkable", "carried", "named", "leads")

    def __init__(self, text: str, kind: "Kind"):
        self.text = text
        self.conditions: list[tuple[str, str, bool]] = []
        if text.startswith("("):
            inside, text = text[1:].split(")", 1)
            for condition in inside.split(","):
                role, *tag = condition.split()
                self.conditions.append((role, tag[-1], tag[0] != "not"))
        self.variants = [Variant(option) for option in alternatives(text.strip())]
        slots = [piece for piece in self.variants[0].pieces if isinstance(piece, Slot)]
        self.conditions += [(role, "named", True)
                            for role in sorted({slot.role for slot in slots if slot.form == "voc"})]
        # whether the subject is the first who is named: only then can a pronoun stand for it, here and in what follows
        self.leads = next((slot.role for slot in slots if slot.role in AGENT_ROLES), None) == "A"
        pronouns = {slot.role for slot in slots if slot.form in _PRONOUNS}
        # a pronoun of the second agent can be told from the first one's only where they differ
        self.distinct = bool(pronouns - {"A"}) or (bool(pronouns) and self._second_first(slots))
        self.linkable = len(text) < LINKABLE and all(variant.linked for variant in self.variants)
        named = [{role for piece in variant.pieces if isinstance(piece, Slot)
                  for role in (piece.role, piece.second) if role} for variant in self.variants]
        self.named = frozenset(set.union(*named))
        unknown = sorted(self.named - set(kind.roles))
        if unknown:
            raise ValueError(f"{self.text!r} has a slot of role {unknown[0]}, which the kind has not: add it there")
        # roles that are neither said nor found by a need: they must be the ones of the sentence before
        self.carried = tuple(kind.left_open(set.intersection(*named)))

    @staticmethod
    def _second_first(slots: list[Slot]) -> bool:
        agents = [slot.role for slot in slots if slot.role in AGENT_ROLES]
        return bool(agents) and agents[0] != "A"

    def fits(self, roles: dict, state: rules.State) -> bool:
        """Whether the phrasing may be used of these: the tags in brackets, and who must be indoors or outdoors."""
        return all((rules.is_side(state, roles[role].key, tag) if tag in rules.SIDES and role in AGENT_ROLES else
                    tag in roles[role].tags) is wanted for role, tag, wanted in self.conditions)


class Kind:
    """A kind of event: its roles, what it needs, what it does and how it is said."""

    def __init__(self, name: str, roles: list[str], lines: list[str], source: str):
        self.name, self.roles, self.source = name, roles, source
        self.apart = "apart" in roles
        self.roles = [role for role in roles if role != "apart"]
        self.needs_text: list[str] = []
        self.does_text: list[str] = []
        self.texts: list[str] = []
        self.title = ""  # of an ending: the clause with which it can be asked for
        for line in lines:
            if line.startswith("needs:"):
                self.needs_text += [part.strip() for part in line[6:].split(";") if part.strip()]
            elif line.startswith("does:"):
                self.does_text += [part.strip() for part in line[5:].split(";") if part.strip()]
            elif line.startswith("title:"):
                self.title = line[6:].strip()
            elif line.startswith("- "):
                self.texts.append(line[2:].strip())
            else:
                raise ValueError(f"{source}: {name}: the line {line!r} begins with none of needs:, does:, title:, -")
        self.agents = [role for role in self.roles if role in AGENT_ROLES]
        self._defaults()
        self.deeds = [rules.parse_deed(text) for text in self.does_text]
        self.needs = [rules.parse_need(text) for text in self.needs_text]
        self._finding = [need for text, need in zip(self.needs_text, self.needs)
                         if any(rules.finds(text, rules.roles_in(text) - {role}) for role in rules.roles_in(text))]
        self._phrasings: list[Phrasing] | None = None

    def _defaults(self) -> None:
        """Who acts has been introduced; who acts together is at one place, and who comes in, comes in there."""
        new = {text.split()[1] for text in self.does_text if text.startswith("known ")}
        known = [f"known {role}" for role in self.roles if role in AGENT_ROLES | THING_ROLES and role not in new]
        old_agents = [role for role in self.agents if role not in new]
        if len(old_agents) > 1 and not self.apart:
            known.append("together " + " ".join(old_agents))
        once = [f"not known {role}" for role in self.roles if role in new]  # nobody is introduced twice
        self.needs_text = known + once + self.needs_text
        self.new = new
        self.brings = bool(self.new & set(self.agents[1:]))  # somebody whose pronoun nobody knows yet
        self.opens = self.name.startswith("open_") and not old_agents  # a story's first sentence
        placed = {text.split()[1] for text in self.does_text if text.startswith("place ")}
        self.arrives = [role for role in self.agents if role in new and role not in placed
                        and old_agents and not self.apart]

    @property
    def phrasings(self) -> list[Phrasing]:
        if self._phrasings is None:
            try:
                self._phrasings = [Phrasing(text, self) for text in self.texts]
            except (ValueError, KeyError, IndexError) as error:
                raise ValueError(f"{self.source}: {self.name}: {error}") from error
        return self._phrasings

    def left_open(self, named: set[str]) -> list[str]:
        """The roles that must be carried over from the sentences before, if only `named` are said."""
        carried: list[str] = []
        while len(named) < len(self.roles):
            found = next((role for text in self.needs_text if (role := rules.finds(text, named))), None)
            if found is None:
                found = next(role for role in self.roles if role not in named)
                carried.append(found)
            named = named | {found}
        return carried

    def apply(self, state: rules.State, keys: rules.Keys) -> None:
        """The event's effects on the state."""
        for deed in self.deeds:
            deed(state, keys)
        for role in self.arrives:
            here = next((state[place] for other in self.agents if other not in self.new
                         and (place := ("place", keys.get(other))) in state), None)
            if here is not None and role in keys:
                state["place", keys[role]] = here

    def fill(self, state: rules.State, keys: rules.Keys) -> None:
        """Fill in the roles that the state determines, without a look at the other needs."""
        known = 0
        while known < len(keys) < len(self.roles):
            known = len(keys)
            for need in self._finding:
                need(state, keys)

    def missing(self, state: rules.State, keys: rules.Keys) -> list[str]:
        """What the state lacks for this event; fills roles that the state determines."""
        while True:
            known = len(keys)
            problems = [problem for need in self.needs if (problem := need(state, keys))]
            if len(keys) == known:  # a role that was found may be one that an earlier need had to pass over
                return problems


def read_kinds(text: str, source: str) -> list[Kind]:
    """The kinds of one file."""
    kinds, head, body = [], None, []
    for line in [*text.splitlines(), "== end"]:
        line = line.strip()
        if line.startswith("== "):
            if head:
                kinds.append(Kind(head[0], head[1:], body, source))
            head, body = line[3:].split(), []
        elif line and not line.startswith("#"):
            body.append(line)
    return kinds


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind of every file, by name."""
    found: dict[str, Kind] = {}
    for path in sorted(PHRASES.glob("*.txt")):
        for kind in read_kinds(path.read_text(encoding="utf-8"), path.name):
            if kind.name in found:
                raise ValueError(f"{path.name}: the kind {kind.name} is in {found[kind.name].source} too: rename it")
            found[kind.name] = kind
    return found


@cache
def word_lists() -> dict[str, list[str]]:
    """The lists that `<name>` takes a word from."""
    lines = (HERE / "words" / "lists.txt").read_text(encoding="utf-8").splitlines()
    return {head.strip(): [word.strip() for word in rest.split(",")]
            for line in lines if line.strip() and not line.startswith("#") for head, rest in [line.split(":", 1)]}


@cache
def links() -> dict[str, list[str]]:
    """Words that join a sentence to the one before ("Then", "After that,"), by what they mean."""
    lines = (HERE / "words" / "links.txt").read_text(encoding="utf-8").splitlines()
    return {head.strip(): [word.strip() for word in rest.split("|")]
            for line in lines if line.strip() and not line.startswith("#") for head, rest in [line.split(":", 1)]}

"""Is a story consistent? Its sentences are read back, and the world they tell is simulated again.

What the simulator obeys when it makes a story, the needs and deeds of the sentence kinds, is what is checked here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from .grammar import all_kinds
from .reading import Said, Unit, read
from .rules import State
from .words import lexicon
from .world import Event, Story


@dataclass(frozen=True)
class Problem:
    """Something wrong: `kind` is "unknown sentence", "unclear pronoun", "contradiction", "no ending" or "missing"."""

    kind: str
    message: str
    sentence: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass
class Report:
    """What a text says and what is wrong with it: `events` as read, the `state` at its end, and the `problems`."""

    events: list[Event] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    state: State = field(default_factory=dict)
    ending: str = ""

    @property
    def grammatical(self) -> bool:
        """Whether each sentence is one that the phrasings can make."""
        return not any(problem.kind == "unknown sentence" for problem in self.problems)

    @property
    def consistent(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.problems


@cache
def _pronouns() -> dict[str, str]:
    words = lexicon()
    return ({agent.key: agent.he for agent in [*words.people, *words.creatures]} | dict(words.animal_names))


class _Simulation:
    """The world of a text, sentence by sentence."""

    def __init__(self) -> None:
        self.state: State = {}
        self.focus: str | None = None
        self.before: dict = {}

    def try_reading(self, said: Said) -> tuple[list[tuple[str, str]], dict]:
        """The problems of a reading, and its roles as far as they can be known."""
        kind, problems = all_kinds()[said.kind], []
        keys = dict(said.keys)
        for role in kind.phrasings[said.phrasing].carried:
            if role not in keys and role in self.before:
                keys[role] = self.before[role]
        for role, pronoun in said.pronouns.items():
            if role not in said.keys and kind.agents and role == kind.agents[0] and self.focus:
                keys[role] = self.focus
            if role in keys and _pronouns().get(keys[role]) != pronoun:
                problems.append(("unclear pronoun", f"{pronoun} cannot be {keys[role]}"))
        problems += [("contradiction", text) for text in kind.missing(self.state, keys)]
        problems += [("contradiction", f"{keys[role]} is nobody who could do this")
                     for role in kind.agents if role in keys and keys[role] not in _pronouns()]
        for role, pronoun in said.pronouns.items():
            if role not in keys:
                problems.append(("unclear pronoun", f"nobody is named whom {pronoun} could stand for"))
        problems += [("contradiction", f"nothing told so far can be meant in {said.kind} (role {role})")
                     for role in kind.roles if role not in keys and role not in said.pronouns]
        for role, detail in said.details.items():
            known = self.state.get(("detail", keys.get(role)))
            if known not in (None, detail):
                problems.append(("contradiction", f"{keys.get(role)} was {known}, not {detail}"))
        season = self.state.get(("season", "now"))
        if season not in (None, said.words.get("season", season)):
            problems.append(("contradiction", f"it was {season}, not {said.words['season']}"))
        agents = [keys[role] for role in kind.agents if role in said.keys or role in said.pronouns and role in keys]
        if len(set(agents)) < len(agents):
            problems.append(("contradiction", f"{agents[0]} does this with {agents[0]}: one name for two"))
        return problems, keys

    def accept(self, said: Said, keys: dict) -> None:
        """Let the event happen."""
        kind = all_kinds()[said.kind]
        kind.apply(self.state, keys)
        self.before.update(keys)
        if "season" in said.words:
            self.state["season", "now"] = said.words["season"]
        for role, detail in said.details.items():
            if role in keys:
                self.state["detail", keys[role]] = detail
        agents = [keys[role] for role in kind.agents if role in keys]
        alone = (agents and kind.phrasings[said.phrasing].leads and not kind.brings
                 and _pronouns().get(agents[0]) not in {_pronouns().get(other) for other in agents[1:]})
        self.focus = agents[0] if alone and kind.agents[0] in keys else None


def check(text: str | Story, facts: Iterable[Event] | None = None, *, prompt: Mapping[str, object] | None = None
          ) -> Report:
    """Read a generated story back and say what is wrong with it.

    `facts` are events that the text should tell (a story's own, for instance); `prompt` asks for elements: any of
    `names`, `things`, `places`, `kinds` (lists of keys that must occur) and `ending` (the kind of the last sentence).

    Problems that are found: sentences that no phrasing yields, pronouns that stand for nobody, contradictions (a
    thing in two hands, somebody who acts before being introduced, a lost thing in use, wrong sums, two who talk in
    different places), an ending that does not fit or is missing, and asked-for elements that do not occur.
    """
    report = Report()
    world = _Simulation()
    units = read(text.text if isinstance(text, Story) else text)
    for number, unit in enumerate(units):
        report.sentences.append(unit.text)
        _read_unit(unit, number, world, report)
    report.state = world.state
    last = report.events[-1] if report.events else None
    if last is not None and last.sentence == len(units) - 1 and last.kind.startswith("end_"):
        report.ending = last.kind
    else:
        report.problems.append(Problem("no ending", "the last sentence ends no story"))
    if facts is not None:
        _compare(report, facts)
    if prompt is not None:
        _asked_for(report, prompt)
    return report


def _read_unit(unit: Unit, number: int, world: _Simulation, report: Report) -> None:
    if not unit.readings:
        report.problems.append(Problem("unknown sentence", repr(unit.text), number))
        world.focus = None
        return
    tried = [(world.try_reading(said), said) for said in unit.readings]
    (problems, keys), said = min(tried, key=lambda entry: len(entry[0][0]))
    if said.kind.startswith("end_") and report.ending:
        problems.append(("contradiction", "the story had ended already"))
    if all_kinds()[said.kind].opens and number:
        problems.append(("contradiction", "the story had begun already"))
    report.problems += [Problem(kind, message, number) for kind, message in problems]
    report.events.append(Event(said.kind, keys, number))
    world.accept(said, keys)
    report.ending = said.kind if said.kind.startswith("end_") else report.ending


def _compare(report: Report, facts: Iterable[Event]) -> None:
    """Each fact must be told, with all the roles that the text names."""
    told = {(event.kind, tuple(sorted(event.roles.items()))) for event in report.events}
    for fact in facts:
        if (fact.kind, tuple(sorted(fact.roles.items()))) not in told:
            named = ", ".join(f"{role} {value}" for role, value in fact.roles.items())
            report.problems.append(Problem("missing", f"{fact.kind} ({named}) is not told"))


def _asked_for(report: Report, prompt: Mapping[str, object]) -> None:
    mentioned = {value for event in report.events for value in event.roles.values()}
    for what in ("names", "things", "places"):
        for wanted in prompt.get(what, ()):
            if wanted not in mentioned:
                report.problems.append(Problem("missing", f"{wanted} was asked for and does not occur"))
    kinds = {event.kind for event in report.events}
    for wanted in prompt.get("kinds", ()):
        if wanted not in kinds:
            report.problems.append(Problem("missing", f"an event {wanted} was asked for and does not occur"))
    ending = prompt.get("ending")
    if ending is not None and report.ending != ending:
        report.problems.append(Problem("missing", f"the ending should be {ending}, but is {report.ending or 'none'}"))

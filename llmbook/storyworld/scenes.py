"""Scenes that many plots use: how a story opens, side scenes, sub-plots that nest in others."""

from functools import cache, wraps

from .grammar import Kind, all_kinds
from .words import Agent, Place
from .world import World


@cache
def _group(prefix: str, roles: str) -> tuple[Kind, ...]:
    """The kinds whose names begin so and that have just these roles. A new one in the files joins in by itself."""
    return tuple(kind for name, kind in sorted(all_kinds().items())
                 if name.startswith(prefix) and "".join(kind.roles) == roles)


def subplot(name: str):
    """Marks a function (world, ...) as a plot that nests in others: the story's `plots` name it."""
    def mark(tell):
        @wraps(tell)
        def told(w: World, *given, **more):
            w.plots.append(name)
            return tell(w, *given, **more)
        return told
    return mark


def hero(w: World) -> Agent:
    """The hero: two in three a child, else an animal that walks and has a name."""
    return w.child() if w.chance(0.66) else w.animal("walk")


def opening(w: World, a: Agent, p: Place | None = None) -> Place:
    """The first sentence: introduces `a` at `p` (or at a place where stories begin)."""
    p = p or w.place("start")
    w.tell(_opening_kind(w, "AP"), a, p)
    return p


@cache
def _openings(roles: str, weather: bool) -> tuple[str, ...]:
    return tuple(kind.name for kind in _group("open_", roles)
                 if any(text.startswith("weather") for text in kind.does_text) is weather)


def _opening_kind(w: World, roles: str) -> str:
    """One opening in four is about the weather."""
    return w.pick(_openings(roles, w.chance(0.25)))


def opening_two(w: World, a: Agent, b: Agent, p: Place | None = None, together: bool = False) -> Place:
    """The first sentence, with two friends in it; or one, and the other comes along (not if they are `together`)."""
    p = p or w.place("start")
    if together or w.chance(0.5):
        w.tell(_opening_kind(w, "ABP"), a, b, p)
    else:
        opening(w, a, p)
        w.tell("meet", a, b)
    return p


def _fitting(w: World, kinds: tuple[Kind, ...], roles: dict) -> Kind | None:
    """One of the kinds, if the world allows it now."""
    kind = w.pick(kinds)
    keys = {role: entity.key for role, entity in roles.items()}
    told = any(name == kind.name for name, _, _ in w.events)
    return None if told or kind.missing(w.state, keys) else kind


_TROUBLED = ("sad", "afraid", "worried", "ashamed", "jealous")


def _calm(w: World, *agents: Agent) -> bool:
    """Whether a side scene is in place: nobody is in trouble, and the paragraph has none yet."""
    return not w.crowded() and all(w.get("feels", agent) not in _TROUBLED for agent in agents)


def aside(w: World, a: Agent, share: float = 0.6) -> None:
    """A detail beside the path (a kind `aside_…` of role A), if the story has room for one."""
    if w.room(250) and w.chance(share) and _calm(w, a):
        kind = _fitting(w, _group("aside_", "A"), {"A": a})
        if kind is not None:
            w.tell(kind.name, a)


def aside_two(w: World, a: Agent, b: Agent, share: float = 0.5) -> None:
    """A short scene between two who are together (a kind `aside_…` of roles A B), if the story has room."""
    if w.room(250) and w.chance(share) and _calm(w, a, b):
        kind = _fitting(w, _group("aside_", "AB"), {"A": a, "B": b})
        if kind is not None:
            w.tell(kind.name, a, b)


def feel(w: World, a: Agent, glad: bool, share: float = 0.45) -> None:
    """How `a` feels now, said or not."""
    if w.chance(share):
        w.tell("feel_glad" if glad else "feel_sad", a)

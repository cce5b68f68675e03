"""What is wrong in the tables: too few phrasings, the same sentence for two kinds, roles that no reader can know."""

from .grammar import AGENT_ROLES, THING_ROLES, Kind, Phrasing, Slot, all_kinds
from .reading import tree
from .rules import roles_in

FEWEST_PHRASINGS = 12


def problems() -> list[str]:
    """Everything that is wrong in all files, one line for each."""
    found = [f"{kind.source}: {kind.name}: {fault}" for kind in all_kinds().values() for fault in faults(kind)]
    return found + _ambiguous()


def faults(kind: Kind) -> list[str]:
    """What is wrong with one kind."""
    found = []
    if len(kind.texts) < FEWEST_PHRASINGS:
        found.append(f"{len(kind.texts)} phrasings, fewer than {FEWEST_PHRASINGS}")
    if len(set(kind.texts)) < len(kind.texts):
        found.append("a phrasing stands twice")
    if kind.name.startswith("end_") and not kind.title:
        found.append("an ending without a line `title:`")
    stray = sorted({role for text in kind.needs_text + kind.does_text for role in roles_in(text)} - set(kind.roles))
    found += [f"role {role} stands in a statement, but not among the roles of the kind" for role in stray]
    for text in kind.texts:
        if not text.isascii():
            found.append(f"not ASCII: {text!r}")
        if text.rstrip('"')[-1] not in ".!?":
            found.append(f"does not end a sentence: {text!r}")
        if text.count('"') % 2:
            found.append(f"odd number of quotation marks: {text!r}")
    if not any(not phrasing.carried and not phrasing.distinct and not phrasing.conditions
               for phrasing in kind.phrasings):
        found.append("no phrasing that always fits: without conditions, naming all roles that no need finds, and "
                     "clear for two with the same pronoun (no {B.he}, {B.him}, {B.his})")
    return found + [fault for phrasing in kind.phrasings for fault in _introductions(kind, phrasing)]


def _introductions(kind: Kind, phrasing: Phrasing) -> list[str]:
    """A phrasing that brings somebody or something in must name it as one does at the first mention."""
    slots = [piece for piece in phrasing.variants[0].pieces if isinstance(piece, Slot)]
    forms = {(slot.role, slot.form) for slot in slots}
    found = []
    for role in sorted(kind.new):
        wanted = ("intro", "n", "ng") if role in AGENT_ROLES else ("a",) if role in THING_ROLES else ()
        if wanted and not any((role, form) in forms for form in wanted):
            found.append(f"{phrasing.text!r} introduces {role} without {{{role}.{wanted[0]}}}")
    return found


def _ambiguous() -> list[str]:
    """Phrasings of two kinds that are the same tokens and slots."""
    found, nodes = [], [tree()]
    while nodes:
        node = nodes.pop()
        kinds = sorted({name for name, _ in node.ends})
        if len(kinds) > 1:
            name, number = node.ends[0]
            found.append(f"one sentence for {' and '.join(kinds)}: {all_kinds()[name].texts[number]!r}")
        nodes += [*node.words.values(), *node.slots.values()]
    return found

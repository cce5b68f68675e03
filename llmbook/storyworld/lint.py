"""What is wrong in the tables: too few phrasings, the same sentence for two kinds, roles that no reader can know."""

from .grammar import AGENT_ROLES, THING_ROLES, Kind, Slot, all_kinds
from .reading import tree
from .rules import roles_in

FEWEST_PHRASINGS = 12


def problems() -> list[str]:
    """One line for each."""
    found = []
    for kind in all_kinds().values():
        found += [f"{kind.source}: {kind.name}: {problem}" for problem in _of_kind(kind)]
    return found + _ambiguous()


def _of_kind(kind: Kind) -> list[str]:
    found = []
    if len(kind.texts) < FEWEST_PHRASINGS:
        found.append(f"{len(kind.texts)} phrasings, fewer than {FEWEST_PHRASINGS}")
    if len(set(kind.texts)) < len(kind.texts):
        found.append("a phrasing stands twice")
    stray = sorted({role for text in kind.needs_text + kind.does_text for role in roles_in(text)} - set(kind.roles))
    found += [f"role {role} stands in a statement, but not among the roles of the kind" for role in stray]
    found += [f"not ASCII: {text!r}" for text in kind.texts if not text.isascii()]
    found += [f"does not end a sentence: {text!r}" for text in kind.texts if text.rstrip('"')[-1] not in ".!?"]
    found += [f"odd number of quotation marks: {text!r}" for text in kind.texts if text.count('"') % 2]
    if kind.name.startswith("end_") and not kind.title:
        found.append("an ending without a line `title:`")
    phrasings = kind.phrasings
    if not any(not p.carried and not p.distinct and not p.conditions for p in phrasings):
        found.append("no phrasing that always fits: without conditions, naming all roles that no need finds, and "
                     "clear for two with the same pronoun (no {B.he}, {B.him}, {B.his})")
    for phrasing in phrasings:
        for role in phrasing.carried:
            if role in kind.new:
                found.append(f"{phrasing.text!r} introduces {role} but does not name it")
        for variant in phrasing.variants[:1]:
            forms = {(piece.role, piece.form) for piece in variant.pieces if isinstance(piece, Slot)}
            for role in sorted(kind.new):
                wanted = ("intro", "n", "ng") if role in AGENT_ROLES else ("a",)
                if role in AGENT_ROLES | THING_ROLES and not any((role, form) in forms for form in wanted):
                    found.append(f"{phrasing.text!r} introduces {role} without {{{role}.{wanted[0]}}}")
    return found


def _ambiguous() -> list[str]:
    """Phrasings of two kinds that are the same tokens and slots."""
    found, nodes = [], [tree()]
    while nodes:
        node = nodes.pop()
        kinds = sorted({name for name, _ in node.ends})
        if len(kinds) > 1:
            texts = [all_kinds()[name].texts[number] for name, number in node.ends]
            found.append(f"one sentence for {' and '.join(kinds)}: {texts[0]!r}")
        nodes += [*node.words.values(), *node.slots.values()]
    return found

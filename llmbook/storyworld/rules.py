"""What a sentence needs and does, in a small language, so that the simulator and the checker obey one table.

The state is a dict: `state["holder", "kite"] = "Mira"`. A statement names a relation, its arguments and a value:

    holder T = A       the thing is in A's hands           broken T           a fact without a value
    not broken T       the fact must be (or becomes) false  count A S = N - K   arithmetic with small numbers
    N > K              a comparison of two roles            together A B       they are at one place
    outdoors A         under the open sky, or nobody knows  indoors A          under a roof, or nobody knows

Capital letters are roles, lower-case words constants. Among the needs, a role that nobody has named yet takes its
value from the state: after `holder T = A`, A is who has the thing. Nothing is evaluated as Python.
"""

import operator
import re
from collections.abc import Callable

from .words import indoor_places

SIDES = ("indoors", "outdoors")
Value = str | int | bool
State = dict[tuple, Value]
Keys = dict[str, Value]
Need = Callable[[State, Keys], str | None]
Deed = Callable[[State, Keys], None]

_COMPARE = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt, ">=": operator.ge,
            "<=": operator.le}
_STATEMENT = re.compile(r"(?P<not>not )?(?P<left>[\w ]+?)(?: ?(?P<op>!=|>=|<=|=|>|<) ?(?P<right>[\w +\-]+))?")


class RuleError(ValueError):
    """A statement that is not in the language."""


def _is_role(word: str) -> bool:
    return len(word) <= 2 and word[0].isupper()


def _about(relation: str, words: list[str]) -> Callable[[Keys], tuple | None]:
    """The place in the state of a relation and its arguments, roles or constants; None while a role is open."""
    constants = {word: word for word in words if not _is_role(word)}

    def place(keys: Keys) -> tuple | None:
        found = [keys.get(word) or constants.get(word) for word in words]
        return None if None in found else (relation, *found)
    return place


def _expression(text: str) -> Callable[[Keys], Value | None]:
    """The value of `T`, `sad`, `3`, `N - K` or `N + 1`; None where a role is still open."""
    parts = text.split()
    if len(parts) == 3 and parts[1] in "+-":
        left, right = _expression(parts[0]), _expression(parts[2])
        sign = 1 if parts[1] == "+" else -1

        def total(keys: Keys) -> Value | None:
            a, b = left(keys), right(keys)
            return None if a is None or b is None else a + sign * b
        return total
    if len(parts) != 1:
        raise RuleError(f"expression {text!r} is none of: a role, a word, a number, a sum of two")
    word = parts[0]
    if _is_role(word):
        return lambda keys: keys.get(word)
    constant: Value = int(word) if word.isdigit() else word
    return lambda keys: constant


def _parts(statement: str) -> tuple[bool, list[str], str | None, str]:
    match = _STATEMENT.fullmatch(statement.strip())
    if not match:
        raise RuleError(f"statement {statement!r} is not of the form: [not] relation roles [= value]")
    return bool(match["not"]), match["left"].split(), match["op"], (match["right"] or "").strip()


def _together(roles: list[str]) -> Need:
    def need(state: State, keys: Keys) -> str | None:
        places = {}
        for role in roles:
            place = state.get(("place", keys.get(role)))
            if place is not None and role in keys:
                places[place] = keys[role]
        if len(places) > 1:
            (first, one), (second, other) = list(places.items())[:2]
            return f"{one} is at: {first}, {other} at: {second}, so they cannot do this together"
        return None
    return need


def _around(side: str, role: str) -> Need:
    """Whether somebody is indoors, or outdoors."""
    def need(state: State, keys: Keys) -> str | None:
        if role not in keys or is_side(state, keys[role], side):
            return None
        return f"{keys[role]} is not {side}"
    return need


def is_side(state: State, who: Value, side: str) -> bool:
    """Whether `who` is "indoors" or "outdoors"; true of both where the place is not known."""
    place = state.get(("place", who))
    return place is None or (place in indoor_places()) is (side == "indoors")


def _comparison(role: str, op: str, right: str) -> Need:
    value, compare = _expression(right), _COMPARE[op]

    def need(state: State, keys: Keys) -> str | None:
        wanted = value(keys)
        if wanted is None:
            return None
        if role not in keys:
            if op == "=":
                keys[role] = wanted
            return None
        return None if compare(keys[role], wanted) else f"{keys[role]} should be {op} {wanted}"
    return need


def _known(relation: str, roles: list[str], op: str, right: str) -> Need:
    value, compare, about = _expression(right), _COMPARE[op], _about(relation, roles)
    open_role = right if _is_role(right) else None

    def need(state: State, keys: Keys) -> str | None:
        place = about(keys)
        if place is None:
            return None
        found, wanted = state.get(place), value(keys)
        if wanted is None:
            if found is None:
                return f"{' '.join(map(str, place))} is not known"
            if open_role and op == "=":
                if found == "nobody":
                    return f"{' '.join(map(str, place))} is nobody"
                keys[open_role] = found
            return None
        if found is None and op != "!=":
            return f"{' '.join(map(str, place))} is not known, but should be {op} {wanted}"
        if compare(found, wanted):
            return None
        return f"{' '.join(map(str, place))} is {found}, but should be {op} {wanted}"
    return need


def _flag(relation: str, roles: list[str], negative: bool) -> Need:
    about = _about(relation, roles)

    def need(state: State, keys: Keys) -> str | None:
        place = about(keys)
        if place is None:
            return None
        if bool(state.get(place)) != negative:
            return None
        return f"{' '.join(map(str, place))} {'is so, but must not be' if negative else 'is not so'}"
    return need


def parse_need(statement: str) -> Need:
    """A check of one statement: None if the state allows it (open roles are then filled), else what is wrong."""
    negative, left, op, right = _parts(statement)
    if left[0] == "together":
        return _together(left[1:])
    if left[0] in SIDES:
        return _around(left[0], left[1])
    if len(left) == 1 and _is_role(left[0]):
        if op is None:
            raise RuleError(f"statement {statement!r} compares nothing")
        return _comparison(left[0], op, right)
    if op is None:
        return _flag(left[0], left[1:], negative)
    if negative:
        op = {"=": "!=", "!=": "="}[op]
    return _known(left[0], left[1:], op, right)


def parse_deed(statement: str) -> Deed:
    """A change of the state. Roles that stay open change nothing."""
    negative, left, op, right = _parts(statement)
    if op not in (None, "="):
        raise RuleError(f"{statement!r} compares, but a deed sets: use =")
    relation, roles = left[0], left[1:]
    about = _about(relation, roles)
    value = _expression(right) if op else lambda keys: True
    if negative:
        def forget(state: State, keys: Keys) -> None:
            state.pop(about(keys), None)
        return forget
    if len(roles) == 1 and _is_role(roles[0]):  # the usual case, as fast as it goes
        only = roles[0]

        def put_one(state: State, keys: Keys) -> None:
            subject, found = keys.get(only), value(keys)
            if subject is not None and found is not None:
                state[relation, subject] = found
        return put_one

    def put(state: State, keys: Keys) -> None:
        place, found = about(keys), value(keys)
        if place is not None and found is not None:
            state[place] = found
    return put


def finds(statement: str, named: set[str]) -> str | None:
    """The role that this need fills in once the roles in `named` are known, if it fills one."""
    negative, left, op, right = _parts(statement)
    if negative or op != "=":
        return None
    if len(left) == 1 and _is_role(left[0]):
        return left[0] if left[0] not in named and roles_in(right) <= named else None
    open_role = _is_role(right) and right not in named and roles_in(" ".join(left[1:])) <= named
    return right if open_role else None


def roles_in(statement: str) -> set[str]:
    """The roles that a statement names."""
    return {word for word in re.findall(r"\w+", statement) if not word.isdigit() and _is_role(word)}

"""Grown-ups who are nobody's aunt: for plots in which somebody is not known well."""

from ..words import Agent
from ..world import Unfit, World

_FAMILY = ("Grandma", "Grandpa", "Aunt", "Uncle")


def stranger(w: World) -> Agent:
    """A helper who is not of the family; the world is drawn again where chance made it one."""
    found = w.helper()
    if found.key.startswith(_FAMILY):
        raise Unfit(f"{found.key} is no stranger")
    return found

"""A small world that tells stories: the simulator knows what is true in every sentence, so a model can be checked."""

from .stories import stories
from .world import Event, Story, World

__all__ = ["Event", "Story", "World", "stories"]

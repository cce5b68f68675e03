"""A small world that tells stories: the simulator knows what is true in every sentence, so a model can be checked."""

from .checks import Problem, Report, check
from .corpus import stories
from .questions import Task, tasks
from .world import Event, Story, World

__all__ = ["Event", "Problem", "Report", "Story", "Task", "World", "check", "stories", "tasks"]

"""A small world that tells stories: the simulator knows what is true in every sentence, so a model can be checked.

    from llmbook.storyworld import check, stories, tasks

    for story in stories(seed=1, n=3):            # the same three everywhere; split="train" or "test" holds kinds out
        print(story.text, story.facts[-1], story.ending)
    check("Mira had a red kite.").problems        # what is wrong with a text, read back and simulated again
    next(tasks(seed=1, n=1)).prompt               # an instruction with an answer that `check_task` knows

`phrases/README.md` says how sentences and plots are written; `python -m llmbook.storyworld --help` shows, lints and
measures. Nothing here needs PyTorch.
"""

from .checks import Problem, Report, check
from .corpus import stories
from .tasks import Task, check_task, conversations, tasks
from .world import Event, Story, World

__all__ = ["Event", "Problem", "Report", "Story", "Task", "World", "check", "check_task", "conversations", "stories",
           "tasks"]

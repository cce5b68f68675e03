"""`python -m llmbook.storyworld`: read stories, find mistakes in the tables, compare simulator and checker."""

import argparse
import sys

from . import lint
from .checks import check
from .stories import one_story


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmbook.storyworld", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot")
    parser.add_argument("--show", type=int, metavar="N", help="print N stories")
    parser.add_argument("--lint", action="store_true", help="say what is wrong in kinds, phrasings and plots")
    parser.add_argument("--agree", type=int, metavar="N", help="tell N stories, read them back and compare")
    options = parser.parse_args(arguments)
    if options.show:
        for index in range(options.show):
            story = one_story(options.seed, index, plot=options.plot, strict=True)
            print(f"--- {index} {' + '.join(story.plots)} -> {story.ending}, {len(story.text.split())} words")
            print(story.text, end="\n\n")
    problems = lint.problems() if options.lint else []
    print(*problems, sep="\n", end="\n" * bool(problems))
    differ = 0
    for index in range(options.agree or 0):
        story = one_story(options.seed, index, plot=options.plot, strict=True)
        report = check(story, story.facts)
        if report.problems or tuple(report.events) != story.facts:
            differ += 1
            _explain(story, report)
    if options.agree:
        print(f"{options.agree} stories, {differ} differ")
    return int(bool(problems or differ))


def _explain(story, report) -> None:
    print(f"--- {story.seed} {story.plots}")
    for problem in report.problems[:3]:
        where = f" [{report.sentences[problem.sentence]}]" if problem.sentence is not None else ""
        print(f"  {problem}{where}")
    for made, found in zip(story.facts, report.events):
        if made != found:
            print(f"  made {made}\n  read {found}\n  {story.sentences[made.sentence]}")
            break


if __name__ == "__main__":
    sys.exit(main())

"""`python -m llmbook.storyworld`: read stories, find mistakes in the tables, compare simulator and checker, measure."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from . import lint, variety
from .checks import check
from .corpus import one_story, stories
from .words import lexicon


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmbook.storyworld", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot")
    parser.add_argument("--show", type=int, metavar="N", help="print N stories")
    parser.add_argument("--lint", action="store_true", help="say what is wrong in kinds, phrasings and plots")
    parser.add_argument("--agree", type=int, metavar="N", help="tell N stories, read them back and compare")
    parser.add_argument("--statistics", type=int, metavar="N", help="measure the variety of N stories")
    parser.add_argument("--file", type=Path, help="measure the stories of this file (<|endoftext|> between them)")
    options = parser.parse_args(arguments)
    if options.show:
        for index in range(options.show):
            story = one_story(options.seed, index, plot=options.plot, strict=True)
            print(f"--- {index} {' + '.join(story.plots)} -> {story.ending}, {len(story.text.split())} words")
            print(story.text, end="\n\n")
    if options.statistics:
        _statistics(options)
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


def _statistics(options: argparse.Namespace) -> None:
    if options.file:
        print(*variety.measure(variety.read_collection(options.file)[:options.statistics]).lines(), sep="\n")
        return
    started = time.perf_counter()
    made = list(stories(options.seed, options.statistics, plot=options.plot))
    took = time.perf_counter() - started
    words = lexicon()
    names = [agent.key for agent in words.children] + [name for name, _ in words.animal_names]
    print(*variety.measure([story.text for story in made], names).lines(), sep="\n")
    heroes = Counter(story.hero for story in made).most_common(1)[0]
    print(f"{'commonest hero':26} {heroes[0]} {heroes[1] / len(made):.4f}")
    print(f"{'stories per second':26} {len(made) / took:.0f}")
    plots = Counter(name for story in made for name in set(story.plots))
    print("plots:", ", ".join(f"{name} {count / len(made):.3f}" for name, count in plots.most_common()))
    used = Counter(event.kind for story in made for event in story.facts)
    print("commonest sentence kinds:", ", ".join(f"{name} {n / len(made):.2f}" for name, n in used.most_common(15)))


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

"""The checks of chapter 7's exercises: wrong answers are told why, right ones pass however they are written."""

import math

import numpy as np
import torch

from llmbook.book.exercises import chapter_07 as check
from llmbook.instructions import collate_instructions
from llmbook.storyworld import tasks
from tests.support.exercise_tests import exercise_tests


def lengths(prompts, responses):
    return [prompt + response for prompt, response in zip(prompts, responses)]


def places(prompts, responses):
    return len(prompts) * (max(lengths(prompts, responses)) - 1)


def share_counted(prompts, responses):
    return sum(responses) / places(prompts, responses)


def share_by_collating(prompts, responses):
    items = [(torch.zeros(p + r, dtype=torch.long), p) for p, r in zip(prompts, responses)]
    return (collate_instructions(items)[1] != -100).float().mean()


def share_by_arrays(prompts, responses):
    prompts, responses = np.array(prompts), np.array(responses)
    return responses.mean() / ((prompts + responses).max() - 1)


def share_in_place(prompts, responses):
    share = share_counted(prompts, responses)
    for row, response in enumerate(responses):
        prompts[row] += response
    return share


def mask_turns(ids, own):
    return ids[1:].masked_fill(~own[1:], -100)


def turns_in_a_loop(ids, own):
    return torch.tensor([int(ids[i + 1]) if own[i + 1] else -100 for i in range(len(ids) - 1)])


def turns_in_place(ids, own):
    targets = ids[1:]
    targets[~own[1:]] = -100
    return targets


def turns_masked(ids, own, choose, fill=-100):
    """Wrong targets: those that `choose(is_assistant)` (tokens,) picks count."""
    return ids[1:].masked_fill(~choose(own)[1:], fill)


def from_the_first(own):
    return own.cumsum(0) > 0


def turn_numbers(own):
    return (own & ~torch.cat([torch.tensor([False]), own[:-1]])).cumsum(0)  # the assistant's turns, from 1


def last_turn(own):
    return own & (turn_numbers(own) == turn_numbers(own).max())


def first_turn(own):
    return own & (turn_numbers(own) == 1)


def plain_prompt(instruction, story):
    return f"{story}\n\nQ: {instruction}\nA:" if story else f"Q: {instruction}\nA:"


SOME = list(tasks(970, check.LAB_TASKS, "test", kinds=(check.LAB_KIND,)))


def oracle(entries, share=1.0):
    """The right answers of this share of the entries, else something short and wrong that differs."""
    known = {(task.instruction, task.story): task.answer for task in SOME}
    return [known[entry["instruction"], entry["input"]] if place < share * len(entries) else f"Number {place}."
            for place, entry in enumerate(entries)]


def changes(before, after):
    """(right only before, right only after)"""
    return sum(b and not a for b, a in zip(before, after)), sum(a and not b for b, a in zip(before, after))


def tail(n, k):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def sign_test(before, after):
    lost, won = changes(before, after)
    return min(1.0, 2 * tail(lost + won, min(lost, won)))


def sign_test_by_all_outcomes(before, after):
    lost, won = changes(before, after)
    n = lost + won
    heads = torch.tensor([bin(outcome).count("1") for outcome in range(2**n)])
    return ((2 * heads - n).abs() >= abs(lost - won)).double().mean()


def sign_test_by_distribution(before, after):
    before, after = torch.tensor(before), torch.tensor(after)
    n, lost = (before ^ after).sum(), (before & ~after).sum()
    if n == 0:
        return torch.tensor(1.0)
    chances = torch.distributions.Binomial(n.item(), torch.tensor(0.5)).log_prob(torch.arange(n + 1.0)).exp()
    return chances[chances <= chances[lost] * 1.0001].sum()


def p_value(change):
    """A wrong p value: `change` of the numbers of entries that are right only before and only after."""
    return lambda before, after: change(*changes(before, after))


def ties_counted(before, after):
    return min(1.0, 2 * tail(len(before), min(changes(before, after))))


def half_right(before, after):
    return min(1.0, 2 * tail(len(after), min(sum(after), len(after) - sum(after))))


def two_samples(before, after):
    n, first, second = len(before), sum(before), sum(after)
    pooled = (first + second) / (2 * n)
    return math.erfc(abs(first - second) / n / math.sqrt(2 * pooled * (1 - pooled) / n) / math.sqrt(2))


def unchanged_as(value):
    return lambda before, after: sign_test(before, after) if before != after else value


def sign_test_in_place(before, after):
    p = sign_test(before, after)
    before.sort()
    return p


RIGHT = {
    "exercise_1": [share_counted, share_by_collating, share_by_arrays],
    "exercise_2": [mask_turns, turns_in_a_loop, lambda ids, own: torch.where(own, ids, -100)[1:],
                   lambda ids, own: ids[1:] * own[1:] - 100 * ~own[1:]],
    "exercise_3": [plain_prompt, lambda q, story: "\n\n".join(filter(None, [story, f"Q: {q}\nA:"]))],
    "exercise_4": [oracle, lambda entries: tuple(oracle(entries)), lambda entries: oracle(entries, 0.5)],
    "exercise_5": [sign_test, sign_test_by_all_outcomes, sign_test_by_distribution],
}
WRONG = [
    ("exercise_1", lambda p, r: sum(r) / len(p) / max(lengths(p, r)), r"batch \* longest"),
    ("exercise_1", lambda p, r: (sum(r) - len(r)) / places(p, r), "one token too few of each row"),
    ("exercise_1", lambda p, r: (sum(r) + len(r)) / places(p, r), "one token too many of each row"),
    ("exercise_1", lambda p, r: sum(r) / sum(lengths(p, r)), "left out the padding"),
    ("exercise_1", lambda p, r: sum(r) / (sum(lengths(p, r)) - len(p)), "left out the padding"),
    ("exercise_1", lambda p, r: (sum(lengths(p, r)) - len(p)) / places(p, r), "did not mask the prompt"),
    ("exercise_1", lambda p, r: sum(lengths(p, r)) / len(p) / max(lengths(p, r)), "tokens that are not padding"),
    ("exercise_1", lambda p, r: 1 - share_counted(p, r), "left out"),
    ("exercise_1", lambda p, r: 1 - (sum(p) - len(p)) / places(p, r), "masked the prompts only"),
    ("exercise_1", lambda p, r: (sum(p) - len(p)) / places(p, r), "prompts' share"),
    ("exercise_1", lambda p, r: sum(p) / places(p, r), "counted the prompts' tokens"),
    ("exercise_1", lambda p, r: sum(r) / len(p) / (max(p) + max(r) - 1), "No row is that long"),
    ("exercise_1", lambda p, r: sum(r) / len(p) / max(r), "padded to the longest response"),
    ("exercise_1", lambda p, r: np.mean([b / (a + b - 1) for a, b in zip(p, r)]), "averaged the rows' own"),
    ("exercise_1", lambda p, r: np.mean([b / (a + b) for a, b in zip(p, r)]), "averaged the rows' own"),
    ("exercise_1", lambda p, r: 100 * share_counted(p, r), "in per cent"),
    ("exercise_1", lambda p, r: sum(r), "how many positions"),
    ("exercise_1", lambda p, r: 1 / share_counted(p, r), "upside down"),
    ("exercise_1", share_in_place, "changed a list"),
    ("exercise_1", lambda p, r: r, "one number"),
    ("exercise_2", lambda ids, own: torch.where(own, ids, -100)[:-1], "targets are the inputs themselves"),
    ("exercise_2", lambda ids, own: torch.where(own[1:], ids[:-1], -100), "shifted the mask, but not the tokens"),
    ("exercise_2", lambda ids, own: torch.where(own[:-1], ids[1:], -100), "asked who wrote the input"),
    ("exercise_2", lambda ids, own: torch.where(own[:-1] & own[1:], ids[1:], -100), "left out the first token of each"),
    ("exercise_2", lambda ids, own: torch.where(own[:-1] | own[1:], ids[1:], -100), "kept the token after each"),
    ("exercise_2", lambda ids, own: torch.where(own[1:], -100, ids[1:]), "wrong way round"),
    ("exercise_2", lambda ids, own: ids[1:].clone(), "Nothing is masked"),
    ("exercise_2", lambda ids, own: turns_masked(ids, own, from_the_first), "before the first response"),
    ("exercise_2", lambda ids, own: turns_masked(ids, own, last_turn), "only the last of the assistant's turns"),
    ("exercise_2", lambda ids, own: turns_masked(ids, own, first_turn), "only the first of the assistant's turns"),
    ("exercise_2", lambda ids, own: torch.full_like(ids[1:], -100), "Everything is masked"),
    ("exercise_2", lambda ids, own: mask_turns(ids, own).flip(0), "reverse order"),
    ("exercise_2", lambda ids, own: ids[1:] * own[1:], "what does not count with 0"),
    ("exercise_2", lambda ids, own: turns_masked(ids, own, lambda own: own, -1), "what does not count with -1"),
    ("exercise_2", lambda ids, own: torch.where(own, ids, -100), "no input, as nothing follows it"),
    ("exercise_2", lambda ids, own: ids[1:][own[1:]], "keep their places"),
    ("exercise_2", lambda ids, own: mask_turns(ids, own)[None], "has shape"),
    ("exercise_2", lambda ids, own: mask_turns(ids, own).float(), "torch.long"),
    ("exercise_2", lambda ids, own: mask_turns(ids, own).tolist(), "should be a tensor"),
    ("exercise_2", turns_in_place, "shares its memory"),
    ("exercise_3", lambda q, story: plain_prompt(q, story) + " ", "space at the end"),
    ("exercise_3", lambda q, story: "<|endoftext|>" + plain_prompt(q, story), "added when it is encoded"),
    ("exercise_3", lambda q, story: f"{story}\n\nQ: {q}\nA:", "nothing stands before the question"),
    ("exercise_3", lambda q, story: plain_prompt(q, story) + "\n", "line breaks too many"),
    ("exercise_3", lambda q, story: f"{story}\n\nQuestion: {q}\nAnswer:", "not whole words"),
    ("exercise_3", lambda q, story: f"Q: {q}\n{story}\nA:", "story comes first"),
    ("exercise_3", lambda q, story: f"Q: {q}\nA:", "part is missing"),
    ("exercise_3", lambda q, story: f"{story}\nQ: {q}\nA:" if story else plain_prompt(q, story), "empty line"),
    ("exercise_3", lambda q, story: plain_prompt(q, story).replace("\nA:", " A:"), "line of its own"),
    ("exercise_3", lambda q, story: [q, story], "should be a text"),
    ("exercise_4", lambda entries: oracle(entries, 0.45), "18 of 40 answers are right, 20 are wanted"),
    ("exercise_4", lambda entries: oracle(entries, 0.0), "more conversations of this kind"),
    ("exercise_4", lambda entries: ["Mira."] * len(entries), "All of your answers are the same"),
    ("exercise_4", lambda entries: [f"{entry['input']} {n}" for n, entry in enumerate(entries)], "answers are long"),
    ("exercise_4", lambda entries: [f"{text[:-1]}, and nobody {n}." for n, text in enumerate(oracle(entries))],
     "together with others"),
    ("exercise_4", lambda entries: oracle(entries)[1:], "39 answers to 40 entries"),
    ("exercise_4", lambda entries: "Mira.", "a list of texts"),
    ("exercise_5", p_value(lambda lost, won: tail(lost + won, min(lost, won))), "one side. As many"),
    ("exercise_5", p_value(lambda lost, won: 2 * tail(lost + won, min(lost, won))), "never above 1"),
    ("exercise_5", p_value(lambda lost, won: 2 * tail(lost + won, min(lost, won) - 1)), "left out the outcome"),
    ("exercise_5", p_value(lambda lost, won: tail(lost + won, min(lost, won) - 1)), "without the outcome itself"),
    ("exercise_5", p_value(lambda lost, won: math.comb(lost + won, won) / 2 ** (lost + won)), "this very outcome. A"),
    ("exercise_5", p_value(lambda lost, won: math.comb(lost + won, won) / 2 ** (lost + won - 1)), "You doubled"),
    ("exercise_5", ties_counted, "did not change"),
    ("exercise_5", half_right, "half of the answers"),
    ("exercise_5", p_value(lambda lost, won: 2 * tail(lost + won, min(lost, won))
                           - math.comb(lost + won, won) / 2 ** (lost + won)), "mid-p"),
    ("exercise_5", lambda b, a: 1 - sign_test(b, a), "1 - p"),
    ("exercise_5", p_value(lambda lost, won: 1 - tail(lost + won, min(lost, won))), "rest of one side"),
    ("exercise_5", p_value(lambda lost, won: math.erfc(abs(lost - won) / math.sqrt(2 * (lost + won)))), "chi-sq"),
    ("exercise_5", p_value(lambda lost, won: math.erfc((abs(lost - won) - 1) / math.sqrt(2 * (lost + won)))),
     "continuity correction"),
    ("exercise_5", p_value(lambda lost, won: (lost - won) ** 2 / (lost + won)), "McNemar's statistic"),
    ("exercise_5", two_samples, "as if the entries were different ones"),
    ("exercise_5", p_value(lambda lost, won: min(1.0, 2 * tail(lost + won, lost))), "after can be worse too"),
    ("exercise_5", p_value(lambda lost, won: 2 * tail(lost + won, lost)), "after can be worse too"),
    ("exercise_5", p_value(lambda lost, won: tail(lost + won, max(lost, won))), "and double the sum"),
    ("exercise_5", lambda b, a: (sum(a) - sum(b)) / len(a), "how much the share"),
    ("exercise_5", p_value(lambda lost, won: won / (lost + won)), "share of changes that are gains"),
    ("exercise_5", p_value(lambda lost, won: 2 * tail(lost + won, min(lost, won)) * 2 ** (lost + won)), "Divide by"),
    ("exercise_5", p_value(lambda lost, won: sum(math.comb(lost + won, i) for i in range(1, min(lost, won) + 1))
                           / 2 ** (lost + won - 1)), "most uneven outcome"),
    ("exercise_5", unchanged_as(0.0), "Where no entry changed, nothing speaks"),
    ("exercise_5", unchanged_as(math.nan), "NaN"),
    ("exercise_5", unchanged_as(2.0), "here, twice the sum is"),
    ("exercise_5", lambda b, a: sign_test(b, a) if b != a else 1 / 0, "divide by 0"),
    ("exercise_5", sign_test_in_place, "changed a list"),
    ("exercise_5", changes, "one number"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)

"""Checks for the exercises of chapter 7, fine-tuning to follow instructions."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, compare, exercise, expect, expect_number, expect_tensor
from llmbook.instructions import format_prompt
from llmbook.storyworld import Task, check_task, tasks


@exercise("7.1", "The other positions teach nothing, so `response_loss` does not even compute their logits.")
def exercise_1(share_counted: Callable[[list[int], list[int]], float]) -> None:
    for prompts, responses in (([4, 7, 10, 8], [11, 4, 6, 3]), ([20, 8, 11], [1, 3, 2]), ([5, 5], [4, 4]),
                               ([3], [8]), ([1, 1], [1, 4])):
        given = list(prompts), list(responses)
        got = expect_number(share_counted(*given), "The share")
        expect(given == (prompts, responses), "Your function changed a list that it was given: build a new one.")
        rows = [prompt + response for prompt, response in zip(prompts, responses)]
        compare(got, sum(responses) / (len(rows) * (max(rows) - 1)), _share_mistakes(prompts, responses, rows),
                f"For prompts of {prompts} and responses of {responses} tokens you return")


def _share_mistakes(prompts: Sequence[int], responses: Sequence[int], rows: Sequence[int]) -> list[tuple[float, str]]:
    batch, counted, longest = len(rows), sum(responses), max(rows)
    places = batch * (longest - 1)
    apart = batch * (max(prompts) + max(responses) - 1)
    unpadded = "You left out the padding. Its positions do not count, but the batch has them: divide by all."
    averaged = "You averaged the rows' own shares. In the batch, all rows are as long as the longest."
    return [
        (counted / (places + batch), "You divided by batch * longest. A row's last token is no input, as nothing "
                                     "follows it: there are longest - 1 positions."),
        ((counted - batch) / places, "You counted one token too few of each row. The first token of a response is the "
                                     "target at the prompt's last token, and the end token is a target too."),
        ((counted + batch) / places, "You counted one token too many of each row. At the prompt's last token the "
                                     "target belongs to the response already: one target for each of its tokens."),
        (counted / (sum(rows) - batch), unpadded), (counted / sum(rows), unpadded),
        ((sum(rows) - batch) / places, "You did not mask the prompt. Only the responses' tokens count."),
        (sum(rows) / (places + batch), "That is the share of tokens that are not padding. The prompt does not count "
                                       "either."),
        (1 - counted / places, "That is the share that is left out."),
        ((places - sum(prompts) + batch) / places, "You masked the prompts only. Padding does not count either."),
        ((sum(prompts) - batch) / places, "That is the prompts' share. It is the responses that count."),
        (sum(prompts) / places, "You counted the prompts' tokens. It is the responses that count."),
        (counted / apart, "No row is that long: the longest prompt and the longest response are in different rows. "
                          "Add up each row, then take the longest."),
        (counted / (batch * max(responses)), "You padded to the longest response. A row is prompt and response."),
        (sum(response / (row - 1) for response, row in zip(responses, rows)) / batch, averaged),
        (sum(response / row for response, row in zip(responses, rows)) / batch, averaged),
        (100 * counted / places, "That is in per cent: return a share between 0 and 1."),
        (counted, "That is how many positions count. Divide by all of them."),
        (places / counted, "That is the fraction upside down."),
    ]


@exercise("7.2", "With such targets, one pass over a conversation trains on each of its responses.")
def exercise_2(mask_turns: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    for turns in ("uuuaaauuaa", "aauuuaaau", "uaauau", "uuuu", "aaaa", "ua", "au"):
        ids, own = torch.randperm(len(turns)) + 10, torch.tensor([turn == "a" for turn in turns])
        given = ids.clone(), own.clone()
        got = mask_turns(*given)
        expect(torch.equal(given[0], ids) and torch.equal(given[1], own),
               "Your function changed what it was given. A slice such as token_ids[1:] shares its memory: write into "
               "a clone, or use masked_fill or torch.where.")
        got, right = _expect_targets(got, turns), ids[1:].masked_fill(~own[1:], -100)
        if not torch.equal(got, right):
            place = int((got != right).nonzero()[0])
            raise Wrong(f"Tokens {ids.tolist()}, written by {turns} (u: user, a: assistant): target {place} is "
                        f"{got[place].item()}, expected {right[place].item()}. {_turn_mistake(got, ids, own)}".rstrip())


def _expect_targets(answer: object, turns: str) -> Tensor:
    """The targets of a conversation, if they are as many whole numbers as they should be."""
    tokens, counted = len(turns), turns.count("a")
    if isinstance(answer, Tensor) and tuple(answer.shape) == (tokens,):
        raise Wrong(f"You return {tokens} targets for {tokens} tokens. The last token is no input, as nothing follows "
                    f"it: there are {tokens - 1}.")
    if isinstance(answer, Tensor) and tuple(answer.shape) == (counted,) and counted < tokens - 1:
        raise Wrong(f"You return {counted} targets for {tokens - 1} inputs. Targets that do not count keep their "
                    "places: fill them with -100.")
    got = expect_tensor(answer, (tokens - 1,), f"The result for {tokens} tokens")
    expect(got.dtype == torch.long, f"The targets are of type {got.dtype}. The loss takes whole numbers, torch.long.")
    return got


def _turn_mistake(got: Tensor, ids: Tensor, own: Tensor) -> str:
    inputs, targets, before, after = ids[:-1], ids[1:], own[:-1], own[1:]
    places = torch.arange(len(own))
    begins = places[own & ~torch.cat((torch.tensor([False]), before))].tolist()  # the first tokens of its turns
    first, last = (begins[0], begins[-1]) if begins else (len(own), len(own))
    ends = [place for place in range(first, len(own)) if not own[place]] + [len(own)]
    mistakes = [
        (inputs, before, "Your targets are the inputs themselves. Position i is to predict token i + 1: shift both, "
                         "the tokens and who wrote them."),
        (inputs, after, "You shifted the mask, but not the tokens: the target at position i is token i + 1."),
        (targets, before, "You asked who wrote the input. What counts is who wrote the target: position i takes "
                          "is_assistant[i + 1]."),
        (targets, after & before, "You left out the first token of each of the assistant's turns. Its input is the "
                                  "user's, but its target is the assistant's own."),
        (targets, after | before, "You kept the token after each of the assistant's turns, which the user wrote."),
        (targets, ~after, "The mask is the wrong way round: this learns the user's turns."),
        (targets, after | ~after, "Nothing is masked: the user's tokens count too."),
        (targets, (places >= first)[1:], "You masked only what comes before the first response. The user's later "
                                         "turns do not count either."),
        (targets, after & (places >= last)[1:], "You kept only the last of the assistant's turns. Each of them "
                                                "counts."),
        (targets, after & (places < ends[0])[1:], "You kept only the first of the assistant's turns. Each of them "
                                                  "counts."),
        (targets, after & ~after, "Everything is masked: the assistant's tokens should count."),
        (targets.flip(0), after.flip(0), "Your targets are in reverse order."),
    ]
    for tokens, counts, text in mistakes:
        if torch.equal(got, tokens.masked_fill(~counts, -100)):
            return text
    fills = got[~after].unique().tolist()
    if torch.equal(got[after], targets[after]) and len(fills) == 1:
        return f"You fill what does not count with {fills[0]}. The loss leaves out -100, and nothing else."
    return ""


_PROMPTS = [("Who has the kite now?", "Mira had a kite.\n\nShe gave it to Bram."), ("Tell a story about Bram.", ""),
            ("Where is Mira?", "Mira sat by the pond.")]


@exercise("7.3", "A blank, a heading or the order of the parts is enough to ask for something it has never learned.")
def exercise_3(trained_prompt: Callable[[str, str], str]) -> None:
    for instruction, story in _PROMPTS:
        got = trained_prompt(instruction, story)
        if got is None or got is ...:
            raise NotImplementedError
        expect(isinstance(got, str), f"The prompt should be a text; yours is of type {type(got).__name__}.")
        right = format_prompt(instruction, story, "plain")
        if got != right:
            raise Wrong(f"For {instruction!r} and the story {story!r} you return {got!r}, the model was trained with "
                        f"{right!r}. {_prompt_mistake(got, right, instruction, story)}".rstrip())


def _prompt_mistake(got: str, right: str, instruction: str, story: str) -> str:
    mistakes = [
        (got.startswith("<|endoftext|>"), "The token that begins a text is added when it is encoded: leave it out."),
        (not story and got.lstrip("\n") == right, "Where there is no story, nothing stands before the question."),
        (got.rstrip(" ") == right, "There is a space at the end. The response begins with one: \" Mira\" is one token, "
                                   "and \"Mira\" after a space is another."),
        (got.strip("\n") == right.strip("\n"), "There are line breaks too many at an end."),
        ("Question" in got or "Answer" in got, "The headings are Q and A, not whole words."),
        (bool(story) and story in got and instruction in got and got.index(story) > got.index(instruction),
         "The story comes first, then the question: the model reads from left to right."),
        (story not in got or instruction not in got, "A part is missing, or was changed."),
        (bool(story) and f"{story}\n\n" not in got, "Between the story and the question there is an empty line, as "
                                                    "between paragraphs."),
        (not got.endswith("\nA:"), "The answer's heading has a line of its own: \\nA:"),
    ]
    return next((text for wrong, text in mistakes if wrong), "")


LAB_KIND, LAB_TASKS, LAB_TARGET = "who_else", 40, 0.5


@exercise("7.4", "A kind that was kept out is a kind like any other, once it has examples. Are the others still there?")
def exercise_4(my_assistant: Callable[[list[dict[str, str]]], list[str]]) -> None:
    some = list(tasks(970, LAB_TASKS, "test", kinds=(LAB_KIND,)))
    got = my_assistant([{"instruction": task.instruction, "input": task.story} for task in some])
    if got is None or got is ...:
        raise NotImplementedError
    expect(isinstance(got, (list, tuple)) and all(isinstance(text, str) for text in got),
           "Return a list of texts, one for each entry, as respond_all does.")
    expect(len(got) == len(some), f"You return {len(got)} answers to {len(some)} entries: give one for each, in order.")
    right = [check_task(task, text) for task, text in zip(some, got)]
    if sum(right) < LAB_TARGET * len(some):
        place = right.index(False)
        raise Wrong(f"{sum(right)} of {len(some)} answers are right, {math.ceil(LAB_TARGET * len(some))} are wanted. "
                    f"For example, {some[place].instruction!r} gets {got[place][:60]!r} instead of "
                    f"{some[place].answer!r}. {_lab_hint(got, some)}".rstrip())


def _lab_hint(got: Sequence[str], some: Sequence[Task]) -> str:
    if len(set(got)) == 1:
        return "All of your answers are the same: is it the story that you give to the model as input?"
    if sum(len(text.split()) > 20 for text in got) > len(got) / 2:
        return "Most of your answers are long: was it trained in the style \"plain\", and is it asked in that style?"
    if sum(task.answer.split(" is in")[0] in text for task, text in zip(some, got)) > len(got) / 2:
        return "The right one is often named together with others: one name is wanted."
    return "Train on more conversations of this kind, or with a higher learning rate."


@exercise("7.5", "Try it on the chapter's answers before and after: with so few entries, a small gain may be luck.")
def exercise_5(sign_test: Callable[[list[bool], list[bool]], float]) -> None:
    for counts in ((20, 2, 9, 12), (5, 9, 3, 4), (0, 0, 5, 1), (2, 4, 0, 3), (3, 4, 4, 2), (8, 5, 6, 0), (6, 0, 0, 4),
                   (0, 0, 0, 3)):
        both, lost, won, neither = counts
        outcomes = ([(True, True)] * both + [(True, False)] * lost + [(False, True)] * won
                    + [(False, False)] * neither)
        before, after = map(list, zip(*outcomes))
        given = list(before), list(after)
        where = f"For {both} entries right both times, {lost} only before, {won} only after, {neither} never, you"
        try:
            got = expect_number(sign_test(*given), "The p value")
        except ZeroDivisionError:
            if lost or won:
                raise
            raise Wrong(f"{where} divide by 0. Return 1.0 where no entry changed: nothing speaks for more than "
                        "luck.") from None
        expect(given == (before, after), "Your function changed a list that it was given: build a new one.")
        expect(not math.isnan(got), f"{where} return NaN, which 0 / 0 gives. Return 1.0 where no entry changed.")
        compare(got, min(1.0, 2 * _tail(lost + won, min(lost, won))), _test_mistakes(*counts), f"{where} return")


def _tail(n: int, k: int) -> float:
    """The probability that at most k of n fair coins show heads."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def _test_mistakes(both: int, lost: int, won: int, neither: int) -> list[tuple[float, str]]:
    n, few, everything = lost + won, min(lost, won), both + lost + won + neither
    right, one = min(1.0, 2 * _tail(n, few)), math.comb(n, few) / 2**n
    if not n:
        return [(value, "Where no entry changed, nothing speaks for more than luck: return 1.0.")
                for value in (0.0, 0.5)] + [(2.0, "A probability is never above 1: here, twice the sum is.")]
    unpaired = _unpaired(both + lost, both + won, everything)
    square = (lost - won) ** 2 / n
    corrected = max(abs(lost - won) - 1, 0) ** 2 / n
    ties = ("You counted the entries that did not change. They say nothing about a difference: n is those that are "
            "right only once.")
    return [
        (2 * _tail(n, few), "A probability is never above 1: take the smaller of 1.0 and twice the sum."),
        (_tail(n, few), "That is one side. As many entries could have turned worse by luck: double it."),
        (2 * _tail(n, few - 1), "You left out the outcome itself. At least as uneven: the sum goes up to k, included."),
        (_tail(n, few - 1), "That is one side, without the outcome itself. Sum up to k, included, and double it."),
        (one, "That is the probability of this very outcome. Add those that are more uneven, and double the sum."),
        (2 * one, "You doubled the probability of this very outcome. Add those that are more uneven first."),
        (2 * _tail(everything, few), ties), (_tail(everything, few), ties),
        (min(1.0, 2 * _tail(everything, min(both + won, lost + neither))),
         "You tested whether half of the answers are right after. Compare the entries that are right only once."),
        (2 * _tail(n, few) - one, "You counted half of the outcome itself (the mid-p value). Count all of it."),
        (1 - right, "That is 1 - p. A small p value says that luck is an unlikely reason."),
        (1 - _tail(n, few), "That is the rest of one side. Sum the outcomes at least as uneven, and double."),
        (math.erfc(math.sqrt(square / 2)), "That is McNemar's test by the chi-squared distribution, an approximation "
                                           "for large n. Add up the binomial probabilities instead."),
        (math.erfc(math.sqrt(corrected / 2)), "That is McNemar's test with a continuity correction, an "
                                              "approximation. Add up the binomial probabilities instead."),
        (square, "That is McNemar's statistic, not yet a probability."),
        (unpaired, "You compared the two shares of right answers, as if the entries were different ones. They are the "
                   "same ones: look at those that changed."),
        (2 * _tail(n, max(lost, won)), "Take the smaller of the two numbers, whichever it is: after can be worse too."),
        (min(1.0, 2 * _tail(n, max(lost, won))), "Take the smaller of the two numbers, whichever it is: after can be "
                                                 "worse too."),
        (_tail(n, max(lost, won)), "Take the smaller of the two numbers, whichever it is, and double the sum."),
        ((won - lost) / everything, "That is how much the share of right answers grew. How likely is it by luck?"),
        (won / n, "That is the share of changes that are gains. How likely are such or more uneven ones by luck?"),
        (2 * sum(math.comb(n, i) for i in range(few + 1)), "Divide by 2 ** n, the number of all outcomes."),
        (2 * _tail(n, few) - 2 / 2**n, "You left out the most uneven outcome, no entry at all: the sum starts at 0."),
    ]


def _unpaired(first: int, second: int, entries: int) -> float:
    """The p value of the test of two shares in two independent samples."""
    pooled = (first + second) / (2 * entries)
    spread = math.sqrt(2 * pooled * (1 - pooled) / entries)
    return math.erfc(abs(first - second) / entries / spread / math.sqrt(2)) if spread else 1.0

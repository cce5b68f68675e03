"""Checks for the exercises of chapter 7, fine-tuning to follow instructions."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, compare, exercise, expect, expect_number, expect_tensor


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


_SHARING = [  # answer, reference; no mistake below gives the right numbers for all of them
    ("The capital of France is Paris, not Lyon.", "It is the city of Paris, in france"),
    ("A cat, a cat and a dog!", "A dog and the dog of a cat"),
    ("Row, row your boat.", "Row, row, row your boat, gently down"),
    ("35 metres, or more", "3.5 metres"),
    ('"Yes" -  he said:\n(no)', "yes, he never said no"),
    ("two, one", "One two"), ("Red", "red."),
]
_NOT_SHARING = [("Blue.", "It is red"), ("dont", "Don't!"), ("", "It is red"), ("...", "red"), ("It is red", ""),
                ("", ""), ("?!", " - ")]


@exercise("7.3", "Now a long answer that holds the right word is worth something, and less than the word alone.")
def exercise_3(token_f1: Callable[[str, str], float]) -> None:
    answers = [expect_number(token_f1(*texts), "The F1") for texts in _SHARING]
    wanted = [_f1(*map(_words, texts)) for texts in _SHARING]
    for case, texts in enumerate(_SHARING):
        compare(answers[case], wanted[case], [(answers[case], _f1_mistake(answers, case))], _where(*texts))
    for texts in _NOT_SHARING:
        right = _f1(*map(_words, texts))
        rule = "nothing is shared: return 0.0." if right == 0 else "neither has a word: return 1.0."
        try:
            got = expect_number(token_f1(*texts), "The F1")
        except ZeroDivisionError:
            raise Wrong(f"{_where(*texts)} nothing, as you divide by 0. Here {rule}") from None
        expect(not math.isnan(got), f"{_where(*texts)} NaN, which 0 / 0 gives. Here {rule}")
        compare(got, right, [(got, f"Here {rule}")], _where(*texts))


def _where(answer: str, reference: str) -> str:
    return f"For the answer {answer!r} and the reference {reference!r} you return"


def _words(text: str) -> list[str]:
    return [word for part in text.lower().split() if (word := part.strip(string.punctuation))]


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found and not wanted:
        return 1.0
    return 2 * (Counter(found) & Counter(wanted)).total() / (len(found) + len(wanted))


def _f1_mistake(answers: Sequence[float], case: int) -> str:
    """The mistake that explains most of the answers, in their order, and at least those up to this one."""
    explained = {}
    for number, (got, texts) in enumerate(zip(answers, _SHARING)):
        for value, text in _f1_mistakes(*texts):
            if abs(value - got) < 1e-5 and explained.get(text, 0) == number:
                explained[text] = number + 1
    return max((text for text in explained if explained[text] > case), key=explained.get, default="")


def _f1_mistakes(answer: str, reference: str) -> list[tuple[float, str]]:
    found, wanted = _words(answer), _words(reference)
    shared = (Counter(found) & Counter(wanted)).total()
    precision, recall, right = shared / len(found), shared / len(wanted), _f1(found, wanted)
    both = len(found) + len(wanted)
    texts = answer.lower(), reference.lower()
    in_place = sum(first == second for first, second in zip(found, wanted))

    def split(how: Callable[[str], list[str]]) -> float:
        """The F1 of the texts, in lower case, split in another way."""
        return _f1(*map(how, texts))

    ends, marks = string.punctuation, f"[{re.escape(string.punctuation)}]"
    repeats = "The shared words are those that can be paired: the smaller of a word's two counts."
    return [
        (_f1([part.strip(ends) for part in answer.split()], [part.strip(ends) for part in reference.split()]),
         "Upper case makes words differ: turn both texts into lower case first."),
        (split(str.split), "Punctuation is still at the ends of your words: strip it from each."),
        (_f1(answer.split(), reference.split()), "Turn both texts into lower case, and strip punctuation from each "
                                                 "word."),
        (split(lambda text: [word for part in text.split() if (word := part.rstrip(ends))]),
         "You stripped punctuation behind the words only. It stands before them too, as quotation marks do."),
        (split(lambda text: text.strip(ends).split()),
         "You stripped the ends of the whole text. Each word has ends: split first."),
        (split(lambda text: re.sub(marks, "", text).split()),
         "You took out punctuation inside words too, so that 3.5 became 35. Strip the ends only."),
        (split(lambda text: re.findall(r"\w+", text)),
         "You split words at the punctuation inside them. Split at spaces, then strip the ends."),
        (split(lambda text: [part.strip(ends) for part in text.split()]),
         "You counted '', which is what is left of a word of punctuation. Leave such words out."),
        (split(lambda text: [word for part in text.split(" ") if (word := part.strip(ends))]),
         'split(" ") does not split at the end of a line. split() does.'),
        (split(lambda text: list(text)), "You compared characters. Split the texts into words."),
        (_f1(sorted(set(found)), sorted(set(wanted))), "You counted each word once, as sets do. Repeats count."),
        (2 * sum(word in wanted for word in found) / both,
         f"A word that the answer repeats is shared only as often as the reference has it. {repeats}"),
        (2 * sum(word in found for word in wanted) / both,
         f"A word that the reference repeats is shared only as often as the answer has it. {repeats}"),
        (2 * len(set(found) & set(wanted)) / both, "You counted the shared words once each, but all others with their "
                                                   "repeats. Shared words have repeats too."),
        (precision, "That is the precision, the share of the answer's words. Take the harmonic mean with the recall."),
        (recall, "That is the recall, the share of the reference's words. Take the harmonic mean with the precision."),
        ((precision + recall) / 2, "That is the ordinary mean. The harmonic one is 2 P R / (P + R)."),
        (math.sqrt(precision * recall), "That is the geometric mean. The harmonic one is 2 P R / (P + R)."),
        (right / 2, "The factor 2 is missing: 2 P R / (P + R)."),
        (shared / (both - shared), "You divided what is shared by the words of both, shared ones once (the Jaccard "
                                   "index). F1 is the harmonic mean of precision and recall."),
        (100 * right, "That is in per cent: return a number between 0 and 1."),
        (shared, "That is how many words are shared."),
        (2 * in_place / both, "You compared word by word in order. A shared word may stand anywhere."),
        (float(found == wanted), "That is exact match. Part of the words can be right."),
    ]


@exercise("7.4", "Sort your entries by it: the highest are the hardest, or have a mistake in their response.")
def exercise_4(loss_per_entry: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    # all sizes equal first: there, classes or sums along the wrong dimension give an answer too
    for shape, counted, scale in (((4, 4, 4), (1, 4, 2, 3), 2.0), ((3, 6, 5), (6, 2, 4), 2.0),
                                  ((3, 5, 7), (2, 0, 5), 2.0), ((1, 3, 4), (0,), 2.0), ((2, 4, 9), (4, 2), 100.0)):
        logits, targets = torch.randn(shape) * scale, torch.randint(shape[2], shape[:2])
        for row, count in enumerate(counted):
            targets[row, torch.randperm(shape[1])[count:]] = -100
        given = logits.clone(), targets.clone()
        got = loss_per_entry(*given)
        expect(torch.equal(given[0], logits) and torch.equal(given[1], targets),
               "Your function changed what it was given. Put another target in place of -100 in a copy: masked_fill, "
               "clamp without an underscore.")
        got = _expect_losses(got, shape)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (batch, tokens), 0 at -100
        right = losses.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)
        for row, count in enumerate(counted):
            hint = " 0 / 0 gives NaN: divide by at least 1." if got[row].isnan() else ""
            expect(count > 0 or got[row] == 0, f"Row {row} has no target that counts: its loss should be 0.0, yours "
                                               f"is {got[row].item():.4f}.{hint}")
        if not close(got, right):
            row = int((~torch.isclose(got.float(), right, rtol=1e-5, atol=1e-5)).nonzero()[0])
            raise Wrong(f"Logits of shape {shape}, {list(counted)} targets that count: the loss of row {row} is "
                        f"{got[row].item():.4f}, expected {right[row].item():.4f}. "
                        f"{_loss_mistake(got, logits, targets, scale)}".rstrip())


def _expect_losses(answer: object, shape: tuple[int, ...]) -> Tensor:
    """One loss for each row."""
    if isinstance(answer, Tensor) and answer.ndim == 0:
        raise Wrong("You return one number for the whole batch. Take reduction=\"none\", and average each row.")
    if isinstance(answer, Tensor) and answer.shape == shape[:2]:
        raise Wrong(f"You return the loss at each position, {tuple(answer.shape)}. Average each row over its own.")
    return expect_tensor(answer, shape[:1], f"The result for logits of shape {shape}")


def _loss_mistake(got: Tensor, logits: Tensor, targets: Tensor, scale: float) -> str:
    batch, tokens, vocab = logits.shape
    counts = targets != -100
    number = counts.sum(dim=1)  # (batch,)

    def losses(values: Tensor = logits, labels: Tensor = targets) -> Tensor:
        return F.cross_entropy(values.transpose(1, 2), labels, reduction="none")

    if scale > 50:  # by now, only rounding can be wrong
        return ("These logits are far apart, so a probability is rounded to 0 and its logarithm is lost, or exp is "
                "infinite. Use F.cross_entropy or log_softmax, which never compute the probability itself.")
    own = losses()  # (batch, tokens), 0 where a target does not count
    mean = own.sum(dim=1) / number.clamp(min=1)
    best = logits.argmax(dim=-1) == targets
    mistakes = [
        (own.sum(dim=1), "That is the sum. Divide it by the row's targets that count."),
        (own.mean(dim=1), "You divided by all positions. Divide by the row's targets that count."),
        (own.sum(dim=1) / counts.sum(), "You divided by the targets of the whole batch. Each row has its own number."),
        (own.sum(dim=1) / number.float().mean(), "You divided by the mean number of targets. Each row has its own."),
        (mean.mean().expand(batch), "You averaged over the batch. Each row has its own loss."),
        ((own.sum() / counts.sum()).expand(batch), "That is the loss of the whole batch, the same for each row."),
        (losses(labels=targets.clamp(min=0)).mean(dim=1), "Targets of -100 count as token 0 in your mean. Leave them "
                                                          "out of the sum and of the number."),
        (losses(labels=targets.clamp(min=0)).sum(dim=1) / number.clamp(min=1),
         "Targets of -100 are in your sum, as token 0. Leave them out, as you did in the number."),
        (losses(logits.softmax(dim=-1)).sum(dim=1) / number.clamp(min=1),
         "You gave probabilities to F.cross_entropy, which takes logits: it has the softmax in it."),
        (-mean, "That is the mean log-probability. The loss is that with the sign turned."),
        (mean.exp(), "That is the perplexity, exp of the loss."),
        (mean / math.log(2), "That is in bits. Use the natural logarithm."),
        ((-own).exp().mul(counts).sum(dim=1) / number.clamp(min=1), "That is the mean probability of the targets. "
                                                                    "Average -log of each."),
        (-((-own).exp().mul(counts).sum(dim=1) / number.clamp(min=1)).log(),
         "You averaged first and took the logarithm then. Average the logarithms."),
        ((best & counts).sum(dim=1) / number.clamp(min=1), "That is the share of targets that are the likeliest "
                                                           "token."),
        (F.cross_entropy(logits.reshape(batch, vocab, tokens), targets, reduction="none").sum(dim=1)
         / number.clamp(min=1), "F.cross_entropy takes the classes in dimension 1, where your tokens are. Move them "
                                "by transpose(1, 2); reshape and view only mix the numbers."),
    ]
    zeros = counts & (targets != 0)
    mistakes.append(((own * zeros).sum(dim=1) / zeros.sum(dim=1).clamp(min=1),
                     "You left out targets of 0. That is a token like any other; only -100 does not count."))
    if tokens > 1:
        shifted, kept = losses(logits[:, :-1], targets[:, 1:]), counts[:, 1:].sum(dim=1).clamp(min=1)
        mistakes.append((shifted.sum(dim=1) / kept, "You shifted the targets once more. They are the next tokens "
                                                    "already."))
    if batch == tokens:
        mistakes += [(own.sum(dim=0) / counts.sum(dim=0).clamp(min=1), "You averaged over the rows. Average over the "
                                                                       "tokens, dim=1."),
                     (own.sum(dim=0) / number.clamp(min=1), "You summed over the rows. Sum over the tokens, dim=1.")]
    return next((text for value, text in mistakes if close(got, value)), "")


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

"""The checks of chapter 7's exercises: wrong answers are told why, right ones pass however they are written."""

import math
import re
import string
from collections import Counter

import numpy as np
import torch
from torch.nn import functional as F

from llmbook.book.exercises import chapter_07 as check
from llmbook.instructions import collate_instructions
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


def words(text):
    return [word for part in text.lower().split() if (word := part.strip(string.punctuation))]


def f1_of(found, wanted):
    if not found or not wanted:
        return float(found == wanted)
    return 2 * sum((Counter(found) & Counter(wanted)).values()) / (len(found) + len(wanted))


def token_f1(answer, reference):
    return f1_of(words(answer), words(reference))


def f1_by_rates(answer, reference):
    found, wanted = words(answer), words(reference)
    if not found and not wanted:
        return 1
    left, shared = list(wanted), 0
    for word in found:
        if word in left:
            left.remove(word)
            shared += 1
    if shared == 0:
        return 0
    precision, recall = shared / len(found), shared / len(wanted)
    return np.float32(2 * precision * recall / (precision + recall))


def f1_by_pattern(answer, reference):
    return f1_of(*(re.findall(r"\w(?:\S*\w)?", text.casefold()) for text in (answer, reference)))


def f1_split(how):
    """A wrong F1: the words of each text are what `how` makes of it."""
    return lambda answer, reference: f1_of(how(answer), how(reference))


def f1_with(change):
    """A wrong F1: `change` of what is shared, the number of the answer's words and of the reference's."""
    def answer_with(answer, reference):
        found, wanted = words(answer), words(reference)
        shared = sum((Counter(found) & Counter(wanted)).values())
        return change(shared, len(found), len(wanted)) if shared else token_f1(answer, reference)
    return answer_with


def f1_counting(count):
    """A wrong F1: `count` of the answer's and the reference's words are taken to be shared."""
    def answer_with(answer, reference):
        found, wanted = words(answer), words(reference)
        return 2 * count(found, wanted) / max(len(found) + len(wanted), 1)
    return answer_with


def f1_unguarded(answer, reference):
    found, wanted = words(answer), words(reference)
    shared = sum((Counter(found) & Counter(wanted)).values())
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def f1_guarded_but_for_empty(answer, reference):
    return f1_unguarded(answer, reference) if set(words(answer)) & set(words(reference)) else 0.0


def f1_as_nan(answer, reference):
    found, wanted = words(answer), words(reference)
    shared = torch.tensor(float(sum((Counter(found) & Counter(wanted)).values())))
    return 2 * shared / (len(found) + len(wanted)) if shared else shared / shared


def f1_of_empty(value):
    return lambda a, r: token_f1(a, r) if words(a) and words(r) else value


def token_losses(logits, targets):
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def counted(targets):
    return (targets != -100).sum(1).clamp(min=1)


def loss_per_entry(logits, targets):
    return token_losses(logits, targets).sum(1) / counted(targets)


def losses_in_a_loop(logits, targets):
    return torch.stack([F.cross_entropy(row, labels) if (labels != -100).any() else torch.tensor(0.0)
                        for row, labels in zip(logits, targets)])


def losses_by_gathering(logits, targets):
    counts = targets != -100
    picked = logits.gather(2, targets.clamp(min=0)[..., None])[..., 0]
    losses = logits.logsumexp(-1) - picked
    return (losses * counts).sum(1).double() / counts.sum(1).clamp(min=1)


def losses_without_nan(logits, targets):
    return torch.stack([F.cross_entropy(row, labels) for row, labels in zip(logits, targets)]).nan_to_num(0.0)


def losses_in_place(logits, targets):
    losses, number = token_losses(logits, targets).sum(1), counted(targets)
    targets[targets == -100] = 0
    return losses / number


def losses_by_probabilities(logits, targets, probability):
    counts = targets != -100
    picked = probability(logits).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return -(picked.log().masked_fill(~counts, 0)).sum(1) / counted(targets)


def mean_probability(logits, targets):
    return ((-token_losses(logits, targets)).exp() * (targets != -100)).sum(1) / counted(targets)


def without_token_0(logits, targets):
    return loss_per_entry(logits, targets.masked_fill(targets == 0, -100))


def shifted_again(logits, targets):
    return loss_per_entry(logits[:, :-1], targets[:, 1:])


def wrong_axis(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none").sum(1) / counted(targets)


def reshaped(logits, targets):
    batch, tokens, vocab = logits.shape
    losses = F.cross_entropy(logits.reshape(batch, vocab, tokens), targets, reduction="none")
    return losses.sum(1) / counted(targets)


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
    "exercise_3": [token_f1, f1_by_rates, f1_by_pattern],
    "exercise_4": [loss_per_entry, losses_in_a_loop, losses_by_gathering, losses_without_nan],
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
    ("exercise_3", f1_split(lambda text: [w for p in text.split() if (w := p.strip(string.punctuation))]),
     "Upper case makes words differ"),
    ("exercise_3", f1_split(lambda text: text.lower().split()), "Punctuation is still at the ends"),
    ("exercise_3", f1_split(str.split), "lower case, and strip"),
    ("exercise_3", f1_split(lambda text: [w for p in text.lower().split() if (w := p.rstrip(string.punctuation))]),
     "behind the words only"),
    ("exercise_3", f1_split(lambda text: text.lower().strip(string.punctuation).split()), "ends of the whole text"),
    ("exercise_3", f1_split(lambda text: re.sub(r"[^\w\s]", "", text.lower()).split()), "inside words too"),
    ("exercise_3", f1_split(lambda text: re.findall(r"\w+", text.lower())), "split words at the punctuation"),
    ("exercise_3", f1_split(lambda text: [p.strip(string.punctuation) for p in text.lower().split()]), "counted ''"),
    ("exercise_3", f1_split(lambda text: [w for p in text.lower().split(" ") if (w := p.strip(string.punctuation))]),
     "end of a line"),
    ("exercise_3", f1_split(lambda text: text.lower()), "compared characters"),
    ("exercise_3", f1_split(lambda text: set(words(text))), "each word once"),
    ("exercise_3", f1_counting(lambda f, w: sum(word in w for word in f)), "that the answer repeats"),
    ("exercise_3", f1_counting(lambda f, w: sum(word in f for word in w)), "that the reference repeats"),
    ("exercise_3", f1_counting(lambda f, w: len(set(f) & set(w))), "shared words once each"),
    ("exercise_3", f1_counting(lambda f, w: sum(a == b for a, b in zip(f, w))), "word by word in order"),
    ("exercise_3", f1_with(lambda shared, f, w: shared / f), "That is the precision"),
    ("exercise_3", f1_with(lambda shared, f, w: shared / w), "That is the recall"),
    ("exercise_3", f1_with(lambda shared, f, w: (shared / f + shared / w) / 2), "ordinary mean"),
    ("exercise_3", f1_with(lambda shared, f, w: shared / math.sqrt(f * w)), "geometric mean"),
    ("exercise_3", f1_with(lambda shared, f, w: shared / (f + w)), "factor 2"),
    ("exercise_3", f1_with(lambda shared, f, w: shared / (f + w - shared)), "Jaccard"),
    ("exercise_3", f1_with(lambda shared, f, w: 200 * shared / (f + w)), "per cent"),
    ("exercise_3", f1_with(lambda shared, f, w: shared), "how many words"),
    ("exercise_3", lambda a, r: words(a) == words(r), "exact match"),
    ("exercise_3", f1_unguarded, "divide by 0"),
    ("exercise_3", f1_guarded_but_for_empty, "neither has a word: return 1.0"),
    ("exercise_3", f1_of_empty(1.0), "nothing is shared: return 0.0"),
    ("exercise_3", f1_as_nan, "NaN"),
    ("exercise_3", lambda a, r: words(a), "one number"),
    ("exercise_4", lambda x, y: F.cross_entropy(x.transpose(1, 2), y), "one number for the whole batch"),
    ("exercise_4", token_losses, "loss at each position.* Average each row"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(1), "That is the sum"),
    ("exercise_4", lambda x, y: token_losses(x, y).mean(1), "divided by all positions"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(1) / (y != -100).sum(), "targets of the whole batch"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(1) / (y != -100).sum(1).float().mean(), "mean number"),
    ("exercise_4", lambda x, y: loss_per_entry(x, y).mean().repeat(len(x)), "averaged over the batch"),
    ("exercise_4", lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()).repeat(len(x)), "same for each row"),
    ("exercise_4", lambda x, y: token_losses(x, y.clamp(min=0)).mean(1), "as token 0 in your mean"),
    ("exercise_4", lambda x, y: token_losses(x, y.clamp(min=0)).sum(1) / counted(y), "in your sum, as token 0"),
    ("exercise_4", lambda x, y: loss_per_entry(x.softmax(-1), y), "probabilities to F.cross_entropy"),
    ("exercise_4", lambda x, y: -loss_per_entry(x, y), "sign turned"),
    ("exercise_4", lambda x, y: loss_per_entry(x, y).exp(), "perplexity"),
    ("exercise_4", lambda x, y: loss_per_entry(x, y) / math.log(2), "in bits"),
    ("exercise_4", mean_probability, "mean probability of the targets"),
    ("exercise_4", lambda x, y: -mean_probability(x, y).log(), "averaged first"),
    ("exercise_4", lambda x, y: (x.argmax(-1) == y).sum(1) / counted(y), "likeliest token"),
    ("exercise_4", without_token_0, "left out targets of 0"),
    ("exercise_4", shifted_again, "once more"),
    ("exercise_4", wrong_axis, "where your tokens are"),
    ("exercise_4", reshaped, "reshape and view only mix"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(0) / (y != -100).sum(0).clamp(min=1), "averaged over the rows"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(0) / counted(y), "summed over the rows"),
    ("exercise_4", lambda x, y: token_losses(x, y).sum(1) / (y != -100).sum(1), "0 / 0 gives NaN"),
    ("exercise_4", lambda x, y: losses_by_probabilities(x, y, lambda x: x.softmax(-1)), "far apart"),
    ("exercise_4", lambda x, y: losses_by_probabilities(x, y, lambda x: x.softmax(-1) + 1e-12), "far apart"),
    ("exercise_4", losses_in_place, "changed what it was given"),
    ("exercise_4", lambda x, y: loss_per_entry(x, y)[:, None], "has shape"),
    ("exercise_4", lambda x, y: loss_per_entry(x, y).tolist(), "should be a tensor"),
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

"""Learning from votes: losses equal to their formulas, what the masks leave out, frozen references, sampling that is
on-policy, and one line for what cannot be learned from."""

import copy
import itertools
import math
import random
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook import preferences
from llmbook.gpt import GPT
from llmbook.instructions import encode_entry
from llmbook.llama import Llama
from llmbook.lora import add_lora
from llmbook.preference_pairs import (
    PreferenceDataset,
    check_learner,
    checked_rewards,
    collate_answers,
    encode_answer,
    encode_prompt_only,
    ends_of_rows,
    preference_loader,
)
from llmbook.preferences import (
    DPOLoss,
    RewardModel,
    Rollouts,
    answer_log_probs,
    best_of_n,
    best_of_n_kl,
    dpo_loss,
    finetune_preferences,
    finetune_reinforce,
    finetune_reward,
    leave_one_out,
    preference_loss,
    reinforce_loss,
    reward_loss,
    reward_scores,
    sequence_log_probs,
)
from llmbook.scale.checkpoints import Checkpoints
from llmbook.text import train_bpe
from tests.support.small_models import small_model

WORDS = "the sea a ship captain wind harbour night rope sail storm gold map island bird salt".split()
TEXT = " ".join(f"{word} {other}" for word in WORDS for other in WORDS)
PLAIN = train_bpe(TEXT, 300)  # <|endoftext|> is its only special token
CHAT = train_bpe(TEXT, 300, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
END = 299
QUICK = {"device": "cpu", "precision": "float32", "progress": False}
FAMILIES = pytest.mark.parametrize("family", ["GPT", "Llama"])
VOTES = [{"prompt": "the", "chosen": " gold bird", "rejected": " salt"},
         {"prompt": "", "chosen": "a ship", "rejected": "the storm storm storm"},
         {"prompt": "a captain", "chosen": " rope", "rejected": " sail map"}]


def language_model(family: str = "GPT", spread: float | None = 0.3, **changes) -> GPT | Llama:
    return small_model(family, 16, 64, spread, **changes)


def dataset(votes=VOTES, context_length: int = 64, style: str = "story", tokenizer=PLAIN) -> PreferenceDataset:
    return PreferenceDataset(votes, tokenizer, context_length, style)


def many_votes(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Readers who like birds and not storms."""
    rng, votes = random.Random(seed), []
    for _ in range(n):
        text = [" ".join(rng.choices(WORDS[:-5], k=6)) for _ in range(2)]
        votes.append({"prompt": "", "chosen": f"{text[0]} bird", "rejected": f"{text[1]} storm"})
    return votes


# --- votes as token ids ------------------------------------------------------------------------------------------

def test_a_story_goes_on_from_its_prompt_and_the_label_is_the_answers():
    ids, tokens = encode_answer("the sea", " gold", PLAIN)
    assert ids.tolist() == [END, *PLAIN.encode("the sea"), *PLAIN.encode(" gold"), END]
    assert tokens == 1 + len(PLAIN.encode("the sea"))
    assert encode_prompt_only("the sea", PLAIN).tolist() == ids[:tokens].tolist()
    other = encode_answer("", "a ship in the night", PLAIN)
    token_ids, labels = collate_answers([(ids, tokens), other])
    assert token_ids.shape == labels.shape == (2, len(other[0]))
    assert labels[0].tolist() == [-100] * tokens + ids[tokens:].tolist() + [-100] * (len(other[0]) - len(ids))
    assert labels[1, 1:].tolist() == other[0][1:].tolist() and labels[1, 0] == -100
    assert ends_of_rows(labels).tolist() == [len(ids), len(other[0])]


def test_other_styles_are_those_of_chapter_7():
    ids, tokens = encode_answer("name a bird", "gold bird", CHAT, "chatml")
    entry = {"instruction": "name a bird", "input": "", "output": "gold bird"}
    assert torch.equal(ids, encode_entry(entry, CHAT, "chatml")[0]) and tokens == encode_entry(entry, CHAT, "chatml")[1]
    assert encode_prompt_only("name a bird", CHAT, "chatml").tolist() == ids[:tokens].tolist()


def test_batches_hold_pairs_with_the_chosen_answer_first_and_their_own_reference():
    votes, reference = dataset(), torch.arange(6.0).view(3, 2)
    for token_ids, labels, numbers in preference_loader(votes, 2, True, 1, reference):
        assert token_ids.shape == labels.shape and token_ids.shape[1] == 2
        for pair, number in zip(token_ids, numbers):
            place = int(number[0]) // 2
            assert number.tolist() == [2 * place, 2 * place + 1]
            for row, (ids, _) in zip(pair, votes[place]):
                assert row[: len(ids)].tolist() == ids.tolist()
    assert [len(ids) for ids, _ in votes.answers] == [len(ids) for pair in votes.rows for ids, _ in pair]


@pytest.mark.parametrize("votes, message", [
    ([], "there are no pairs: give at least one vote"),
    ([VOTES[0], {"prompt": "", "chosen": "a ship", "rejected": "a ship"}],
     r"pair 1: chosen and rejected are the same text \('a ship'\): leave it out"),
    ([{"prompt": "the sea " * 40, "chosen": "a", "rejected": "ship"}], r"pair 0: its prompt has \d+ tokens, the "
                                                                       "context 64: shorten it"),
    ([{"prompt": "", "chosen": "a<|endoftext|>", "rejected": "ship"}], "pair 0 holds the special token"),
])
def test_votes_that_cannot_be_learned_from_are_named(votes, message):
    with pytest.raises(ValueError, match=message):
        dataset(votes)


def test_an_answer_longer_than_the_context_loses_its_end_with_a_warning():
    with pytest.warns(UserWarning, match="pair 0: an answer has .* the context 16: its last"):
        votes = dataset([{"prompt": "", "chosen": "sea " * 40, "rejected": "ship"}], 16)
    assert [len(ids) for ids, _ in votes[0]][0] == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset()


# --- rewards -----------------------------------------------------------------------------------------------------

def test_the_loss_of_votes_is_the_cross_entropy_of_their_difference():
    torch.manual_seed(0)
    chosen, rejected = torch.randn(2, 50, dtype=torch.float64) * 30
    wanted = F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(preference_loss(chosen, rejected), wanted, rtol=0, atol=1e-9)
    assert preference_loss(torch.tensor([1e4]), torch.tensor([-1e4])) == 0
    assert torch.isfinite(preference_loss(torch.tensor([-1e4]), torch.tensor([1e4])))


@FAMILIES
def test_a_reward_is_read_at_the_last_token_of_the_answer_alone(family):
    model = RewardModel(language_model(family))
    nn.init.normal_(model.head.weight)
    answers = dataset().answers
    alone = [model(ids[None]).item() for ids, _ in answers]
    torch.testing.assert_close(reward_scores(model, answers), torch.tensor(alone), rtol=1e-4, atol=1e-4)
    hidden = model.model.hidden_states(answers[0][0][None])[0, -1]
    assert math.isclose((hidden @ model.head.weight[0]).item(), alone[0], rel_tol=1e-4, abs_tol=1e-5)


def test_all_rewards_are_equal_before_training():
    token_ids, labels = next(iter(preference_loader(dataset(), 3)))
    loss = reward_loss(RewardModel(language_model()), token_ids, labels).item()
    assert math.isclose(loss, math.log(2), rel_tol=1e-6)


def test_the_loss_of_a_reward_model_is_that_of_its_rewards_and_counts_pairs():
    model = RewardModel(language_model())
    nn.init.normal_(model.head.weight)
    votes = dataset()
    token_ids, labels = next(iter(preference_loader(votes, 3, shuffle=False)))
    rewards = reward_scores(model, votes.answers).view(-1, 2)
    wanted = preference_loss(rewards[:, 0], rewards[:, 1])
    torch.testing.assert_close(reward_loss(model, token_ids, labels), wanted, rtol=1e-4, atol=1e-5)
    assert reward_loss.count_targets((token_ids, labels)) == 3


def test_a_reward_model_learns_from_votes_through_the_one_loop():
    model = RewardModel(language_model("Llama", None))
    votes = dataset(many_votes(64))
    history = finetune_reward(model, votes, dataset(many_votes(16, 9)), epochs=4, learning_rate=5e-3, **QUICK)
    rewards = reward_scores(model, dataset(many_votes(30, 5)).answers).view(-1, 2)
    assert (rewards[:, 0] > rewards[:, 1]).float().mean() > 0.9
    assert history.steps[-1]["val_loss"] < 0.3 and len(history.steps) == 32


# --- the best of n -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_n_is_the_mean_over_all_draws(n):
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 7)
    draws = list(itertools.combinations(range(7), n))
    wanted = sum(float(values[max(draw, key=lambda place: float(rewards[place]))]) for draw in draws) / len(draws)
    assert math.isclose(best_of_n(rewards, values, n), wanted, rel_tol=1e-6)


def test_the_best_of_n_of_many_answers_does_not_overflow():
    values = torch.arange(3000.0)
    assert math.isclose(best_of_n(values, values, 1000), 3001 * 1000 / 1001 - 1, rel_tol=1e-9)


def test_the_bound_on_its_divergence():
    assert best_of_n_kl(1) == 0 and math.isclose(best_of_n_kl(4), math.log(4) - 0.75)
    chances = torch.full((6,), 1 / 6)  # all 4 draws equal: the highest of them with these chances
    best = torch.tensor([((k + 1) / 6) ** 4 - (k / 6) ** 4 for k in range(6)])
    assert 0 < float((best * (best / chances).log()).sum()) < best_of_n_kl(4)


@pytest.mark.parametrize("rewards, n, message", [
    ([1.0, 2.0], 3, "n is 3, with 2 answers"), ([1.0, 2.0], 0, "n is 0, with 2 answers"),
    ([1.0, math.nan], 1, "a reward is nan or infinite"),
])
def test_a_choice_that_makes_no_sense_is_refused(rewards, n, message):
    with pytest.raises(ValueError, match=message):
        best_of_n(torch.tensor(rewards), torch.zeros(len(rewards)), n)


# --- DPO ---------------------------------------------------------------------------------------------------------

@FAMILIES
def test_the_log_probability_of_an_answer_is_the_sum_over_its_own_tokens(family):
    model, answers = language_model(family), dataset().answers
    wanted = []
    for ids, prompt_tokens in answers:
        log_probs = model(ids[None])[0].log_softmax(dim=-1)  # (tokens, vocab_size)
        wanted.append(sum(log_probs[place - 1, ids[place]].item() for place in range(prompt_tokens, len(ids))))
    torch.testing.assert_close(answer_log_probs(model, answers), torch.tensor(wanted), rtol=1e-4, atol=1e-3)
    together = sequence_log_probs(model, *collate_answers(answers))
    torch.testing.assert_close(together.detach(), torch.tensor(wanted), rtol=1e-4, atol=1e-3)


def test_only_answers_get_a_gradient_and_prompts_do_not():
    model = language_model()
    token_ids, labels = collate_answers(dataset().answers)
    with torch.no_grad():
        logits = model(token_ids)
    logits.requires_grad_()
    model.hidden_states, model.lm_head = (lambda ids: logits[:, : ids.shape[1]]), lambda hidden: hidden
    sequence_log_probs(model, token_ids, labels).sum().backward()
    touched = logits.grad.abs().sum(dim=-1)[:, :-1] > 0
    assert torch.equal(touched, labels[:, 1:] != -100)


def by_hand(log_probs, reference, beta):
    """The loss of Rafailov et al. (2023), term by term, with ratios of probabilities."""
    total = 0.0
    for (chosen, rejected), (was_chosen, was_rejected) in zip(log_probs.tolist(), reference.tolist()):
        ratio = math.exp(chosen - was_chosen) / math.exp(rejected - was_rejected)
        total -= math.log(1 / (1 + ratio**-beta))
    return total / len(log_probs)


@pytest.mark.parametrize("beta", [0.02, 0.1, 1.0])
def test_dpo_equals_its_formula_and_its_gradient(beta):
    torch.manual_seed(1)
    ours, theirs = torch.randn(2, 9, 2, dtype=torch.float64) * 3
    assert abs(float(dpo_loss(ours, theirs, beta)) - by_hand(ours, theirs, beta)) < 1e-6
    ours.requires_grad_()
    assert torch.autograd.gradcheck(lambda log_probs: dpo_loss(log_probs, theirs, beta), ours)
    (gradient,) = torch.autograd.grad(dpo_loss(ours, theirs, beta), ours)
    assert bool((gradient[:, 0] < 0).all()) and bool((gradient[:, 1] > 0).all())  # a step down: chosen up


def test_dpo_is_log_two_at_the_reference_and_falls_as_the_chosen_becomes_likelier():
    reference = torch.tensor([[-50.0, -40.0]])
    assert math.isclose(float(dpo_loss(reference, reference)), math.log(2), rel_tol=1e-6)
    better, worse = reference + torch.tensor([[5.0, 0.0]]), reference + torch.tensor([[0.0, 5.0]])
    assert dpo_loss(better, reference) < math.log(2) < dpo_loss(worse, reference)
    assert dpo_loss(better, reference, 1.0) < dpo_loss(better, reference, 0.1)


def test_a_steps_record_says_what_both_answers_earn():
    model, votes = language_model(), dataset()
    before = answer_log_probs(model, votes.answers).view(-1, 2) - torch.tensor([[1.0, 3.0]])
    token_ids, labels, reference = next(iter(preference_loader(votes, 3, reference=before)))
    loss, record = DPOLoss(0.5), {}
    value = loss(model, token_ids, labels, reference)
    loss.note(record)
    assert math.isclose(record["chosen_reward"], 0.5, abs_tol=1e-3) and record["accuracy"] == 0
    assert math.isclose(record["rejected_reward"], 1.5, abs_tol=1e-3)
    assert math.isclose(value.item(), math.log(1 + math.e), abs_tol=1e-3)


def test_the_model_learns_the_votes_and_its_reference_stays_where_it_was():
    model = language_model("Llama", None)
    votes, heard = dataset(many_votes(32)), []
    start = answer_log_probs(model, votes.answers).view(-1, 2)
    history = finetune_preferences(model, votes, epochs=8, learning_rate=5e-3, on_step=heard.append, **QUICK)
    assert history.steps == heard and len(heard) == 32
    assert abs(history.steps[0]["loss"] - math.log(2)) < 1e-4  # at first it is its own reference
    now = answer_log_probs(model, votes.answers).view(-1, 2)
    rewards = 0.1 * (now - start)
    assert abs(float((rewards[:, 0] - rewards[:, 1]).mean())
               - (heard[-1]["chosen_reward"] - heard[-1]["rejected_reward"])) < 0.5
    assert heard[-1]["loss"] < 0.3 and heard[-1]["accuracy"] == 1


def test_another_reference_is_used_and_not_changed():
    model, reference = language_model(), language_model(spread=0.2)
    weights = copy.deepcopy(reference.state_dict())
    history = finetune_preferences(model, dataset(), reference=reference, batch_size=3, **QUICK)
    ours, theirs = (answer_log_probs(net, dataset().answers).view(-1, 2) for net in (language_model(), reference))
    assert math.isclose(history.steps[0]["loss"], float(dpo_loss(ours, theirs)), rel_tol=1e-4)
    assert all(torch.equal(weights[name], value) for name, value in reference.state_dict().items())


def test_a_reference_that_would_be_trained_is_refused():
    model = language_model()
    with pytest.raises(ValueError, match="the reference is the model itself: leave it out"):
        finetune_preferences(model, dataset(), reference=model, **QUICK)
    other = language_model()
    other.blocks = model.blocks
    with pytest.raises(ValueError, match=r"shares weights that are trained: give a copy of the model \(copy.deepcopy"):
        finetune_reinforce(model, PLAIN, lambda texts: [0.0] * len(texts), reference=other, **QUICK)
    check_learner(model, copy.deepcopy(model))
    shared = copy.copy(model)
    model.requires_grad_(False)
    check_learner(model, shared)  # frozen ones may be shared: adapters are trained beside them


def test_adapters_alone_are_trained():
    model = language_model("Llama")
    torch.manual_seed(0)
    add_lora(model, rank=2)
    weights = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    history = finetune_preferences(model, dataset(), epochs=3, learning_rate=1e-2, **QUICK)
    assert weights and all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in weights.items())
    assert history.steps[-1]["loss"] < history.steps[0]["loss"]


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_a_price_of_nothing_is_refused(beta):
    with pytest.raises(ValueError, match="beta is .*: it must be above 0, such as 0.1"):
        finetune_preferences(language_model(), dataset(), beta=beta, **QUICK)


def test_broken_weights_stop_the_training_before_they_spread():
    model = language_model()
    with torch.no_grad():
        model.final_norm.weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="nan"):
        finetune_preferences(model, dataset(), **QUICK)


# --- REINFORCE ---------------------------------------------------------------------------------------------------

def test_an_advantage_is_the_distance_to_the_mean_of_the_others():
    assert leave_one_out(torch.tensor([1.0, 2.0, 6.0])).tolist() == [-3.0, -1.5, 4.5]
    assert leave_one_out(torch.tensor([5.0, 5.0])).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="1 reward: the baseline is that of other answers, so sample at least 2"):
        leave_one_out(torch.tensor([1.0]))


def test_the_gradient_is_that_of_the_weighted_log_probabilities():
    model, answers = language_model(), dataset().answers
    token_ids, labels = collate_answers(answers)
    advantages = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0, -1.0])
    reinforce_loss(model, token_ids, labels, advantages).backward()
    got = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    for (ids, tokens), advantage in zip(answers, advantages):
        log_probs = model(ids[None])[0].log_softmax(dim=-1)
        own = log_probs[range(tokens - 1, len(ids) - 1), ids[tokens:]].sum()
        (-advantage * own / len(answers)).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(got[name], weight.grad, rtol=1e-3, atol=1e-5)


def test_rewarded_answers_become_likelier():
    model = language_model(spread=None)
    ids = collate_answers(dataset().answers)
    before = sequence_log_probs(model, *ids)
    reinforce_loss(model, *ids, torch.tensor([1.0, -1, 1, -1, 1, -1])).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    after = sequence_log_probs(model, *ids)
    assert ((after - before) * torch.tensor([1.0, -1, 1, -1, 1, -1])).sum() > 0


def ships(texts: list[str]) -> list[float]:
    return [float(text.count("ship")) for text in texts]


def rollouts(model=None, **changes) -> Rollouts:
    model = language_model() if model is None else model
    reference = language_model(spread=0.2)
    return Rollouts(model, reference, PLAIN, ships, **{"batch_size": 4, "max_new_tokens": 12, **changes})


def test_a_batch_is_what_the_model_writes_now_with_its_advantages():
    model = language_model()
    seen = []
    draws = Rollouts(model, language_model(spread=0.2), PLAIN, lambda texts: seen.append(texts) or ships(texts),
                     ("the sea", "a ship"), beta=0.3, batch_size=4, max_new_tokens=12)
    for prompt in ("the sea", "a ship", "the sea"):
        token_ids, labels, advantages = draws.draw()
        start = [END, *PLAIN.encode(prompt)]
        assert token_ids[:, : len(start)].tolist() == [start] * 4
        assert (labels[:, : len(start)] == -100).all() and (labels[:, len(start)] != -100).all()
        answers = [(ids[: int(end)], len(start)) for ids, end in zip(token_ids, ends_of_rows(labels))]
        assert [PLAIN.decode([t for t in ids[len(start):].tolist() if t != END]) for ids, _ in answers] == seen[-1]
        moved = answer_log_probs(model, answers) - answer_log_probs(draws.models[1], answers)
        wanted = leave_one_out(torch.tensor(ships(seen[-1])) - 0.3 * moved)
        torch.testing.assert_close(advantages, wanted, rtol=1e-3, atol=1e-3)
        assert math.isclose(draws.record["kl"], float(moved.mean()), rel_tol=1e-4)
        assert 0 < draws.record["tokens"] <= 12
    assert seen[0] != seen[2]


def test_the_weights_decide_what_is_drawn_and_the_place_goes_on():
    model = language_model()
    draws = rollouts(model)
    first = draws.draw()[0]
    state = draws.state_dict()
    second = draws.draw()[0]
    again = rollouts(model)
    again.load_state_dict(state)
    assert torch.equal(again.draw()[0], second) and not torch.equal(first, second)
    with torch.no_grad():
        for weight in model.parameters():
            weight.neg_()
    again.load_state_dict({"drawn": 0})
    assert not torch.equal(again.draw()[0], first)


def test_each_step_is_on_policy(monkeypatch):
    """What is drawn for a step comes from the weights that the steps before have made."""
    model, drawn = language_model(spread=None), []
    real = preferences.generate

    def watched(net, *arguments, **settings):
        drawn.append(torch.cat([weight.detach().flatten() for weight in net.parameters()]))
        return real(net, *arguments, **settings)

    monkeypatch.setattr(preferences, "generate", watched)
    after = []
    finetune_reinforce(model, PLAIN, ships, steps=3, batch_size=4, max_new_tokens=8, learning_rate=1e-2,
                       on_step=lambda record: after.append(
                           torch.cat([weight.detach().flatten() for weight in model.parameters()])), **QUICK)
    assert torch.equal(drawn[1], after[0]) and torch.equal(drawn[2], after[1]) and not torch.equal(drawn[0], after[0])


def test_it_learns_what_is_rewarded_and_the_price_keeps_it_near():
    def letters(texts: list[str]) -> list[float]:
        return [float(text.count("s")) for text in texts]

    ends = {}
    for beta in (0.0, 5.0):
        model = language_model("Llama", None)
        history = finetune_reinforce(model, PLAIN, letters, beta=beta, steps=30, batch_size=32, max_new_tokens=8,
                                     learning_rate=1e-2, **QUICK)
        assert abs(history.steps[0]["kl"]) < 1e-5
        ends[beta] = history.steps[-1]
    assert ends[0.0]["reward"] > 2 * history.steps[0]["reward"]
    assert ends[0.0]["kl"] > 0.3 > abs(ends[5.0]["kl"])


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    def run(model, steps, folder):
        checkpoints = Checkpoints(folder, every_steps=2, allow=("max_steps",)) if folder else None
        finetune_reinforce(model, PLAIN, ships, steps=steps, batch_size=4, max_new_tokens=8, learning_rate=1e-2,
                           checkpoints=checkpoints, final_fraction=1.0, **QUICK)
        return model

    whole = run(language_model(), 4, None)
    run(language_model(), 2, tmp_path)
    goes_on = run(language_model(), 4, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), goes_on.parameters()))


@pytest.mark.parametrize("changes, message", [
    ({"prompts": ()}, "give at least one, shorter than the context of 64"),
    ({"prompts": ("the sea " * 40,)}, r"prompts of \[\d+\] tokens: give at least one, shorter than the context of 64"),
    ({"beta": -1}, "beta -1, batch_size 4: at least 0 and 2"), ({"batch_size": 1}, "beta 0.1, batch_size 1: at least"),
])
def test_rollouts_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rollouts(**changes)


@pytest.mark.parametrize("given, message", [
    ([1.0], r"the reward function gave \(1,\) for 4 answers: one number for each"),
    ([1.0, 2.0, math.nan, 0.0], "reward 2 is nan: the reward function must give finite numbers"),
    ([[1.0]] * 4, r"gave \(4, 1\) for 4 answers"),
])
def test_rewards_that_are_none_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        checked_rewards(given, 4)
    with pytest.raises(ValueError, match=message):
        finetune_reinforce(language_model(), PLAIN, lambda texts: given, batch_size=4, max_new_tokens=4, **QUICK)


def test_what_a_reward_function_raises_reaches_the_caller_and_nothing_is_lost():
    model = language_model(spread=None)
    calls = []

    def breaks(texts):
        calls.append(1)
        if len(calls) == 3:
            raise ConnectionError("the judge is gone")
        return ships(texts)

    with pytest.raises(ConnectionError, match="the judge is gone"):
        finetune_reinforce(model, PLAIN, breaks, steps=5, batch_size=4, max_new_tokens=4, **QUICK)
    assert all(weight.isfinite().all() and weight.grad is None for weight in model.parameters())

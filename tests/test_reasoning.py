"""Chapter 9: each quantity against numbers worked out by hand, the gradient against a second way to compute it, and
what happens to a run that is stopped, fed nonsense or given a reward that fails."""

import copy
import itertools
import math

import pytest
import torch

from llmbook.gpt import GPT, GPTConfig
from llmbook.group_samples import ask_reward
from llmbook.problems import END, PieceTokenizer
from llmbook.reasoning import (
    Calculator,
    GroupRollouts,
    GRPOConfig,
    best_of,
    group_advantages,
    grpo,
    kl_estimate,
    majority_vote,
    pass_at_k,
    policy_loss,
    token_logprobs,
    write_with_tool,
)
from llmbook.scale.checkpoints import Checkpoints

SMALL = {"max_steps": 3, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 4, "device": "cpu",
         "progress": False, "warmup_steps": 0}
PROMPTS = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4, 5, 6])]


def tiny(seed=0, vocab_size=11, context_length=16, **changes):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "dropout": 0.0, **changes}
    return GPT(GPTConfig(vocab_size=vocab_size, context_length=context_length, **sizes))


def likes_sevens(places, responses):
    return [float((ids == 7).sum()) for ids in responses]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


# --- spending more --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("answers, winner", [(["3", "5", "5"], "5"), (["3", "5"], "3"), (["", "", "5"], "5"),
                                             ([], ""), (["", ""], "")])
def test_the_majority_wins_and_the_first_of_a_tie(answers, winner):
    assert majority_vote(answers) == winner


def test_best_of_takes_the_highest_score_and_the_first_of_equals():
    assert best_of(["a", "bbb", "ccc"], len) == "bbb"
    with pytest.raises(ValueError, match="sample at least one"):
        best_of([], len)


def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_right_one():
    for n, right in ((6, 0), (6, 1), (6, 2), (6, 5), (6, 6)):
        samples = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            choices = list(itertools.combinations(samples, k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # by hand: 1 - 3 / 10


@pytest.mark.parametrize("arguments", [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_pass_at_k_refuses_impossible_counts(arguments):
    with pytest.raises(ValueError, match=f"k {arguments[2]}: right must be from 0 to n"):
        pass_at_k(*arguments)


# --- advantages, KL, loss --------------------------------------------------------------------------------------------

def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    by_mean = [[0.5, -0.5, -0.5, 0.5], [0.0] * 4, [3.0, -1.0, -1.0, -1.0]]
    assert torch.equal(group_advantages(rewards), torch.tensor(by_mean, dtype=torch.float64))
    by_std = group_advantages(rewards, by_std=True)
    third = math.sqrt(3)  # the variance of 4, 0, 0, 0 is 3
    right = [[1.0, -1.0, -1.0, 1.0], [0.0] * 4, [3 / third, -1 / third, -1 / third, -1 / third]]
    assert torch.allclose(by_std, torch.tensor(right, dtype=torch.float64), atol=1e-12)


def test_log_probabilities_are_those_of_the_softmax_and_0_where_nothing_counts():
    model = tiny().double()
    inputs, targets = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[-100, 3, 9], [-100, 6, -100]])
    found = token_logprobs(model, inputs, targets)
    whole = model(inputs).log_softmax(-1)
    assert found.dtype == torch.float64
    assert found[0, 1].item() == pytest.approx(whole[0, 1, 3].item(), abs=1e-12)
    assert found[1, 1].item() == pytest.approx(whole[1, 1, 6].item(), abs=1e-12)
    assert not found[targets == -100].any()


def test_kl_estimate_by_hand_and_on_average():
    assert kl_estimate(torch.tensor(-1.0), torch.tensor(-1.0)) == 0
    assert kl_estimate(torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(math.e - 2)
    new, reference = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    expected = (new * kl_estimate(new.log(), reference.log())).sum()
    assert expected.item() == pytest.approx((new * (new / reference).log()).sum().item(), abs=1e-12)


class Spelled(torch.nn.Module):
    """A "model" whose log-probabilities are given: so that a loss can be worked out on paper."""

    def __init__(self, probabilities):  # (tokens, vocab_size), the same for each row
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(probabilities, dtype=torch.float64).log())

    def hidden_states(self, inputs):
        return self.logits[: inputs.shape[1]].expand(len(inputs), -1, -1)

    def lm_head(self, hidden):
        return hidden


def test_the_loss_by_hand():
    model = Spelled([[0.5, 0.5], [0.8, 0.2]])
    inputs, targets = torch.zeros(2, 2, dtype=torch.long), torch.tensor([[0, 0], [1, -100]])
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    old = torch.tensor([[0.5, 0.5], [0.25, 1.0]], dtype=torch.float64).log()
    # Row 1: ratios 1 and 1.6, cut to 1.2, times 1. Row 2: ratio 2, times -1, and not cut: the smaller one counts.
    assert policy_loss(model, inputs, targets, advantages, old, most_tokens=4).item() == pytest.approx(
        -((1 + 1.2) / 4 - 2 / 4) / 2)
    assert policy_loss(model, inputs, targets, advantages, old).item() == pytest.approx(-((1 + 1.2) / 2 - 2) / 2)
    assert policy_loss(model, inputs, targets, advantages, old, clip=5.0, most_tokens=1).item() == pytest.approx(
        -(1 + 1.6 - 2) / 2)
    # With KL: the reference is as the model, but for the second token of row 1, to which it gives 0.4 instead of 0.8.
    reference = torch.tensor([[0.5, 0.4], [0.5, 1.0]], dtype=torch.float64).log()
    far = 0.5 - math.log(0.5) - 1
    assert policy_loss(model, inputs, targets, advantages, old, reference, kl=0.5, most_tokens=1).item() == (
        pytest.approx(-(1 + 1.2 - 0.5 * far - 2) / 2))


def reference_loss(model, inputs, targets, advantages, old, reference, clip, kl, most_tokens):
    """The same, token by token in plain Python."""
    total = 0.0
    for row in range(len(inputs)):
        logits, row_sum, count = model(inputs[row : row + 1])[0], 0.0, 0
        for place in range(inputs.shape[1]):
            token = targets[row, place].item()
            if token < 0:
                continue
            new = logits[place, token] - logits[place].exp().sum().log()
            ratio, advantage = (new - old[row, place]).exp(), advantages[row]
            kept = torch.clamp(ratio, min=1 - clip, max=1 + clip)
            gain = ratio * advantage if ratio * advantage < kept * advantage else kept * advantage
            away = reference[row, place] - new
            row_sum, count = row_sum + gain - kl * (away.exp() - away - 1), count + 1
        total = total + row_sum / (most_tokens or count)
    return -total / len(inputs)


@pytest.mark.parametrize("most_tokens", [None, 5])
def test_the_gradient_is_that_of_an_independent_reference(most_tokens):
    model = tiny(1).double()
    torch.manual_seed(2)
    inputs, targets = torch.randint(11, (5, 6)), torch.randint(11, (5, 6))
    targets[:, :2], targets[0, 4:] = -100, -100
    advantages = torch.tensor([1.0, -0.5, 0.3, -2.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        now = token_logprobs(model, inputs, targets)
    old, other = now + 0.4 * torch.randn_like(now), now + 0.3 * torch.randn_like(now)
    settings = {"clip": 0.2, "kl": 0.1, "most_tokens": most_tokens}
    ours = policy_loss(model, inputs, targets, advantages, old, other, **settings)
    theirs = reference_loss(model, inputs, targets, advantages, old, other, **settings)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (ours, theirs)]
    for mine, right in zip(*gradients):
        assert torch.allclose(mine, right, atol=1e-6, rtol=0) and torch.allclose(mine, right, rtol=1e-6, atol=1e-9)


def test_on_policy_the_gradient_is_that_of_reinforce():
    """Ratio 1: advantage x gradient of the log-probability, whatever the clipping."""
    model = tiny(1).double()
    inputs, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[-100, 3, 4]])
    for advantage in (0.7, -0.7):
        loss = policy_loss(model, inputs, targets, torch.tensor([advantage]).double(), most_tokens=1)
        expected = -advantage * token_logprobs(model, inputs, targets).sum()
        for mine, right in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (loss, expected))):
            assert torch.allclose(mine, right, atol=1e-9)


def test_a_ratio_that_was_clipped_has_no_gradient():
    model = Spelled([[0.8, 0.2]])
    inputs, targets = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    old = torch.tensor([[0.5]], dtype=torch.float64).log()  # the ratio is 1.6
    for advantage, moves in ((1.0, False), (-1.0, True)):
        model.zero_grad()
        policy_loss(model, inputs, targets, torch.tensor([advantage]).double(), old).backward()
        assert bool(model.logits.grad.abs().sum() > 1e-9) == moves


# --- the loop --------------------------------------------------------------------------------------------------------

def test_what_is_rewarded_becomes_more_likely_and_nothing_else():
    model = tiny()
    config = GRPOConfig(**{**SMALL, "max_steps": 25, "prompts_per_step": 3, "group_size": 16, "learning_rate": 1e-2})
    torch.manual_seed(0)
    history = grpo(model, PROMPTS, likes_sevens, config)
    rewards = [record["reward"] for record in history.steps]
    assert sum(rewards[:3]) / 3 < 1.0 < 2.5 < sum(rewards[-3:]) / 3
    assert set(history.steps[0]) >= {"reward", "signal", "tokens", "loss", "gradient_norm"}
    assert history.steps[0]["tokens"] == 4


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_without_a_difference_in_a_group_no_weight_moves(constant):
    model = tiny()
    before = weights(model)
    history = grpo(model, PROMPTS, lambda places, responses: [constant] * len(responses), GRPOConfig(**SMALL))
    assert torch.equal(weights(model), before)
    assert [record["signal"] for record in history.steps] == [0.0] * 3
    assert {record["loss"] for record in history.steps} == {0.0}


def test_groups_are_of_one_prompt_and_rows_without_signal_left_out():
    model, seen = tiny(), []

    def reward(places, responses):
        seen.append(list(places))
        return [float(place == 1 and number % 2) for number, place in enumerate(places)]  # a signal for prompt 1 alone

    rollouts = GroupRollouts(model, PROMPTS, reward, GRPOConfig(**{**SMALL, "prompts_per_step": 3}))
    inputs, targets, advantages = next(iter(rollouts))
    assert sorted(set(seen[0])) == [0, 1, 2] and all(len(set(seen[0][i : i + 4])) == 1 for i in (0, 4, 8))
    assert len(inputs) == 4 and inputs[:, 0].tolist() == [3] * 4  # those of prompt 1 only
    assert advantages.tolist() == [-0.5, 0.5, -0.5, 0.5] or advantages.tolist() == [0.5, -0.5, 0.5, -0.5]
    assert rollouts.figures["signal"] == pytest.approx(1 / 3)
    assert (targets[:, :0] == -100).all() and (targets != -100).sum() == 16  # prompt 1 has one token, so all count


def test_the_prompt_is_never_learned():
    model = tiny()
    config = GRPOConfig(**{**SMALL, "prompts_per_step": 8})
    rollouts = GroupRollouts(model, [torch.tensor([4, 5, 6])], likes_sevens, config)
    inputs, targets, _ = next(iter(rollouts))
    assert (targets[:, :2] == -100).all() and (targets[:, 2:6] >= 0).all() and inputs.shape[1] == 6


def test_every_prompt_has_its_turn_before_any_comes_again():
    model, seen = tiny(), []

    def reward(places, responses):
        seen.extend(dict.fromkeys(places))
        return [0.0] * len(places)

    grpo(model, PROMPTS, reward, GRPOConfig(**{**SMALL, "prompts_per_step": 1, "max_steps": 6}))
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


def test_samples_used_twice_are_weighed_by_their_ratio():
    model = tiny()
    config = GRPOConfig(**{**SMALL, "updates": 2, "max_steps": 4})
    batches, taken = iter(GroupRollouts(model, PROMPTS, likes_sevens, config)), []
    for _ in range(3):
        taken.append(next(batches))
    assert taken[0][0] is taken[1][0] and taken[1][0] is not taken[2][0]
    assert torch.allclose(taken[0][3], token_logprobs(model, *taken[0][:2]).detach())
    torch.manual_seed(0)
    history = grpo(model, PROMPTS, likes_sevens, config)
    assert len(history.steps) == 4


def test_the_reference_is_the_model_at_the_start_and_stays():
    model, kept = tiny(), []
    start = copy.deepcopy(model)
    config = GRPOConfig(**{**SMALL, "kl": 0.5, "max_steps": 5, "learning_rate": 1e-2})
    original = GroupRollouts._sample

    class Watched(GroupRollouts):
        def _sample(self):
            batch = original(self)
            kept.append((batch, token_logprobs(start, batch[0], batch[1]).detach()))
            return batch

    import llmbook.reasoning as module
    module.GroupRollouts, before = Watched, module.GroupRollouts
    try:
        grpo(model, PROMPTS, likes_sevens, config)
    finally:
        module.GroupRollouts = before
    assert len(kept) == 5 and not torch.equal(weights(model), weights(start))
    for batch, of_start in kept:
        assert torch.allclose(batch[4], of_start, atol=1e-5)
    assert not torch.allclose(kept[-1][0][3], kept[-1][0][4], atol=1e-3)  # the policy has moved away from it


def test_a_larger_kl_weight_keeps_the_model_closer():
    moved = []
    for kl in (0.0, 3.0):
        model = tiny()
        before = weights(model)
        torch.manual_seed(0)
        grpo(model, PROMPTS, likes_sevens, GRPOConfig(**{**SMALL, "kl": kl, "max_steps": 30, "learning_rate": 3e-3}))
        moved.append((weights(model) - before).norm().item())
    assert moved[1] < 0.9 * moved[0]


def interrupt_at(number):
    calls = itertools.count(1)

    def on_step(record):
        if next(calls) == number:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("changes", [{}, {"updates": 2, "kl": 0.1}])
def test_a_run_in_pieces_is_the_unbroken_run(tmp_path, changes):
    config = GRPOConfig(**{**SMALL, "max_steps": 7, "learning_rate": 1e-2, **changes})
    whole = tiny()
    torch.manual_seed(5)
    unbroken = grpo(whole, PROMPTS, likes_sevens, config)
    for _ in range(2):
        model = tiny()  # the same first weights, as the same script makes them
        torch.manual_seed(5)
        history = grpo(model, PROMPTS, likes_sevens, config, checkpoints=Checkpoints(tmp_path, every_steps=3),
                       on_step=interrupt_at(4))
    assert torch.equal(weights(model), weights(whole))
    for name in ("reward", "loss", "tokens", "signal"):
        assert [r[name] for r in history.steps] == [r[name] for r in unbroken.steps], name
    with pytest.raises(ValueError, match="group_size was 4, is 5"):
        grpo(tiny(), PROMPTS, likes_sevens, GRPOConfig(**{**SMALL, "max_steps": 9, **changes, "group_size": 5}),
             checkpoints=Checkpoints(tmp_path, every_steps=3, allow=("max_steps",)))


def test_ctrl_c_keeps_the_history_and_the_weights():
    model = tiny()
    history = grpo(model, PROMPTS, likes_sevens, GRPOConfig(**SMALL), on_step=interrupt_at(2))
    assert history.interrupted and len(history.steps) == 2 and weights(model).isfinite().all()


# --- what cannot be ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reward, kind, message", [
    (lambda places, responses: [1.0], ValueError, "gave 1 numbers for 8 responses: give one for each"),
    (lambda places, responses: [math.nan] * 8, ValueError, "is nan: it must be finite"),
    (lambda places, responses: 1 / 0, RuntimeError, "failed with ZeroDivisionError: division by zero"),
    (lambda places, responses: None, RuntimeError, "failed with TypeError"),
    (lambda places, responses: ["much"] * 8, RuntimeError, "failed with ValueError")])
def test_a_reward_that_fails_is_named_and_nothing_is_lost(reward, kind, message):
    model, calls = tiny(), itertools.count()
    good = {}

    def later(places, responses):
        return likes_sevens(places, responses) if next(calls) < 2 else reward(places, responses)

    def keep(record):
        good["weights"] = weights(model)

    with pytest.raises(kind) as error:
        grpo(model, PROMPTS, later, GRPOConfig(**SMALL), on_step=keep)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert torch.equal(weights(model), good["weights"])  # as after the last whole step


@pytest.mark.parametrize("prompts, message", [
    ([], "there is no prompt: give at least one"),
    ([torch.tensor([1]), torch.tensor([], dtype=torch.long)], "prompt 1 has 0 tokens"),
    ([torch.ones(13, dtype=torch.long)], "prompt 0 has 13 tokens: the context of 16 and max_new_tokens (4) leave room"),
    ([torch.tensor([1]), torch.tensor([99])], "prompt 1: ")])
def test_prompts_that_do_not_fit_are_named(prompts, message):
    with pytest.raises(ValueError) as error:
        grpo(tiny(), prompts, likes_sevens, GRPOConfig(**SMALL))
    assert message in str(error.value)


@pytest.mark.parametrize("setting, value, message", [
    ("group_size", 1, "group_size is 1: give a whole number from 2 on: one sample has nothing to be compared with"),
    ("prompts_per_step", 0, "prompts_per_step is 0"), ("updates", 1.5, "updates is 1.5"),
    ("max_new_tokens", 0, "max_new_tokens is 0"), ("temperature", 0.0, "temperature is 0.0"),
    ("clip", math.nan, "clip is nan"), ("kl", -0.1, "kl is -0.1"), ("learning_rate", -1.0, "learning_rate")])
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError) as error:
        GRPOConfig(**{**SMALL, setting: value})
    assert message in str(error.value)


def test_weights_that_are_not_numbers_are_named():
    model = tiny()
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="blocks.0.attention.qkv.weight"):
        grpo(model, PROMPTS, likes_sevens, GRPOConfig(**SMALL))


def test_rewards_may_be_booleans_and_come_in_order():
    assert ask_reward(lambda places, responses: [True, False], [0, 0], [torch.ones(1)] * 2).tolist() == [1.0, 0.0]


# --- tools ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("request_, result", [("347*28", "9716"), ("7-9", "-2"), ("6/3", "2"), ("1/0", "error"),
                                              ("7/2", "error"), ("9**9**9", "error"), ("", "error"),
                                              ("__import__('os')", "error"), ("2*" * 600 + "2", "error")])
def test_the_calculator_answers_whatever_it_is_asked(request_, result):
    assert Calculator()(request_) == result


class Scripted:
    """Stands for `generate`: writes the texts that it was given, one after the other, up to a stop token."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.ids = tokenizer, [tokenizer.encode(text) for text in texts]
        self.place, self.calls = [0] * len(texts), 0

    def __call__(self, model, prompts, max_new_tokens, temperature, stop_tokens):
        self.calls += 1
        out = []
        for prompt in prompts:
            number = next(i for i, start in enumerate(self.starts) if torch.equal(prompt[: len(start)], start))
            new = []
            while len(new) < max_new_tokens and self.place[number] < len(self.ids[number]):
                new.append(self.ids[number][self.place[number]])
                self.place[number] += 1
                if new[-1] in stop_tokens:
                    break
            out.append(torch.cat([prompt, torch.tensor(new, dtype=prompt.dtype)]))
        return out


def written(monkeypatch, texts, most=40, tool=None):
    tokenizer = PieceTokenizer()
    prompts = [torch.tensor(tokenizer.encode(f"{number} boxes of 28 shells.")) for number in range(1, len(texts) + 1)]
    script = Scripted(tokenizer, texts)
    script.starts = prompts
    monkeypatch.setattr("llmbook.reasoning.generate", script)
    found = write_with_tool(None, prompts, tokenizer, tool or Calculator(), [tokenizer.end], most)
    answers = [tokenizer.decode(ids[len(prompt):].tolist()) for (ids, _), prompt in zip(found, prompts)]
    own = ["".join(tokenizer.pieces[token] if mine else "_" for token, mine in zip(ids.tolist()[len(p):], own[len(p):]))
           for (ids, own), p in zip(found, prompts)]
    assert all(not own[: len(p)].any() and len(own) == len(ids) for (ids, own), p in zip(found, prompts))
    return answers, own


def test_a_result_is_put_behind_the_call_and_is_not_the_models(monkeypatch):
    answers, own = written(monkeypatch, [f" think: <calc>347*28</calc> answer: 9716{END}", f" answer: 5{END}",
                                         f" think: <calc>2*3</calc>; <calc>6*4</calc> answer: 24{END}"])
    assert answers == [f" think: <calc>347*28</calc>9716 answer: 9716{END}", f" answer: 5{END}",
                       f" think: <calc>2*3</calc>6; <calc>6*4</calc>24 answer: 24{END}"]
    assert own[0] == f" think: <calc>347*28</calc>___ answer: 9716{END}"  # 9, 7 and 16
    assert own[2] == f" think: <calc>2*3</calc>_; <calc>6*4</calc>__ answer: 24{END}"


def test_calls_that_are_none_and_texts_that_never_end(monkeypatch):
    answers, _ = written(monkeypatch, [f" think: </calc> answer: 1{END}", " think: <calc>" + "7" * 80,
                                       "<calc>1+1</calc>" * 30], most=20)
    assert answers[0].startswith(" think: </calc>error answer: ")
    tokenizer = PieceTokenizer()
    assert [len(tokenizer.encode(answer)) for answer in answers[1:]] == [20, 20]


@pytest.mark.parametrize("seed", [0, 1])
def test_with_a_real_model_it_ends_and_the_mask_fits(seed):
    tokenizer = PieceTokenizer()
    model = tiny(seed, tokenizer.n_vocab, 48)
    prompts = [torch.tensor(tokenizer.encode(text)) for text in ("3 boxes of 4 shells.", "17 boxes of 40 kites.")]
    for ids, own in write_with_tool(model, prompts * 4, tokenizer, Calculator(), [tokenizer.end], 30):
        assert ids.shape == own.shape and len(ids) <= 30 + 9


def test_what_the_tool_wrote_is_not_learned():
    """In `grpo`, tokens with own False are no targets."""
    tokenizer = PieceTokenizer()
    model = tiny(0, tokenizer.n_vocab, 48)
    text = torch.tensor(tokenizer.encode("3 boxes of 4 shells."))
    answer = torch.tensor(tokenizer.encode(f" think: <calc>3*4</calc>12 answer: 12{END}"))
    own = torch.cat([torch.zeros(len(text)), torch.ones(len(answer))]).bool()
    own[len(text) + 6] = False  # the 12 behind the call

    def write(net, prompts):
        return [(torch.cat([text, answer]), own)] * len(prompts)

    config = GRPOConfig(**{**SMALL, "max_new_tokens": 20})
    rollouts = GroupRollouts(model, [text], lambda places, _: [float(i % 2) for i in range(len(places))], config, write)
    _, targets, _ = next(iter(rollouts))
    learned = [tokenizer.decode([t]) for t in targets[0].tolist() if t >= 0]
    assert learned == [" think: ", "<calc>", "3", "*", "4", "</calc>", " answer: ", "12", END]

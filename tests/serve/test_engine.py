"""The engine: everybody gets the answer they would get alone, whoever comes and goes beside them."""

import threading
import time

import pytest
import torch

from llmbook.caching import KeyValueCache
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.generation import Sampling, generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.sequence_mixers import HybridConfig, HybridLlama
from llmbook.serve.answers import AnswerText, Ended, Score
from llmbook.serve.engine import Busy, Closed, Engine, Request
from llmbook.serve.prefixes import Prefixes
from llmbook.serve.rows import Rows
from llmbook.text import train_bpe
from tests.cli.helpers import STORY

LLAMA = dict(vocab_size=300, context_length=96, d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_hidden=64)
MODELS = {
    "gpt": lambda: GPT(GPTConfig(300, 96, 32, 4, 2)),  # positions are added, and left in training mode: dropout
    "llama": lambda: Llama(LlamaConfig(**LLAMA)),
    "window": lambda: Llama(LlamaConfig(**LLAMA, window=7)),
    "gemma": lambda: Gemma(GemmaConfig(**{**LLAMA, "d_head": 8}, window=5)),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(STORY, 300)


def shaken(kind: str):
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def model():
    return shaken("llama")


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def alone(model, request: Request) -> tuple[int, ...]:
    sampling = request.sampling
    ids = generate(model, torch.tensor([request.ids]), request.max_new_tokens, sampling.temperature, sampling.top_k,
                   sampling.top_p, request.ends, request.seed)[0].tolist()
    new = ids[len(request.ids) :]
    ends = [place for place, token in enumerate(new) if token in request.ends]
    return tuple(new[: ends[0] + 1] if ends else new)


class Told:
    """Collects a request's events."""

    def __init__(self):
        self.events, self.over = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Ended):
            self.over.set()

    @property
    def ended(self) -> Ended:
        assert self.over.wait(30), "no end came"
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events[:-1])


def together(engine: Engine, requests: list[Request], space: float = 0.0) -> list[Told]:
    told = [Told() for _ in requests]
    for request, listener in zip(requests, told):
        engine.submit(request, listener)
        time.sleep(space)  # so that some join while others are on their way; equal in every case
    assert all(one.ended for one in told)
    return told


def mixed(n: int, seeds: int = 0) -> list[Request]:
    """Requests of many kinds: prompts and answers short and long, greedy and drawn."""
    lengths = [1 + 11 * number % 40 for number in range(n)]
    kinds = [Sampling(0), Sampling(0.8), Sampling(1.3, top_k=9), Sampling(0.9, top_p=0.8)]
    return [Request(ids, 3 + 7 * number % 31, kinds[number % 4], seeds + number, frozenset(range(5, 300, 25)))
            for number, ids in enumerate(prompts(*lengths))]


@pytest.mark.parametrize("kind", MODELS)
def test_many_at_once_get_what_each_gets_alone(kind, tokenizer):
    model, requests = shaken(kind), mixed(14)
    with Engine(model, tokenizer, rows=4) as engine:
        told = together(engine, requests, 0.003)
    assert [one.ended.ids for one in told] == [alone(model, request) for request in requests]
    assert {one.ended.reason for one in told} == {"stop", "length"}
    assert len({one.ended.ids for one in told}) == len(told)


def test_a_batch_is_one_pass_for_all_its_rows(model, tokenizer, monkeypatch):
    passes = []
    read = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda ids, cache: passes.append(ids.shape) or read(ids, cache))
    with Engine(model, tokenizer, rows=4) as engine:
        with engine._state:  # nobody is answered before all have asked
            told = [Told() for _ in range(4)]
            for ids, listener in zip(prompts(5, 9, 2, 7), told):
                engine.submit(Request(ids, 20, Sampling(0)), listener)
        assert all(len(one.ended.ids) == 20 for one in told)
    assert (4, 1) in passes and len(passes) < 30  # not 4 x 20


@pytest.fixture
def dirty_memory():
    """New tensors that nobody filled hold nan, as they may."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("bad", [1, 2])
def test_a_row_that_overflowed_spoils_no_later_one(model, dirty_memory, bad):
    rows = Rows(model, 3)

    def join(ids, spoilt=False):
        cache = model.new_cache(1, len(ids))
        model.hidden_states(torch.tensor([ids]), cache)
        cache.keys += torch.nan if spoilt else 0
        cache.values += torch.nan if spoilt else 0
        rows.join(cache)

    def check():
        for row, ids in zip(rows.step([1, 2, 3]), ([9, 8, 7, 1], [4, 2], [5, 6, 3]), strict=True):
            torch.testing.assert_close(row, model(torch.tensor([ids]))[0, -1], atol=2e-4, rtol=1e-3)

    with torch.no_grad():
        join([9, 8, 7])  # the longest stays, so that the others have places before them
        for row in (1, 2):
            join([1, 2, 3] if row == bad else [4], spoilt=row == bad)
        rows.leave(bad)
        join([5, 6])
        check()
        rows._keys += torch.nan
        rows._values += torch.nan
        rows.clear()
        for ids in ([9, 8, 7], [4], [5, 6]):
            join(ids)
        check()


def test_rows_keep_their_texts_as_others_join_leave_and_move(model, monkeypatch, dirty_memory):
    """Against a cache for each text, in the order that is hardest: longer ones join shorter ones, room runs out."""
    monkeypatch.setattr("llmbook.serve.rows._FEWEST", 8)
    rows, texts = Rows(model, 3), {}
    order = []

    def join(name, ids):
        cache = model.new_cache(1, len(ids))
        model.hidden_states(torch.tensor([ids]), cache)
        rows.join(cache)
        texts[name] = list(ids)
        order.append(name)

    def leave(name):
        row = order.index(name)
        rows.leave(row)
        order[row] = order[-1]
        order.pop()

    @torch.no_grad()
    def step(times):
        for _ in range(times):
            new = [(7 * len(texts[name]) + ord(name)) % 300 for name in order]
            scores = rows.step(new)
            for name, token, row in zip(order, new, scores):
                texts[name].append(token)
                torch.testing.assert_close(row, model(torch.tensor([texts[name]]))[0, -1], atol=2e-4, rtol=1e-3)

    with torch.no_grad():
        for name, length in zip("abc", (3, 9, 1)):
            join(name, prompts(length)[0])
            step(4)
        leave("a")
        step(9)
        join("d", prompts(40)[0])
        leave("b")
        step(20)
        leave("d")
        step(3)
        leave("c")
        join("e", prompts(2)[0])
        step(30)
    assert len(rows) == 1 and rows.longest == 32
    rows.clear()
    assert len(rows) == rows.longest == 0
    with torch.no_grad():
        order.clear()
        for name in "fgh":
            join(name, prompts(4)[0])
        with pytest.raises(ValueError, match="all 3 rows are taken: wait"):
            join("i", [1])


def test_what_was_read_before_is_not_read_again(model, tokenizer, monkeypatch):
    read, passes = model.hidden_states, []
    monkeypatch.setattr(model, "hidden_states", lambda ids, cache: passes.append(ids.shape[1]) or read(ids, cache))
    system, (one, two) = prompts(30)[0], prompts(4, 5)
    first, second = (Request([*system, *ids], 6, Sampling(0)) for ids in (one, two))
    with Engine(model, tokenizer, rows=2) as engine:
        told = [together(engine, [request])[0] for request in (first, second)]
        turn = Request([*first.ids, *told[0].ended.ids, 5], 6, Sampling(0))  # its next turn
        told += together(engine, [turn])
    assert [one.ended.reused for one in told] == [0, 30, 34 + 5]  # the last new token was never read
    assert [size for size in passes if size > 1] == [34, 5, 2]
    monkeypatch.undo()
    assert [one.ended.ids for one in told] == [alone(model, request) for request in (first, second, turn)]


def test_prefixes_drop_the_ones_that_were_not_used_for_longest(model):
    token = 2 * 2 * 2 * 8 * 4  # bytes of keys and values, layers, heads, features
    store = Prefixes(12 * token)
    keys = torch.zeros(2, 1, 2, 5, 8)
    for start in (0, 10):
        store.keep(range(start, start + 5), keys + start, keys)
    assert store.begin(model, [0, 1, 2, 9], 6).length == 3  # used: the other one is older now
    assert store.begin(model, [10, 11], 2).length == 1  # one is left to be read
    store.begin(model, [0, 1, 2], 6)
    store.keep(range(20, 25), keys + 20, keys)
    assert store.size == 10 * token
    assert store.begin(model, [10, 11, 12], 3).length == 0
    cache = store.begin(model, [20, 21, 22], 3)
    assert cache.length == 2 and bool((cache.keys[:, :, :, :2] == 20).all())
    store.keep([*range(20, 25), 1], torch.zeros(2, 1, 2, 6, 8), torch.zeros(2, 1, 2, 6, 8))
    assert store.size == 11 * token  # the longer one in place of its beginning
    store.keep(range(20, 25), keys, keys)
    store.keep(range(13), *torch.zeros(2, 2, 1, 2, 13, 8))  # more than all the room
    assert store.size == 11 * token
    store.clear()
    assert store.size == 0


def test_a_long_prompt_is_read_in_parts_between_the_others_steps(model, tokenizer, monkeypatch):
    monkeypatch.setattr("llmbook.serve.engine.PART", 8)
    read, passes = model.hidden_states, []
    monkeypatch.setattr(model, "hidden_states", lambda ids, cache: passes.append(tuple(ids.shape)) or read(ids, cache))
    with Engine(model, tokenizer, rows=2) as engine:
        with engine._state:
            told = [Told(), Told()]
            short, long = prompts(2, 40)
            requests = [Request(short, 20, Sampling(0)), Request(long, 3, Sampling(0))]
            for request, listener in zip(requests, told):
                engine.submit(request, listener)
        ids = [one.ended.ids for one in told]
    parts = [place for place, (_, tokens) in enumerate(passes) if tokens == 8]
    assert len(parts) == 5 and [later - one for one, later in zip(parts, parts[1:])] == [2] * 4
    monkeypatch.undo()
    assert ids == [alone(model, request) for request in requests]


def test_who_gives_up_leaves_at_once_and_the_others_go_on(model, tokenizer):
    request = Request([1], 90, Sampling(1.0), 3)
    with Engine(model, tokenizer, rows=1) as engine:
        told, job = Told(), None

        def listener(event):
            told(event)
            if len(told.events) == 3:
                job.cancel()

        with engine._state:
            job = engine.submit(request, listener)
            waits, quits = Told(), Told()
            engine.submit(Request([2], 5, Sampling(0)), waits)
            engine.submit(request, quits).cancel()
        assert told.ended.reason == "cancelled" and 3 <= len(told.ended.ids) < 90
        assert quits.ended.reason == "cancelled" and not quits.ended.ids
        assert waits.ended.ids == alone(model, Request([2], 5, Sampling(0)))
        assert engine.load == (0, 0)


def test_a_listener_that_fails_harms_nobody(model, tokenizer):
    told, heard = Told(), []

    def broken(event):
        heard.append(event)
        if len(heard) > 5:  # by then the other one is answered beside it
            raise OSError("gone")

    request = Request([2], 30, Sampling(0))
    with Engine(model, tokenizer, rows=2) as engine:
        with engine._state:
            engine.submit(Request([3], 90, Sampling(1.0), 4), broken)
            engine.submit(request, told)
        assert told.ended.ids == alone(model, request) and len(heard) < 10


def test_the_events_of_a_request_are_an_iterator_too(model, tokenizer):
    with Engine(model, tokenizer, rows=1) as engine:
        events = list(engine.events(Request([2], 9, Sampling(0))))
        assert events[-1].ids == alone(model, Request([2], 9, Sampling(0)))
        assert "".join(event.text for event in events[:-1]) == tokenizer.decode(events[-1].ids)
        pieces = engine.events(Request([2], 94, Sampling(0)))
        next(pieces)
        pieces.close()
        assert together(engine, [Request([5], 2, Sampling(0))])[0].ended.reason == "length"


def test_a_full_queue_refuses_and_says_when_to_come_again(model, tokenizer):
    with Engine(model, tokenizer, rows=1, waiting=2) as engine:
        with engine._state:
            told = [Told() for _ in range(3)]
            for listener in told:
                engine.submit(Request([1], 5, Sampling(0)), listener)
            with pytest.raises(Busy, match="3 requests wait already: try again in .* longer queue") as refused:
                engine.submit(Request([1], 5, Sampling(0)), Told())
        assert 1 <= refused.value.retry_after <= 60
        assert {one.ended.reason for one in told} == {"length"}


def test_time_is_limited_the_queue_included(model, tokenizer):
    with Engine(model, tokenizer, rows=1) as engine:
        with engine._state:
            late, fine = Told(), Told()
            engine.submit(Request([1], 90, Sampling(0), seconds=-1.0), late)
            engine.submit(Request([1], 4, Sampling(0), seconds=100.0), fine)
        assert (late.ended.reason, late.ended.ids) == ("length", ())
        assert len(fine.ended.ids) == 4


def test_the_end_tells_everybody_and_takes_no_more(model, tokenizer):
    engine = Engine(model, tokenizer, rows=1)
    with engine:
        told, first = Told(), threading.Event()

        def listener(event):
            told(event)
            first.set()

        with engine._state:
            engine.submit(Request([1], 94, Sampling(0)), listener)
            engine.submit(Request([1], 94, Sampling(0)), waits := Told())
        assert first.wait(30)
        engine.close()
        assert told.ended.reason in ("closed", "length") and waits.ended.reason == "closed"
        with pytest.raises(Closed, match="start it again"):
            engine.submit(Request([1], 5), Told())
    assert not engine._thread.is_alive()


def test_an_error_ends_the_answers_it_concerns_and_the_next_ones_come(model, tokenizer, monkeypatch):
    with Engine(model, tokenizer, rows=2) as engine:
        real = engine.rows.step
        monkeypatch.setattr(engine.rows, "step", lambda new: (_ for _ in ()).throw(MemoryError("too little")))
        told = together(engine, [Request([1], 5, Sampling(0)), Request([2], 5, Sampling(0))])
        assert {one.ended.reason for one in told} == {"error"}
        assert {str(one.ended.error) for one in told} == {"too little"}
        monkeypatch.setattr(engine.rows, "step", real)
        fine = Request([1], 5, Sampling(0))
        assert together(engine, [fine])[0].ended.ids == alone(model, fine)


def test_scores_that_are_no_numbers_are_said_to_be(tokenizer):
    model = shaken("llama")
    with torch.no_grad():
        model.final_norm.weight[0] = torch.nan
    with Engine(model, tokenizer) as engine:
        ended = together(engine, [Request([1], 5, Sampling(0))])[0].ended
    assert ended.reason == "error" and "nan" in str(ended.error)


def test_an_answer_ends_where_the_context_does(model, tokenizer):
    with Engine(model, tokenizer, context=20) as engine:
        ended = together(engine, [Request(prompts(12)[0], 90, Sampling(0))])[0].ended
    assert (ended.reason, len(ended.ids), ended.prompt_tokens) == ("length", 8, 12)


@pytest.mark.parametrize("change, said", [
    (dict(ids=[]), "no tokens: give a few words"), (dict(ids=[1] * 96), "96 tokens, and the context is 96"),
    (dict(ids=[1, 300]), "token 300 .* outside the vocabulary of 300"), (dict(ids=[-1]), "token -1"),
    (dict(max_new_tokens=0), "max_new_tokens is 0"), (dict(stops=("a", "")), "a stop string is empty: leave it out")])
def test_requests_that_cannot_be_answered_are_refused_at_once(model, tokenizer, change, said):
    with Engine(model, tokenizer) as engine, pytest.raises(ValueError, match=said):
        engine.submit(Request(**{"ids": [1], **change}), Told())


@pytest.mark.parametrize("change, said", [(dict(rows=0), "rows is 0"), (dict(waiting=-1), "waiting is -1"),
                                          (dict(prefix_bytes=-1), "prefix_bytes is -1"),
                                          (dict(context=97), "context is 97: it must be 2 to 96"),
                                          (dict(context=1), "context is 1")])
def test_settings_out_of_range_are_refused(model, tokenizer, change, said):
    with pytest.raises(ValueError, match=said):
        Engine(model, tokenizer, **change)


def test_a_model_with_another_cache_is_refused(tokenizer):
    class Other(KeyValueCache):
        pass

    model = shaken("llama")
    model.new_cache = lambda batch, room=None, padding=None: Other(2, 1, 2, 1, 8)
    with pytest.raises(ValueError, match="the cache of this model is a Other.*serve the model itself"):
        Engine(model, tokenizer)


# --- the text side -------------------------------------------------------------------------------------------------

def pushed(tokenizer, text: str, stops=(), scored=False) -> tuple[list, AnswerText]:
    answer = AnswerText(tokenizer, stops=stops)
    pieces = []
    for token in tokenizer.encode(text):
        pieces.append(answer.push(token, Score(token, -1.0) if scored else None))
        if answer.stopped:
            break
    return [*pieces, answer.finish()], answer


def joined(pieces) -> str:
    return "".join(piece.text for piece in pieces if piece)


@pytest.mark.parametrize("text, stops, told", [
    ("the sea, the map", ("map",), "the sea, the "), ("the sea, the map", ("x",), "the sea, the map"),
    ("the sea, the map", ("map", "sea"), "the "), ("aab aaab", ("aaab",), "aab "), ("END", ("END",), ""),
    ("no EN", ("END",), "no EN"), ("caf\u00e9 noir", ("\u00e9 n",), "caf"), ("caf\u00e9", (), "caf\u00e9")])
def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(tokenizer, text, stops, told):
    pieces, answer = pushed(tokenizer, text, stops)
    assert joined(pieces) == told and answer.stopped == (told != text)
    for length in range(len(pieces)):  # nothing of it was ever told
        assert told.startswith(joined(pieces[:length]))


def test_scores_come_with_the_text_they_belong_to(tokenizer):
    pieces, _ = pushed(tokenizer, "caf\u00e9 map", scored=True)
    ids = tokenizer.encode("caf\u00e9 map")
    assert [score.token for piece in pieces if piece for score in piece.scores] == ids
    assert all(piece.text for piece in pieces if piece)  # a part of a character waits for the rest
    pieces, answer = pushed(tokenizer, "the map of", ("map",), scored=True)
    told = [score.token for piece in pieces if piece for score in piece.scores]
    assert answer.stopped and tokenizer.decode(told).rstrip() in ("the", "the m", "the ma")


def test_scores_are_those_of_the_model(model, tokenizer):
    request = Request([3, 4], 4, Sampling(1.5, top_k=5), seed=1, top_scores=3)
    with Engine(model, tokenizer) as engine:
        told = together(engine, [request])[0]
    ids = list(request.ids)
    scores = [score for event in told.events[:-1] for score in event.scores]
    assert len(scores) == 4
    for score in scores:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(dim=-1)
        assert score.logprob == pytest.approx(float(logprobs[score.token]), abs=1e-4)
        assert [token for token, _ in score.top] == logprobs.topk(3).indices.tolist()
        ids.append(score.token)


def test_a_model_whose_layers_keep_states_is_refused_by_its_own_reason():
    model = HybridLlama(HybridConfig(vocab_size=40, context_length=16, d_model=16, n_heads=2, n_kv_heads=2, n_layers=2,
                                     d_hidden=24, mixers=("linear",)))
    with pytest.raises(ValueError, match="is a LayerCaches.*: only models that keep keys and values in one cache"):
        Rows(model, 2)

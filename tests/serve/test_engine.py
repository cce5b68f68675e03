"""The engine: everybody gets the answer they would get alone, whoever comes and goes beside them."""

import threading

import pytest
import torch

from llmbook.generation import Sampling
from llmbook.serve.answers import AnswerText, Score
from llmbook.serve.engine import Busy, Closed, Engine, Request
from llmbook.text import train_bpe
from tests.cli.helpers import STORY
from tests.serve.kinds import MODELS, Told, alone, prompts, shaken, together


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(STORY, 300)


@pytest.fixture(scope="module")
def model():
    return shaken("llama")


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
    assert len({one.ended.ids for one in told}) > 12  # two of one token may be alike


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


def test_the_thread_that_starts_the_engine_leaves_the_cores_to_it(model, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr("llmbook.serve.engine.dismiss_threads", lambda: asked.append(threading.current_thread()))
    with Engine(model, tokenizer):
        assert asked == [threading.current_thread()]


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

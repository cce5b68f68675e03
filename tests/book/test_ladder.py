"""The loss ladder: its common setting, and its stored numbers."""

import json
import math

import nbformat
import pytest
import torch

from llmbook.book import ladder
from llmbook.text import END_OF_TEXT, train_bpe
from tests.support.repository import ROOT
from tools import ladder as tool


@pytest.fixture(scope="module")
def data():
    return ladder.ladder_data()


def test_a_document_is_a_story_between_two_ends(data):
    end = data.tokenizer.eot_token
    assert data.tokenizer.n_vocab == 257 and end == 256
    for document in data.train[:20] + data.held_out[:20]:
        assert document[0] == document[-1] == end and end not in document[1:-1]
        assert bytes(document[1:-1]).decode() == data.tokenizer.decode(document[1:-1])  # an id is its byte
        assert data.tokenizer.decode(document[:1]) == END_OF_TEXT


def test_bytes_are_those_of_the_texts(data):
    assert len(data.train) == 1_000 and len(data.validation) == 100 and len(data.held_out) == 200
    assert data.held_out_bytes == sum(len(document) - 2 for document in data.held_out)
    assert data.validation_bytes == sum(len(document) - 2 for document in data.validation)


def test_no_story_is_in_two_parts(data):
    parts = [{tuple(document) for document in part} for part in (data.train, data.validation, data.held_out)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_bits_per_byte():
    assert ladder.bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)
    with pytest.raises(ValueError, match="total_bytes is 0: give the bytes"):
        ladder.bits_per_byte(1.0, 0)


def test_a_model_that_knows_nothing_needs_the_same_for_each_token_and_the_end(data):
    nats = ladder.total_nats(lambda ids: torch.zeros(*ids.shape, 257), data.held_out[:3])
    tokens = sum(len(document) - 1 for document in data.held_out[:3])
    assert nats == pytest.approx(tokens * math.log(257), rel=1e-5)


def test_a_model_that_knows_the_text_needs_nothing(data):
    document = data.held_out[0]

    def knows(ids):
        assert ids.tolist() == [document[:-1]]
        return 100.0 * torch.nn.functional.one_hot(torch.tensor([document[1:]]), 257)

    assert ladder.total_nats(knows, [document]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("size", (4, 10, 64, 5_000))
def test_windows_count_each_token_once_with_half_a_window_before_it(data, size):
    document, seen = data.held_out[1], []

    def model(ids):
        assert ids.shape[1] <= size
        seen.extend(ids.flatten().tolist())
        return torch.zeros(*ids.shape, 257)

    nats = ladder.total_nats(model, [document], context_length=size)
    assert nats == pytest.approx((len(document) - 1) * math.log(257), rel=1e-4)
    assert len(seen) < 2.2 * len(document)


def test_windows_give_what_a_model_that_looks_back_a_little_gives_on_the_whole(data):
    table = torch.randn(257, 257, generator=torch.Generator().manual_seed(1))

    def model(ids):  # the last two ids decide
        before = torch.nn.functional.pad(ids, (1, 0), value=256)[:, :-1]
        return table[ids] + 2 * table[before]

    whole = ladder.total_nats(model, data.held_out[:2])
    assert ladder.total_nats(model, data.held_out[:2], context_length=8) == pytest.approx(whole, rel=1e-5)


def test_windows_hold_every_target_once(data):
    inputs, targets = ladder.cut_windows(data.held_out[:5], 64)
    assert inputs.shape == targets.shape and inputs.shape[1] == 64
    assert targets[targets >= 0].tolist() == [token for document in data.held_out[:5] for token in document[1:]]
    assert (targets[:, :-1] == inputs[:, 1:])[targets[:, :-1] >= 0].all()


def test_a_rung_learns_and_its_seed_decides(data):
    def trained(seed):
        model = torch.nn.Embedding(257, 257)  # a table of two tokens in a row
        torch.nn.init.zeros_(model.weight)
        ladder.train_rung(model, data.train[:50], seed=seed, learning_rate=0.2, steps=30)
        return ladder.total_nats(model, data.validation[:5])

    first = trained(1)
    assert first < 0.9 * ladder.total_nats(lambda ids: torch.zeros(*ids.shape, 257), data.validation[:5])
    assert first == trained(1) != trained(2)


def test_another_tokenizer_sees_the_same_stories(data):
    tokenizer = train_bpe("the kettle sang because it boiled, and the kettle boiled because it sang", 265)
    documents, n_bytes = ladder.held_out_documents(tokenizer)
    assert n_bytes == data.held_out_bytes
    assert tokenizer.decode(documents[5][1:-1]) == data.tokenizer.decode(data.held_out[5][1:-1])
    assert documents[5][0] == documents[5][-1] == tokenizer.eot_token


def notebook(path, *cells):
    book = nbformat.v4.new_notebook()
    for source, tags in cells:
        book.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(book, path)
    return path


def test_the_tool_runs_the_tagged_cells_with_each_seed_and_keeps_other_rungs(tmp_path, capsys):
    table = tmp_path / "table.json"
    table.write_text('{"rungs": {"blocks": [1.8], "network": [9.0]}}', encoding="utf-8")
    path = notebook(tmp_path / "one.ipynb", ("SEED, rungs = 7, {}", []), ("value = 2 + SEED / 10", ["ladder"]),
                    ('rungs["network"] = value', ["ladder", "headline"]), ("1 / 0", []))
    assert tool.main([str(path), "--table", str(table)]) == 0
    assert json.loads(table.read_text(encoding="utf-8"))["rungs"] == {"network": [2.0, 2.1, 2.2], "blocks": [1.8]}
    assert "network      2.100  2.000  2.100  2.200" in capsys.readouterr().out


def test_the_tool_says_what_is_missing(tmp_path, capsys):
    table = tmp_path / "table.json"
    tool.main([str(notebook(tmp_path / "none.ipynb", ("1", []))), "--table", str(table)])
    assert "none.ipynb: no cell is tagged `ladder`" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'empty.ipynb: no cell tagged `ladder` sets a rung: write rungs\["network"\]'):
        tool.main([str(notebook(tmp_path / "empty.ipynb", ("1", ["ladder"]))), "--table", str(table)])
    with pytest.raises(ValueError, match="odd.ipynb: no rung '9-gram' on the ladder: choose one of 1-gram"):
        tool.main([str(notebook(tmp_path / "odd.ipynb", ('rungs["9-gram"] = 1', ["ladder"]))), "--table", str(table)])


def test_the_stored_rungs_go_down_and_every_seed_agrees():
    table = {name: values for name, values in ladder.ladder_table().items() if name != ladder.RIVAL}
    assert list(table)[:4] == ["1-gram", "2-gram", "3-gram", "network"]
    for above, below in zip(table, list(table)[1:]):
        assert max(table[below]) < min(table[above]) - 0.05, (above, below)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ("01_understanding_llms", "03_attention", "04_gpt"))
def test_a_chapters_cells_give_the_stored_rungs(chapter):
    path = ROOT / "notebooks" / f"{chapter}.ipynb"
    if not tool.ladder_cells(path):
        pytest.skip(f"{chapter} has no cell tagged `ladder`")
    for name, value in tool.run_rungs(path, seed=0).items():
        learned = name[1:] != "-gram"  # three seeds differ by 0.03, two rungs by 0.14
        assert value == pytest.approx(ladder.ladder_table()[name][0], abs=0.08 if learned else 1e-3), name

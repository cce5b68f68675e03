"""Rows that begin where a document begins."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from llmbook.documents import DocumentBatches, DocumentDataset, make_document_loader, pad_rows
from llmbook.gpt import GPT, GPTConfig
from llmbook.scale.checkpoints import Checkpoints
from llmbook.training import TrainingConfig, evaluate, next_token_loss, train

END = 9
DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8, 1, 2, 3], [2, 2]]


def as_lists(rows) -> list[tuple[list[int], list[int]]]:
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in rows]


def many(count: int = 60) -> list[list[int]]:
    """Documents of 1 to 12 ids from 0 to 7."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 8, size).tolist() for size in draw.integers(1, 13, count)]


def test_a_row_is_a_document_from_its_beginning_to_its_end():
    dataset = DocumentDataset(DOCUMENTS, 8, END)
    assert as_lists(dataset) == [([END, *ids], [*ids, END]) for ids in DOCUMENTS]
    assert dataset.lengths.tolist() == [4, 2, 8, 3]
    assert all(part.dtype == torch.int64 for row in dataset for part in row)


@pytest.mark.parametrize("context", [1, 2, 3, 5, 7])
def test_a_longer_document_goes_on_where_its_row_ended(context):
    dataset = DocumentDataset(DOCUMENTS, context, END)
    assert dataset.lengths.max() <= context
    whole = [END, *(token for ids in DOCUMENTS for token in [*ids, END])]
    assert [token for _, targets in as_lists(dataset) for token in targets] == whole[1:]  # each is a target once
    assert [token for inputs, _ in as_lists(dataset) for token in inputs] == whole[:-1]
    begins = [inputs[0] == END for inputs, _ in as_lists(dataset)]
    assert sum(begins) == len(DOCUMENTS)


def test_shards_of_token_files_give_the_same_rows():
    shards = [np.array([1, 2, 3, END, 4, END], np.uint16), np.array([5, 6, 7, 8, 1, 2, 3, END, END, 2, 2], np.uint16)]
    dataset = DocumentDataset.from_shards(shards, 5, END)
    same = as_lists(DocumentDataset(DOCUMENTS, 5, END))
    assert as_lists(dataset)[:-1] == same[:-1]  # an empty document, between two ends, is none
    assert as_lists(dataset)[-1] == ([END, 2], [2, 2])  # the shard ends within this one


def test_empty_documents_are_left_out():
    assert as_lists(DocumentDataset([[], [1], []], 4, END)) == [([END, 1], [1, END])]


def test_a_share_is_held_out_at_the_border_of_a_document():
    dataset = DocumentDataset(many(), 4, END)
    rest, held = dataset.split(0.3)
    assert as_lists(rest) + as_lists(held) == as_lists(dataset)
    assert held[0][0][0] == END  # it begins a document
    assert len(held) >= 0.3 * len(dataset)
    one = DocumentDataset([list(range(8)) * 3], 4, END)
    with pytest.raises(ValueError, match="a share of 0.5 of 7 rows leaves one side empty: give more documents"):
        one.split(0.5)


@pytest.mark.parametrize("documents, context, message", [
    ([[1, END, 2]], 4, "document 0 holds 9, the id that ends documents: cut it there"),
    ([[1], [0.5]], 4, r"document 1 is \[0.5\]: give its ids, a 1-D row of whole numbers"),
    ([[[1, 2]]], 4, r"document 0 is \[\[1, 2\]\]: give its ids"),
    (["text"], 4, "document 0 is 'text': give its ids"),
    ([[1]], 0, r"context_length \(0\) must be at least 1"),
    ([], 4, "there is no document with a token in it: give at least one"),
    ([[], []], 4, "there is no document with a token in it"),
])
def test_what_cannot_be_rows_is_said(documents, context, message):
    with pytest.raises(ValueError, match=message):
        DocumentDataset(documents, context, END)


def test_padding_is_no_target():
    inputs, targets = pad_rows(list(DocumentDataset([[1, 2, 3], [4]], 8, END)), END)
    assert inputs.tolist() == [[END, 1, 2, 3], [END, 4, END, END]]
    assert targets.tolist() == [[1, 2, 3, END], [4, END, -100, -100]]


def test_padding_changes_no_loss():
    torch.manual_seed(0)
    model = GPT(GPTConfig(10, 16, 8, 2, 1, dropout=0.0))
    together = make_document_loader(many(), 16, 20, END, shuffle=False)
    alone = make_document_loader(many(), 16, 1, END, shuffle=False)
    expected = evaluate(model, alone, next_token_loss)
    assert evaluate(model, together, next_token_loss) == pytest.approx(expected, rel=1e-5)


def test_a_pass_has_every_row_once_and_rows_of_a_batch_are_alike_in_length():
    lengths = DocumentDataset(many(400), 16, END).lengths
    batches = DocumentBatches(lengths, 8, generator=torch.Generator().manual_seed(0))
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 50
    assert sorted(sum(first, [])) == list(range(400))
    assert first != second and sorted(sum(second, [])) == list(range(400))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in first)
    assert padded < 1.1 * int(lengths.sum())  # in any order a third would be padding
    means = [float(lengths[batch].float().mean()) for batch in first]
    assert means[:10] != sorted(means[:10])  # short and long batches come mixed, not in the order of a pool


def test_rows_that_fill_no_batch_are_left_out_at_random_or_kept():
    lengths = torch.arange(1, 24)
    batches = DocumentBatches(lengths, 5, generator=torch.Generator().manual_seed(0))
    missing = [set(range(23)) - set(sum(batches, [])) for _ in range(4)]
    assert len(batches) == 4 and all(len(rows) == 3 for rows in missing) and len(set(map(frozenset, missing))) > 1
    kept = DocumentBatches(lengths, 5, drop_last=False)
    assert len(kept) == 5 and sorted(sum(kept, [])) == list(range(23))
    assert list(DocumentBatches(lengths, 5, shuffle=False, drop_last=False)) == [
        list(range(start, min(start + 5, 23))) for start in range(0, 23, 5)]


def test_a_seed_repeats_the_order_and_another_changes_it():
    def batches(seed):
        return as_lists(make_document_loader(many(), 16, 8, END, seed))

    assert batches(1) == batches(1) != batches(2)


def test_a_loader_that_gives_no_batch_is_refused():
    with pytest.raises(ValueError, match="4 documents do not fill a batch of batch_size 5: lower batch_size"):
        make_document_loader(DOCUMENTS, 8, 5, END)
    assert len(list(make_document_loader(DOCUMENTS, 8, 5, END, drop_last=False))) == 1
    with pytest.raises(ValueError, match=r"batch_size \(0\) must be at least 1"):
        make_document_loader(DOCUMENTS, 8, 0, END)


def test_worker_processes_can_be_given_what_fills_up_rows():
    loader = make_document_loader(DOCUMENTS, 8, 4, END, shuffle=False)
    other = DataLoader(loader.dataset, 4, collate_fn=loader.collate_fn, num_workers=1)
    assert {len(row) for batch in other for row in batch[0]} == {8}


@pytest.mark.parametrize("stopped", [3, 7, 9])  # within the first pass, at its end, in the second
def test_a_run_that_was_stopped_ends_as_the_unbroken_one(tmp_path, stopped):
    def run(folder, steps):
        torch.manual_seed(0)
        model = GPT(GPTConfig(10, 16, 8, 2, 1, dropout=0.1))
        loader = make_document_loader(many(), 16, 8, END, seed=3)
        assert len(loader) == 7
        config = TrainingConfig(12, device="cpu", precision="float32", progress=False)

        def stop(record):
            if record["step"] == steps:
                raise KeyboardInterrupt

        keeper = Checkpoints(tmp_path / folder, every_steps=1)
        return model, train(model, loader, next_token_loss, config, checkpoints=keeper, on_step=stop)

    whole, history = run("whole", 12)
    _, broken = run("broken", stopped)
    assert broken.interrupted
    model, mended = run("broken", None)
    assert [step["loss"] for step in mended.steps] == [step["loss"] for step in history.steps]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values()))

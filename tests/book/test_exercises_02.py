"""The checks of chapter 2's exercises: right answers pass, and each common mistake is told apart."""

import codecs

import pytest
import torch

from llmbook.book.exercises import Wrong
from llmbook.book.exercises import chapter_02 as check
from llmbook.text import GPT2_PATTERN, NextTokenDataset, train_bpe

# --- 2.1 predict the shape -----------------------------------------------------------------------------------------


def windows_by_formula(n_tokens, context_length, stride, batch_size):
    return max(0, (n_tokens - context_length - 1) // stride + 1), (batch_size, context_length)


def windows_by_counting(n_tokens, context_length, stride, batch_size):
    return len(range(0, n_tokens - context_length, stride)), torch.Size([batch_size, context_length])


def windows_without_the_last_target(n, c, s, b):
    return max(0, (n - c) // s + 1), (b, c)


def windows_one_too_few(n, c, s, b):
    return max(0, (n - c - 1) // s), (b, c)


def windows_without_stride(n, c, s, b):
    return n // c, (b, c)


def windows_below_zero(n, c, s, b):
    return ((n - c - 1) // s + 1 if n > c else -1), (b, c)


def shape_with_one_more(n, c, s, b):
    return windows_by_formula(n, c, s, b)[0], (b, c + 1)


def shape_turned(n, c, s, b):
    return windows_by_formula(n, c, s, b)[0], (c, b)


@pytest.mark.parametrize("answer, message", [
    (windows_without_the_last_target, "left out the one more token"),
    (windows_one_too_few, "the first window comes on top"),
    (windows_without_stride, "Windows start every `stride` tokens"),
    (windows_below_zero, "gives no window"),
    (shape_with_one_more, "inputs and targets are cut from it"),
    (shape_turned, "The batch comes first"),
    (lambda *sizes: 3, "Return two things"),
    (lambda n, c, s, b: (*windows_by_formula(n, c, s, b), c), "Return two things"),
    (lambda n, c, s, b: (windows_by_formula(n, c, s, b)[0] + 7, (b, c)), r"windows is 15, .* batch_size=5\.$"),
    (lambda n, c, s, b: (windows_by_formula(n, c, s, b)[0], (b, s)), r"inputs is \(5, 3\), .* batch_size=5\.$"),
    (lambda *sizes: (windows_by_formula(*sizes)[0], 8), "The shape of the inputs is 8"),
])
def test_predict_windows_wrong(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_1.verify(answer)


@pytest.mark.parametrize("answer", [windows_by_formula, windows_by_counting])
def test_predict_windows_right(answer):
    check.exercise_1.verify(answer)


def test_predict_windows_agrees_with_the_dataset():
    for n, c, s in [(50, 7, 3), (8, 7, 1), (100, 10, 10)]:
        assert windows_by_formula(n, c, s, 2)[0] == len(NextTokenDataset(list(range(n)), c, s))


# --- 2.2 an encoder that disagrees ---------------------------------------------------------------------------------


def in_order(chunk, ids):
    parts = [bytes([byte]) for byte in chunk]
    while len(parts) > 1:
        ranks = [ids.get(left + right, len(ids)) for left, right in zip(parts, parts[1:])]
        if (first := min(ranks)) == len(ids):
            break
        place = ranks.index(first)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [ids[part] for part in parts]


def by_merging(chunk, ids):
    row, tokens = [ids[bytes([byte])] for byte in chunk], sorted(ids, key=ids.get)
    for token in tokens[256:]:
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            place = 0
            while place + 1 < len(row):
                if (row[place], row[place + 1]) == (left, right):
                    row[place : place + 2] = [ids[token]]
                place += 1
    return row


def longest_first(chunk, ids):
    result = []
    while chunk:
        longest = max((token for token in ids if chunk.startswith(token)), key=len)
        result.append(ids[longest])
        chunk = chunk[len(longest):]
    return result


def any_pair_first(chunk, ids):
    parts = [bytes([byte]) for byte in chunk]
    while places := [n for n in range(len(parts) - 1) if parts[n] + parts[n + 1] in ids]:
        parts[places[0] : places[0] + 2] = [parts[places[0]] + parts[places[0] + 1]]
    return [ids[part] for part in parts]


def rightmost_first(chunk, ids):
    parts = [bytes([byte]) for byte in chunk]
    while places := [(ids[parts[n] + parts[n + 1]], -n) for n in range(len(parts) - 1)
                     if parts[n] + parts[n + 1] in ids]:
        place = -min(places)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return [ids[part] for part in parts]


@pytest.mark.parametrize("answer, message", [
    (longest_first, "You join what is longest"),
    (any_pair_first, "or what comes first. .* the lowest id"),
    (rightmost_first, "join the leftmost first"),
    (lambda chunk, ids: [bytes([byte]) for byte in chunk], "Return ids, the numbers"),
    (lambda chunk, ids: [*in_order(chunk, ids), len(ids)], "Return ids, the numbers"),
    (lambda chunk, ids: str(in_order(chunk, ids)), "Return a list of ids, not str"),
    (lambda chunk, ids: in_order(chunk, ids)[:-1], "so that nothing is lost"),
    (lambda chunk, ids: list(chunk), r"becomes \['[ab]', .*\]\.$"),
])
def test_mended_encode_wrong(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_2.verify(answer)


@pytest.mark.parametrize("answer", [in_order, lambda chunk, ids: tuple(in_order(chunk, ids)), by_merging])
def test_mended_encode_right(answer):
    check.exercise_2.verify(answer)


# --- 2.3 join documents safely -------------------------------------------------------------------------------------


def join(encoding, documents):
    return [id for text in documents for id in (*encoding.encode_ordinary(text), encoding.eot_token)]


def join_by_batch(encoding, documents):
    ids = []
    for document in encoding.encode_ordinary_batch(documents):
        ids.extend(document)
        ids.append(encoding.eot_token)
    return ids


def join_text(encoding, documents):
    return encoding.encode("".join(text + "<|endoftext|>" for text in documents), allowed_special="all")


@pytest.mark.parametrize("answer, message", [
    (join_text, "inside a document made into the special token"),
    (lambda e, d: [i for t in d for i in (*e.encode(t), e.eot_token)], "`encode` refuses them"),
    (lambda e, d: join(e, d)[:-1], "after the last document too"),
    (lambda e, d: e.encode_ordinary("".join(text + "<|endoftext|>" for text in d)), "as an id, not its characters"),
    (lambda e, d: [e.eot_token, *join(e, d)[:-1]] if d else [], "before the first document"),
    (lambda e, d: [part for t in d for part in (e.encode_ordinary(t), e.eot_token)], "use \\+ or extend"),
    (lambda e, d: tuple(join(e, d)), "Return a list"),
    (lambda e, d: join(e, d[::-1]), r"Part 0 of the list decodes to 'Three\.'; document 0 is 'One\.'"),
    (lambda e, d: join(e, [" " + text for text in d]), r"Part 0 .* ' The ferry waits\.'; .* add nothing"),
    (lambda e, d: join(e, [text and text + " " for text in d]), r"Part 0 .* 'The ferry waits\. '"),
    (lambda e, d: join(e, [text.removeprefix("After ") for text in d]), "Part 1 .* 'After an empty one"),
    (lambda e, d: [*join(e, d), 0], "the last id ends the last document"),
    (lambda e, d: [id + 1000 * (id != e.eot_token) for id in join(e, d)], "Part 0 of the list decodes to ''"),
])
def test_join_documents_wrong(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_3.verify(answer)


@pytest.mark.parametrize("answer", [join, join_by_batch])
def test_join_documents_right(answer):
    check.exercise_3.verify(answer)


# --- 2.4 text as it arrives ----------------------------------------------------------------------------------------


def arrive_by_codecs(encoding, token_ids):
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(encoding.decode_single_token_bytes(id)) for id in token_ids]


def arrive_by_hand(encoding, token_ids):
    parts, waiting = [], b""
    for id in token_ids:
        waiting += encoding.decode_single_token_bytes(id)
        for size in range(len(waiting), -1, -1):
            try:
                complete = waiting[:size].decode("utf-8")
            except UnicodeDecodeError:
                continue
            break
        parts.append(complete)
        waiting = waiting[size:]
    return parts


def arrive_all_at_the_end(encoding, token_ids):
    return [""] * (len(token_ids) - 1) + [b"".join(map(encoding.decode_single_token_bytes, token_ids)).decode(
        errors="ignore")]


def arrive_with_strict_end(encoding, token_ids):
    b"".join(map(encoding.decode_single_token_bytes, token_ids)).decode("utf-8")
    return arrive_by_codecs(encoding, token_ids)


@pytest.mark.parametrize("answer, message", [
    (lambda e, ids: [e.decode([id]) for id in ids], "decoded on its own"),
    (lambda e, ids: [e.decode_single_token_bytes(id).decode(errors="ignore") for id in ids], "Characters are lost"),
    (lambda e, ids: [part for part in arrive_by_codecs(e, ids) if part], "completes no character gives ''"),
    (arrive_all_at_the_end, "the id that completes it"),
    (arrive_with_strict_end, "half a character stopped your code"),
    (lambda e, ids: [part.encode() for part in arrive_by_codecs(e, ids)], "Return a list of strings"),
    (lambda e, ids: [e.decode_single_token_bytes(id).decode("latin-1") for id in ids], "several bytes may spell one"),
    (lambda e, ids: [part.upper() for part in arrive_by_codecs(e, ids)], r"instead of 'The ferry waits\.'\.$"),
    (lambda e, ids: [part.replace("b", "") for part in arrive_by_codecs(e, ids)], "instead of 'a.b'. Characters are"),
    (lambda e, ids: "".join(arrive_by_codecs(e, ids)), "Return a list of strings"),
    (lambda e, ids: (parts := arrive_by_codecs(e, ids))[:-1] + [parts[-1] or "\ufffd"], "leave that character out"),
])
def test_text_as_it_arrives_wrong(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_4.verify(answer)


@pytest.mark.parametrize("answer", [
    arrive_by_codecs, arrive_by_hand, lambda e, ids: iter(arrive_by_codecs(e, ids))])
def test_text_as_it_arrives_right(answer):
    check.exercise_4.verify(answer)


# --- 2.5 one digit, one token --------------------------------------------------------------------------------------


def changed(part: str, pattern: str = GPT2_PATTERN) -> str:
    assert r" ?\p{N}++" in pattern
    return pattern.replace(r" ?\p{N}++", part)


@pytest.mark.parametrize("pattern, message", [
    (GPT2_PATTERN, "more than one digit; a quantifier"),
    (changed(r" ?\p{N}"), "the space before it came along"),
    (changed(r"\p{N}+"), "a quantifier"),
    (changed(r"\p{N}{1,2}"), "'19' is more than one digit; a quantifier"),
    (changed(r"(?|\p{N})"), "the tokenizer's own does not"),
    (r"\p{N}|" + GPT2_PATTERN, "' 1974' is more than one digit"),
    (GPT2_PATTERN.replace(r" ?\p{N}++|", ""), "characters would be lost"),
    (changed(r"\d"), "characters would be lost"),
    (r"\p{N}| ?\p{L}+|\s| ?[^\s\p{L}\p{N}]+", "has no digits and is cut into"),
    (r".", "characters would be lost"),
    (changed(r"(\p{N}"), "not a regular expression"),
    (7, "as a string"),
])
def test_digit_pattern_wrong(pattern, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_5.verify(lambda: pattern)


@pytest.mark.parametrize("pattern", [changed(r"\p{N}"), changed(r"(?:\d|\p{N})")])
def test_digit_pattern_right(pattern):
    check.exercise_5.verify(lambda: pattern)


# --- 2.6 one vocabulary for two kinds of text ----------------------------------------------------------------------


def weighed(stories, programs):
    return train_bpe([*stories, *programs * 6], 1025)


def plain(stories, programs):
    return train_bpe([*stories, *programs], 1025)


@pytest.mark.parametrize("answer, message", [
    (plain, r"stories \d\.\d\d, programs \d\.\d\d .* The programs are below it"),
    (lambda stories, programs: train_bpe([*stories, *programs * 2], 1025), "The programs are below it"),
    (lambda stories, programs: train_bpe(programs, 1025), "The stories are below it"),
    (lambda stories, programs: train_bpe(programs, 300), "Both are below it"),
    (lambda stories, programs: train_bpe(stories[:20], 1026), "has 1,026 ids: at most 1,025"),
    (lambda stories, programs: train_bpe(stories[:5], 300, pattern=r"\p{L}+"), "must match every character"),
    (lambda stories, programs: [*stories, *programs], "Return the tokenizer that train_bpe gives, not list"),
])
def test_train_for_both_wrong(answer, message):
    with pytest.raises(Wrong, match=message):
        check.exercise_6.verify(answer)


def test_train_for_both_right(capsys):
    check.exercise_6.verify(weighed)
    assert "The target is" in capsys.readouterr().out


# --- all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 7))
def test_stub_is_not_started_and_own_errors_are_shown(number, capsys):
    exercise = getattr(check, f"exercise_{number}")
    exercise(lambda *arguments: ...)
    exercise(lambda *arguments: None)
    assert capsys.readouterr().out.count("not started") == 2

    def broken(*arguments):
        raise IndexError("of the reader")

    exercise(broken)
    assert "IndexError: of the reader" in capsys.readouterr().out


def test_a_value_error_that_is_not_about_special_tokens_is_the_readers_own(capsys):
    def broken(*arguments):
        raise ValueError("of the reader")

    check.exercise_3(broken)
    assert "Your code stopped with ValueError: of the reader" in capsys.readouterr().out

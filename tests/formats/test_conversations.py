"""llmbook.formats.conversations: what a model has to read at each turn, counted."""

import pytest
import torch

from llmbook.formats.chat_templates import CHATML, encode_chat
from llmbook.formats.conversations import ReadSoFar, as_read, common_prefix, fit_conversation
from llmbook.formats.tokenizers import tokenizer_of
from llmbook.open_weights import Chat, format_chat
from tests.support.scripted import Scripted
from tests.support.tokenizer_kinds import folder_of

pytest.importorskip("transformers")

LLAMA3 = ("{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
          "message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
          "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
# As Qwen3's and others': of earlier answers, only what follows the thinking is read again.
FORGETS_THOUGHTS = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
                    "message['content'].split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
# As some of Mistral's: the system message stands in the latest question, and so moves on at each turn.
SYSTEM_LAST = ("{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|im_start|>' }}{% if loop.last %}"
               "{{ 'Be kind.\n\n' }}{% endif %}{% endif %}{{ message['content'] + '<|im_end|>' }}{% endfor %}")


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory):
    return {kind: tokenizer_of(folder_of(kind, tmp_path_factory.mktemp(kind))) for kind in ("qwen2", "llama3")}


@pytest.fixture
def chatml(of_kind):
    return of_kind["qwen2"]


def letters(tokenizer, text: str) -> list[int]:
    """Another spelling than the tokenizer's: byte by byte."""
    return [token for byte in text.encode() for token in tokenizer.encode(chr(byte))]


def scripted(tokenizer, template=CHATML, context_length=4000, system="Be brief.", **options) -> Chat:
    model = Scripted(context_length, tokenizer.n_vocab)
    return Chat(model, tokenizer, system, **{"max_new_tokens": 90, "temperature": 0, "template": template, **options})


def say(chat: Chat, question: str, spelled: list[int], end: bool = True) -> tuple[str, int]:
    """The answer to a question, and how many tokens were read before its first."""
    before = len(chat.model.passes)
    chat.model.says = [*spelled, *([chat.ends[0]] if end else [])]
    answer = chat.say(question)
    assert not chat.model.says and set(chat.model.passes[before + 1 :]) <= {1}
    return answer, chat.model.passes[before]


QUESTION, ANSWER = "What did the captain say of it?", "The clock said so, and the sea is never in a hurry."
CASES = {  # the kind of tokenizer, the template, the answer
    "chatml": ("qwen2", CHATML, ANSWER),
    "llama3": ("llama3", LLAMA3, ANSWER),
    "an answer that the template trims": ("llama3", LLAMA3, f" {ANSWER}\n\n"),
    "thoughts that go": ("qwen2", FORGETS_THOUGHTS, f"<think>Let me see. It is late.</think>{ANSWER}"),
    "a system message that moves": ("qwen2", SYSTEM_LAST, ANSWER),
    "nothing": ("qwen2", CHATML, ""),
}


@pytest.mark.parametrize("canonical", [True, False], ids=["the tokenizer's spelling", "another spelling"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_read_at_a_turn_does_not_grow(of_kind, case, canonical):
    kind, template, answer = CASES[case]
    tokenizer = of_kind[kind]
    chat = scripted(tokenizer, template, system="" if template is SYSTEM_LAST else "Be brief.")
    spelled = tokenizer.encode(answer) if canonical else letters(tokenizer, answer)
    counts = [say(chat, QUESTION, spelled)[1] for _ in range(8)]
    assert len(set(counts[2:])) == 1
    turn = encode_chat(tokenizer, [{"role": "assistant", "content": answer}, {"role": "user", "content": QUESTION}],
                       template=template)
    assert counts[-1] <= len(turn) + len(tokenizer.encode(f"{QUESTION}Be kind.")) and counts[-1] * 4 < len(
        chat.model.held)
    if answer in (ANSWER, "") and template is not SYSTEM_LAST:  # nothing is read twice: but for the end, only the new
        new = {CHATML: f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
               LLAMA3: f"<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
                       "<|start_header_id|>assistant<|end_header_id|>\n\n"}[template]
        assert set(counts[1:]) == {len(tokenizer.encode(new, allowed_special="all"))}
        whole = encode_chat(tokenizer, chat.messages, template=template, open_answer=False)
        assert chat.model.held + [chat.ends[0]] == (whole[: len(whole) - (template is CHATML)] if canonical else
                                                     chat.read_so_far.ids)
        assert tokenizer.decode(whole).startswith(tokenizer.decode(chat.model.held))


@pytest.mark.parametrize("canonical", [True, False])
def test_after_an_answer_that_was_closed_only_the_rest_is_read(chatml, canonical):
    chat = scripted(chatml)
    spelled = chatml.encode(ANSWER) if canonical else letters(chatml, ANSWER)
    chat.model.says = list(spelled)
    pieces = chat.stream(QUESTION)
    heard = "".join(next(pieces) for _ in range(5))
    pieces.close()
    assert heard == chatml.decode(spelled[:5]) == chat.messages[-1]["content"]
    _, count = say(chat, QUESTION, spelled)
    new = f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert count == len(chatml.encode(new, allowed_special="all")) + 1  # its last token was said, and not read yet
    assert chatml.decode(chat.model.read[-1]) == format_chat(chat.messages[:-1])


def test_ctrl_c_in_the_middle_of_a_pass(chatml):
    chat, other = scripted(chatml), scripted(chatml)
    other.model.load_state_dict(chat.model.state_dict())
    run_block, spelled = chat.model.blocks[0].forward, chatml.encode(ANSWER)
    chat.model.says = list(spelled)
    pieces = chat.stream(QUESTION)
    heard = next(pieces) + next(pieces)

    def interrupted(*arguments, **named):
        run_block(*arguments, **named)
        raise KeyboardInterrupt

    chat.model.blocks[0].forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    chat.model.blocks[0].forward = run_block
    assert chat.messages[-1]["content"] == heard
    _, count = say(chat, QUESTION, spelled)
    new = f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert len(chatml.encode(new, allowed_special="all")) <= count <= len(chatml.encode(new, allowed_special="all")) + 2
    with torch.inference_mode():  # what the cache holds is what a model makes of the same ids anew
        cache = other.model.new_cache(1, 400)
        other.model.hidden_states(torch.tensor([chat.model.held]), cache)
    kept, length = chat.read_so_far.cache, len(chat.model.held)
    assert kept.length == length == cache.length
    assert torch.allclose(kept.keys[:, :, :, :length], cache.keys[:, :, :, :length], atol=1e-6)


def test_a_full_context_is_read_anew_once_in_several_turns(chatml):
    chat = scripted(chatml, context_length=700)
    room, read_anew = 700 - 90, []
    system = len(encode_chat(chatml, chat.messages, open_answer=False))
    for number in range(40):
        before = chat.dropped
        _, count = say(chat, f"{QUESTION} {number + 10}", chatml.encode(ANSWER))
        assert bool(chat.notice) == (chat.dropped > before)
        if chat.notice:
            assert len(chat.model.read[-1]) - system - 20 <= count < len(chat.model.read[-1]) <= room // 2
            read_anew.append(number)
        else:
            assert not number or count < 100
        assert len(chat.model.read[-1]) <= room and chat.messages[0] == {"role": "system", "content": "Be brief."}
    turn = (len(chat.model.held) - system) / ((len(chat.messages) - 1) / 2)
    assert len(read_anew) >= 3
    assert min(later - earlier for earlier, later in zip(read_anew, read_anew[1:])) >= room / 2 / turn - 1 > 3
    assert sum(chat.model.passes) < 2.5 * 40 * turn  # each token is read about twice, however long it goes on


def turn_of(role: str, words: int) -> dict[str, str]:
    return {"role": role, "content": "sea " * words}


@pytest.mark.parametrize("old, latest, new, kept", [
    (20, 10, 10, 3), (80, 40, 40, 2), (40, 90, 25, 2), (10, 130, 60, 1), (130, 5, 40, 2)])
def test_the_latest_turn_stays_where_it_fits(chatml, old, latest, new, kept):
    """Words of two turns and of a new message, and how many messages are read, in a context with room for 166 tokens:
    half of it would hold about 40 words."""
    turns = [message for words in (old, latest) for message in (turn_of("user", words), turn_of("assistant", 1))]
    messages, ids = fit_conversation(chatml, turns, turn_of("user", new), CHATML, ReadSoFar(Scripted(176, 900)), 10)
    assert messages == turns[len(turns) - 2 * (kept - 1) :] and len(ids) <= 166


def test_a_question_without_an_answer_goes_like_a_turn(chatml):
    messages = [turn_of("system", 3), turn_of("user", 100), turn_of("assistant", 30), turn_of("user", 5)]
    kept, ids = fit_conversation(chatml, messages, turn_of("user", 5), CHATML, ReadSoFar(Scripted(176, 900)), 10)
    assert kept == [messages[0], messages[3]] and len(ids) <= 166


@pytest.mark.parametrize("system", ["", "sea " * 20])
def test_a_message_that_does_not_fit_even_alone_changes_nothing(chatml, system):
    chat = scripted(chatml, context_length=176, system=system, max_new_tokens=10)
    say(chat, "Hi", chatml.encode("Yes."))
    before, ids = list(chat.messages), list(chat.read_so_far.ids)
    with pytest.raises(ValueError, match=r"needs [\d,]+ tokens and the answer 10, the context has 176: shorten it, or"):
        chat.stream("sea " * 200)
    assert chat.messages == before and chat.read_so_far.ids == ids and not chat.dropped
    assert say(chat, "And?", chatml.encode("No."))[0] == "No." and len(chat.messages) == len(before) + 2


def test_few_conversations_are_encoded_to_find_what_fits(chatml, monkeypatch):
    calls = []
    monkeypatch.setattr("llmbook.formats.conversations.encode_chat",
                        lambda *arguments, **named: calls.append(1) or encode_chat(*arguments, **named))
    messages = [turn_of("user" if number % 2 == 0 else "assistant", 2) for number in range(200)]
    kept, ids = fit_conversation(chatml, messages, turn_of("user", 2), CHATML, ReadSoFar(Scripted(700, 900)), 100)
    assert 0 < len(kept) < 150 and len(ids) <= 300 and len(calls) <= 10
    calls.clear()
    fit_conversation(chatml, kept, turn_of("user", 2), CHATML, ReadSoFar(Scripted(700, 900)), 100)
    assert len(calls) == 1


def test_a_part_with_the_same_text_keeps_the_ids_that_were_read(chatml):
    start, end = (chatml.runner.special[token] for token in ("<|im_start|>", "<|im_end|>"))
    words, spelled = chatml.encode("the clock"), letters(chatml, "the clock")
    assert words != spelled
    assert as_read([start, *words, end], [start, *spelled], chatml) == [start, *spelled, end]  # it broke off
    assert as_read([start, *words, end, *words], [start, *spelled, end], chatml) == [start, *spelled, end, *words]
    assert as_read([start, *words, end], [start, *spelled[:-1], end], chatml) == [start, *words, end]
    assert as_read([start, *words, end, 9], [end, *spelled, end, 9], chatml) == [start, *words, end, 9]
    # the part that differs is where it ends, also if a later one has the same text
    assert as_read([start, *words, 9, end, *words], [start, *words, end, *spelled], chatml) == [
        start, *words, 9, end, *words]
    assert as_read([start, *words], [], chatml) == [start, *words] and as_read([], [start], chatml) == []
    written = chatml.encode("<|im_start|>", disallowed_special=())  # letters, no token
    assert as_read([*written, *words], [start, *words], chatml) == [*written, *words]
    assert as_read([start, *words], [*written, *words], chatml) == [start, *words]


def test_bytes_that_are_no_text_are_not_read_again(chatml):
    """They stand in the answer as U+FFFD, which the tokenizer spells by other bytes."""
    chat = scripted(chatml)
    broken = [number for number in range(chatml.n_vocab) if chatml.token_bytes(number) in (b"\xff", b"\xe4")]
    answer, _ = say(chat, QUESTION, [*chatml.encode("the"), *broken, *chatml.encode(" clock")])
    assert len(broken) == 2 and answer == "the\ufffd\ufffd clock"
    count = say(chat, QUESTION, chatml.encode(ANSWER))[1]
    assert count == say(chat, QUESTION, [])[1]


def test_where_a_token_s_text_depends_on_its_neighbours_only_equal_ids_are_the_same():
    class Plain:
        n_vocab, special_tokens_set = 10, set()
        def decode(self, ids):
            return "same"

    assert as_read([1, 2], [2, 1], Plain()) == [1, 2] and as_read([1, 2, 3], [1, 2], Plain()) == [1, 2, 3]


def test_common_prefix():
    assert [common_prefix(*pair) for pair in (([], []), ([1], []), ([1, 2], [1, 2, 3]), ([1, 2], [1, 3]),
                                              ([2], [1]))] == [0, 0, 2, 1, 0]


def test_the_room_of_a_cache_doubles():
    """So that what it holds is copied seldom, and a compiled model meets few sizes."""
    model = Scripted(10_000)
    read = ReadSoFar(model)
    sizes = [read.recall(list(range(count)), 100).max_tokens for count in (5, 1948, 1949, 3900, 4000, 8000, 9950)]
    assert sizes == [2048, 2048, 4096, 4096, 8192, 8192, 10_000]
    assert ReadSoFar(Scripted(400)).recall([1, 2], 100).max_tokens == 400

"""The interactive pictures: what their pages hold, and what a browser shows when they are moved."""

import html
import json
import re

import pytest
import torch

from llmbook.attention import MultiHeadAttention, causal_attention
from llmbook.book.interactive import Interactive, attention, block, cache, merges, sampling
from llmbook.book.interactive.blocks import stages
from llmbook.book.interactive.distributions import TEMPERATURES, TOP_KS, TOP_PS, kept_choices, sampled
from llmbook.book.interactive.pairs import learn, tokens_after
from llmbook.generation import filter_logits
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import bpe_merges, train_bpe
from tests.support.browser import open_browser, show
from tests.support.repository import ROOT

VOCABULARY = [f" w{number}" for number in range(58)] + ["</script>", "<!--"]


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(VOCABULARY), 32, 16, n_heads=2, n_layers=2, dropout=0.0)).eval()
    for parameter in model.parameters():  # first weights give almost equal logits
        parameter.data *= 4
    return model


PROMPT = [3, 1, 4]


@pytest.fixture(scope="module")
def next_logits(model):
    def logits(rows: list[list[int]]) -> torch.Tensor:
        return model(torch.tensor([PROMPT + row for row in rows]))[:, -1]  # (n, vocab_size)
    return logits


@pytest.fixture(scope="module")
def samples(next_logits) -> Interactive:
    return sampling(VOCABULARY, next_logits, "w3 w1 w4", length=3, draws=2)


WORDS = ["the", " kettle", " sang", " because", " it", " boiled"]
TEXT = "The kettle sang because it boiled; the other kettle didn't sing. Über 12 kettles, 日本!  \n\n the\ttea "


@pytest.fixture(scope="module")
def vectors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of one head, each (6, 4)."""
    torch.manual_seed(1)
    return tuple(torch.randn(3, len(WORDS), 4))


@pytest.fixture(scope="module")
def entering(model) -> torch.Tensor:
    """What enters the model's first block, (6, 16)."""
    return (model.token_embedding.weight[:6] + model.position_embedding.weight[:6]).detach()


@pytest.fixture(scope="module")
def pictures(samples, vectors, model, entering) -> dict[str, Interactive]:
    return {"sampling": samples, "attention": attention(WORDS, *vectors, start=4), "merges": merges(TEXT, start=3),
            "cache": cache(WORDS, *vectors), "block": block(model.blocks[0], entering, WORDS, start=4)}


NAMES = ["sampling", "attention", "merges", "cache", "block"]


# --- without a browser -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_a_picture_brings_everything_and_stays_a_still_without_scripts(pictures, name):
    bundle = pictures[name]._repr_mimebundle_()
    page = bundle["text/html"]
    assert not re.search(r"https?:|\bsrc=\"(?!data:)|\bhref|\bimport\b|\bfetch\(|XMLHttp|localStorage", page)
    assert not re.search(r"\bid=", page), "an id may stand twice on a page with several pictures"
    assert page.count("<script>") == page.count("</script>") == 1, "what stands in the data ends the script"
    assert f'<img alt="{html.escape(bundle["text/plain"])}"' in page and bundle["image/png"] in page
    assert pictures[name].png.startswith(b"\x89PNG") and len(bundle["text/plain"]) > 60


@pytest.mark.parametrize("name", NAMES)
def test_the_page_holds_the_data_and_is_the_same_each_time(pictures, name):
    embedded = re.search(r", build, (\{.*\})\);\n\}\)\(\);\n</script>", pictures[name].html).group(1)
    assert json.loads(embedded) == json.loads(json.dumps(pictures[name].data))
    again = Interactive(name, pictures[name].data, lambda: None, "another")
    again.png = b""
    mark = re.compile(r'data-llmbook="(\w+)"')
    assert mark.search(again.html).group(1) == mark.search(pictures[name].html).group(1)
    again = Interactive(name, {**pictures[name].data, "more": 1}, lambda: None, "another")
    again.png = b""
    assert mark.search(again.html).group(1) != mark.search(pictures[name].html).group(1)


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Interactive("sampling", {"loss": float("nan")}, lambda: None, "").json


def test_scripts_and_styles_are_in_the_wheel():
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs the package hatchling")
    shipped = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    for name in [*NAMES, "frame"]:
        assert {f"llmbook/book/interactive/static/{name}.{kind}" for kind in ("js", "css")} <= shipped


# --- temperature, top-k, top-p -----------------------------------------------------------------------------------

# places of the three sliders: nothing cut, one thing, two, far into the tail
SETTINGS = [(5, 6, 6), (0, 6, 6), (8, 6, 5), (8, 6, 6), (7, 3, 3), (6, 4, 4), (2, 0, 6), (8, 6, 2)]


def by_pytorch(logits: torch.Tensor, setting: tuple[int, int, int]) -> torch.Tensor:
    row, column, depth = setting
    return filter_logits(logits, TEMPERATURES[row], TOP_KS[column], TOP_PS[depth]).softmax(-1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_sampling_keeps_are_filter_logits_probabilities(samples, next_logits, setting):
    probabilities = by_pytorch(next_logits([[]]), setting)[0]
    pieces, shown, kept, mass = kept_choices(samples.data, 0, setting)
    assert kept == (probabilities > 0).sum()
    for piece, probability in zip(pieces, shown):
        assert probability == pytest.approx(probabilities[VOCABULARY.index(piece)].item(), abs=1e-4)
    before = (next_logits([[]])[0] / TEMPERATURES[setting[0]]).softmax(-1)
    assert mass == pytest.approx(before[probabilities > 0].sum().item(), abs=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("draw", (0, 1))
def test_the_sampled_text_is_what_its_random_numbers_hit(samples, next_logits, setting, draw):
    text: list[int] = []
    for dart in samples.data["draws"][draw]["darts"]:
        ordered, ids = by_pytorch(next_logits([text]), setting)[0].sort(descending=True, stable=True)
        hit = int((ordered.double().cumsum(0) <= dart).sum())
        text.append(ids[hit].item())
    assert sampled(samples.data, draw, setting) == [VOCABULARY[id] for id in text]


def test_a_stop_token_ends_the_text_and_one_distribution_gives_one_token(next_logits):
    first = next_logits([[]])[0].argmax().item()
    ended = sampling(VOCABULARY, next_logits, length=4, draws=1, stop_tokens=[first])
    assert sampled(ended.data, 0, (0, 0, 6)) == [VOCABULARY[first]]
    alone = sampling(VOCABULARY, next_logits([[]])[0], length=4)
    assert sampled(alone.data, 0, (0, 0, 6)) == [VOCABULARY[first]] and len(alone.data["nodes"]) == 1


def test_sliders_start_at_the_nearest_value(next_logits):
    data = sampling(VOCABULARY, next_logits([[]])[0], temperature=0.72, top_k=9, top_p=0.93).data
    row, column, depth = data["start"]
    assert (TEMPERATURES[row], TOP_KS[column], TOP_PS[depth]) == (0.7, 10, 0.95)


def test_logits_that_do_not_fit_are_refused(next_logits):
    with pytest.raises(ValueError, match=r"shape \(1, 60\): 1 texts and 59 tokens need \(1, 59\)"):
        sampling(VOCABULARY[:-1], next_logits)
    with pytest.raises(ValueError, match="not finite: give the model's own"):
        sampling(VOCABULARY, filter_logits(next_logits([[]]), top_k=3)[0])


# --- in a browser ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture
def opened(browser):
    """Opens pages, and finds no error on any of them in the end."""
    pages = []

    def open_page(picture: Interactive, **options):
        pages.append(show(browser, picture.html, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.errors == []
        page.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_replaces_its_still_and_fits_a_phone(opened, pictures, name):
    page = opened(pictures[name], width=390)
    assert page.locator(".view").is_visible() and not page.locator("img").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert page.locator("img").is_visible() and not page.locator(".view").is_visible()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_output_twice_on_a_page_is_two_pictures(browser, pictures, name):
    page = show(browser, 2 * pictures[name].html)
    assert page.locator(".view").count() == 2 and page.errors == []
    page.close()


@pytest.mark.parametrize("ground, dark", [("#ffffff", False), ("#111111", True), ("rgb(30, 30, 40)", True)])
def test_it_is_dark_where_the_page_is_dark(browser, samples, ground, dark):
    page = show(browser, f'<div style="background: {ground}">{samples.html}</div>')
    assert ("dark" in page.locator(".view").get_attribute("class")) is dark
    page.close()


def test_keys_pressed_in_a_picture_do_not_reach_the_page(opened, samples):
    page = opened(samples)
    page.evaluate("document.addEventListener('keydown', () => { window.reached = true; })")
    page.locator("[data-name=temperature]").press("d")
    assert page.evaluate("window.reached") is None
    assert page.locator("[data-llmbook]").get_attribute("data-lm-suppress-shortcuts") == "true"


def set_sliders(page, setting: tuple[int, ...]) -> None:
    for name, place in zip(("temperature", "top-k", "top-p"), setting):
        page.locator(f"[data-name={name}]").fill(str(place))


@pytest.mark.parametrize("setting", [(8, 6, 5), (7, 3, 3), (6, 4, 4), (8, 6, 6)])
def test_the_bars_are_filter_logits_probabilities_at_every_sampled_token(opened, samples, next_logits, setting):
    page = opened(samples)
    set_sliders(page, setting)
    text: list[int] = []
    for place, piece in enumerate(sampled(samples.data, 0, setting)):
        button = page.locator(f"[data-part=text] [data-place='{place}']")
        assert button.text_content() == piece
        button.click()
        probabilities = by_pytorch(next_logits([text]), setting)[0]
        shown = page.locator("[data-part=bars] [data-word]").evaluate_all(
            "cells => cells.map((cell) => [cell.dataset.word, cell.textContent])")
        rest = 1.0
        for word, number in shown[:-1]:
            expected = probabilities[VOCABULARY.index(word)].item()
            assert number == "cut" if expected == 0 else float(number) == pytest.approx(expected, abs=1e-4)
            rest -= expected
        assert shown[-1][0] == "others" and len(shown) == 13
        assert rest < 1e-4 if shown[-1][1] == "cut" else float(shown[-1][1]) == pytest.approx(rest, abs=1e-4)
        kept = re.search(r"(\d+) of 60 tokens", page.locator("[data-part=summary]").text_content())
        assert int(kept.group(1)) == (probabilities > 0).sum()
        text.append(VOCABULARY.index(piece))


def test_a_slider_is_dragged_and_another_draw_is_another_text(opened, samples):
    page = opened(samples)
    temperature = page.locator("[data-name=temperature]")
    box = temperature.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert temperature.input_value() == str(len(TEMPERATURES) - 1)
    words = page.locator("[data-part=text] button")
    assert words.all_text_contents() == sampled(samples.data, 0, (8, 6, 6))
    page.locator("[data-part=again]").click()
    assert words.all_text_contents() == sampled(samples.data, 1, (8, 6, 6))
    page.locator("[data-part=reset]").click()
    assert words.all_text_contents() == sampled(samples.data, 0, samples.data["start"])
    temperature.press("ArrowLeft")
    assert words.all_text_contents() == sampled(samples.data, 0, (2, 6, 6))


# --- one head -----------------------------------------------------------------------------------------------------

def test_the_page_has_the_vectors(pictures, vectors):
    for name in ("attention", "cache"):
        for part, tensor in zip(("query", "key", "value"), vectors):
            assert torch.allclose(torch.tensor(pictures[name].data[part]), tensor, atol=1e-6)


def numbers(page, selector: str, attribute: str | None = None) -> torch.Tensor:
    """The numbers that are shown; a masked one counts as -inf."""
    read = "cell.textContent" if attribute is None else f"cell.getAttribute('{attribute}')"
    texts = page.locator(selector).evaluate_all(f"cells => cells.map((cell) => {read})")
    return torch.tensor([float("-inf") if text == "masked" else float(text.replace("\u2212", "-")) for text in texts])


@pytest.mark.parametrize("scaled, masked", [(True, False), (False, False), (True, True), (False, True)])
def test_scores_weights_and_context_are_pytorch_s_for_every_query(opened, pictures, vectors, scaled, masked):
    query, key, value = vectors
    page = opened(pictures["attention"])
    for name, on, wanted in (("scale", True, scaled), ("mask", False, masked)):
        if on != wanted:
            page.locator(f"[data-name={name}]").click()
    scores = query @ key.T / (2.0 if scaled else 1.0)
    if masked:
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query[None], key[None], value[None], is_causal=masked, scale=0.5 if scaled else 1.0)[0]
    for place in range(len(WORDS)):
        page.locator(f"[data-part=choices] [data-place='{place}']").click()
        assert torch.allclose(numbers(page, "[data-score]"), scores[place], atol=1e-4)
        assert torch.allclose(numbers(page, "[data-weight]"), scores[place].softmax(-1), atol=1e-4)
        assert torch.allclose(numbers(page, "[data-part=context] .cell", "data-value"), expected[place], atol=1e-4)


def test_the_query_is_dragged_along_the_sentence_and_moved_by_keys(opened, pictures):
    page = opened(pictures["attention"])
    chosen = page.locator("[data-part=choices] [aria-checked=true]")
    assert chosen.text_content() == "it"
    first, last = (page.locator(f"[data-part=choices] [data-place='{place}']").bounding_box() for place in (0, 5))
    page.mouse.move(last["x"] + 5, last["y"] + 5)
    page.mouse.down()
    assert chosen.text_content() == "boiled"
    page.mouse.move(first["x"] + 5, first["y"] + 5, steps=12)
    page.mouse.up()
    assert chosen.text_content() == "the"
    page.mouse.move(last["x"] + 5, last["y"] + 5, steps=3)
    assert chosen.text_content() == "the", "the button is up"
    chosen.press("ArrowRight")
    assert chosen.text_content() == "kettle"


def test_a_key_that_is_clicked_is_worked_out(opened, pictures, vectors):
    page = opened(pictures["attention"])
    page.locator("[data-part=keys] button").nth(2).click()
    score = float((vectors[0][4] * vectors[1][2]).sum())
    text = page.locator("[data-part=work]").text_content().replace("\u2212", "-")
    assert text.startswith("it looks at sang: query \u00b7 key = ") and f" = {score:.2f}; divided by \u221a4" in text


def test_vectors_that_do_not_fit_are_refused(vectors):
    query, key, value = vectors
    with pytest.raises(ValueError, match=r"key has shape \(5, 4\): 6 tokens need \(6, d\)"):
        attention(WORDS, query, key[:5], value)
    with pytest.raises(ValueError, match=r"query \(6, 4\) and key \(6, 3\) differ"):
        attention(WORDS, query, key[:, :3], value)
    with pytest.raises(ValueError, match="3 features for values of 4: name each, or none"):
        attention(WORDS, query, key, value, features=["a", "b", "c"])
    with pytest.raises(ValueError, match="25 tokens: give 1 to 24"):
        attention(["a"] * 25, *torch.zeros(3, 25, 2))


# --- the cache ----------------------------------------------------------------------------------------------------

def counts(page) -> dict[str, int]:
    cells = page.locator("[data-count]").evaluate_all(
        "cells => cells.map((cell) => [cell.dataset.count, cell.textContent])")
    return {name: int(text.replace(",", "")) for name, text in cells}


def test_what_is_computed_is_counted_and_the_context_is_pytorch_s(opened, pictures, vectors):
    page = opened(pictures["cache"])
    expected = causal_attention(*(tensor[None, None] for tensor in vectors))[0, 0]
    page.locator("[data-part=first]").click()
    rows = scores = 0
    for length in range(2, len(WORDS) + 1):
        new = length if length == 2 else 1
        fresh = sum(range(length - new + 1, length + 1))
        rows, scores = rows + length, scores + length * (length + 1) // 2
        found = counts(page)
        assert (found["rows without"], found["rows with"]) == (length, new)
        assert (found["scores without"], found["scores with"]) == (length * (length + 1) // 2, fresh)
        assert (found["all rows without"], found["all rows with"]) == (rows, length)
        assert (found["all scores without"], found["all scores with"]) == (scores, length * (length + 1) // 2)
        assert found["memory with"] == 2 * 4 * length
        for side, number in (("without", length), ("with", new)):
            assert page.locator(f"[data-table={side}] .kv.computed").count() == number
        assert page.locator("[data-table=with] .kv.kept").count() == length - new
        assert torch.allclose(numbers(page, "[data-part=context] .cell", "data-value"), expected[length - 1], atol=1e-4)
        if length < len(WORDS):
            page.locator("[data-part=step]").click()
    assert page.locator("[data-part=step]").is_disabled()
    page.locator("[data-part=back]").click()
    assert counts(page)["rows without"] == len(WORDS) - 1


def test_the_still_s_counts_are_the_page_s(pictures):
    assert "without a cache 20 keys and values are computed in all, with a cache 6" in repr(pictures["cache"])


def test_a_cache_that_does_not_fit_is_refused(vectors):
    with pytest.raises(ValueError, match=r"value has shape \(6, 3\): 6 tokens need \(6, d_head\)"):
        cache(WORDS, *vectors[:2], vectors[2][:, :3])
    with pytest.raises(ValueError, match="prompt is 7: give 1 to 6"):
        cache(WORDS, *vectors, prompt=7)
    with pytest.raises(ValueError, match="start is 5: 2 of 6 tokens are the prompt, so give 0 to 4"):
        cache(WORDS, *vectors, start=5)
    with pytest.raises(ValueError, match="17 tokens: give 1 to 16"):
        cache(["a"] * 17, *torch.zeros(3, 17, 2))


# --- byte-pair encoding -------------------------------------------------------------------------------------------

TEXTS = [TEXT, "aaaaaaa aaaaaaa aa", "Mira's kite; Tom's kites!! \u00a0 x\x1cy\u0085z \ufeff é e\u0301 😀😀"]


@pytest.mark.parametrize("text", TEXTS)
def test_merges_are_those_of_train_bpe(text):
    learned = learn(text, 40)
    theirs = bpe_merges(train_bpe(text, 256 + len(learned), special_tokens=()))
    assert learned == theirs
    if len(learned) < 40:
        with pytest.raises(ValueError, match="has pairs for"):
            train_bpe(text, 257 + len(learned), special_tokens=())


def shown_ids(page) -> list[int]:
    return [int(id) for id in page.locator("[data-part=tokens] [data-id]").evaluate_all(
        "cells => cells.map((cell) => cell.dataset.id)")]


@pytest.mark.parametrize("text", TEXTS)
def test_the_page_learns_what_train_bpe_learns_from_what_is_typed(opened, pictures, text):
    page = opened(pictures["merges"])
    page.locator("[data-part=own]").fill(text)
    learned = learn(text, 40)
    numbers_of = {bytes([byte]): byte for byte in range(256)}
    numbers_of |= {left + right: 256 + number for number, (left, right) in enumerate(learned)}
    for step in range(len(learned) + 1):
        if step % 6 == 0 or step == len(learned):
            assert shown_ids(page) == [numbers_of[token] for token in tokens_after(text, learned[:step])]
            assert page.locator("[data-fact=vocabulary]").text_content() == f"256 + {step}"
        if step < len(learned):
            page.locator("[data-part=step]").click()
    assert page.locator("[data-part=step]").is_disabled()
    tokenizer = train_bpe(text, 256 + len(learned), special_tokens=())
    assert shown_ids(page) == tokenizer.encode_ordinary(text)


def test_merges_go_back_play_and_start_where_asked(opened, pictures):
    page = opened(pictures["merges"])
    step = page.locator("[data-fact=vocabulary]")
    assert step.text_content() == "256 + 3"
    page.locator("[data-part=back]").click()
    assert step.text_content() == "256 + 2"
    page.locator("[data-part=play]").click()
    page.wait_for_function("document.querySelector('[data-llmbook]').shadowRoot"
                           ".querySelector('[data-fact=vocabulary]').textContent === '256 + 3'")
    page.locator("[data-part=first]").click()
    assert step.text_content() == "256 + 0" and page.locator("[data-part=back]").is_disabled()


def test_a_text_without_words_is_refused():
    for text, length in (("  ", 2), ("a" * 2001, 2001)):
        with pytest.raises(ValueError, match=f"the text has {length} characters: give 1 to 2000"):
            merges(text)


# --- one token through a block ------------------------------------------------------------------------------------

def test_the_steps_end_in_the_block_s_own_output(model, entering):
    steps = stages(model.blocks[0], entering)
    assert torch.allclose(steps[-1].result, model.blocks[0](entering[None])[0], atol=1e-5)
    assert [tuple(step.result.shape) for step in steps] == [(6, 16)] * 6 + [(6, 64)] * 2 + [(6, 16)] * 2
    assert isinstance(model.blocks[0].attention, MultiHeadAttention)
    middle = model.blocks[0].attend(entering[None])[0]
    assert torch.allclose(steps[4].result, middle, atol=1e-5)


def test_each_step_shows_the_block_s_numbers_for_the_token_that_is_followed(opened, pictures, model, entering):
    page = opened(pictures["block"])
    steps = stages(model.blocks[0], entering)
    for place in (4, 1):
        page.locator(f"[data-part=choices] [data-place='{place}']").click()
        page.locator("[data-part=first]").click()
        for number, step in enumerate(steps):
            result = step.result[place]
            shown = page.locator("[data-part=numbers]").text_content().replace("\u2212", "-").split(", ")
            assert torch.allclose(torch.tensor([float(x) for x in shown]), result[:8], atol=1e-4), step.name
            assert numbers(page, "[data-part=mean]").item() == pytest.approx(result.mean().item(), abs=1e-4)
            assert numbers(page, "[data-part=deviation]").item() == pytest.approx(
                result.std(correction=0).item(), abs=1e-4)
            cells = numbers(page, f"[data-stage='{number}'] .cell", "data-value")
            assert torch.allclose(cells, result[:32], atol=1e-4)
            shape = f"({', '.join(map(str, step.result.shape))})"
            assert shape in page.locator(f"[data-stage='{number}']").text_content()
            if step.weights is not None:
                weights = numbers(page, "[data-part=detail] [data-weight]", "data-value").view(2, place + 1)
                assert torch.allclose(weights, step.weights[:, place, : place + 1], atol=1e-4)
            if number + 1 < len(steps):
                page.locator("[data-part=step]").click()
        page.locator("[data-stage='2']").click()
        assert page.locator("[data-part=detail] [data-weight]").count() == 2 * (place + 1)


def test_a_block_s_input_has_a_row_per_token(model, entering):
    with pytest.raises(ValueError, match=r"x has shape \(5, 16\): 6 tokens need \(6, d_model\)"):
        block(model.blocks[0], entering[:5], WORDS)
    with pytest.raises(ValueError, match="17 tokens: give 1 to 16"):
        block(model.blocks[0], torch.zeros(17, 16), ["a"] * 17)

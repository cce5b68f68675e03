"""The interactive pictures: what their pages hold, and what a browser shows when they are moved."""

import json
import re

import pytest
import torch

from llmbook.book.interactive import Interactive, sampling
from llmbook.book.interactive.distributions import TEMPERATURES, TOP_KS, TOP_PS, picked, sampled
from llmbook.generation import filter_logits
from llmbook.gpt import GPT, GPTConfig
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
    return sampling(VOCABULARY, next_logits, "w3 w1 w4", length=4, draws=2)


@pytest.fixture(scope="module")
def pictures(samples) -> dict[str, Interactive]:
    return {"sampling": samples}


NAMES = ["sampling"]


# --- without a browser -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_a_picture_brings_everything_and_stays_a_still_without_scripts(pictures, name):
    bundle = pictures[name]._repr_mimebundle_()
    page = bundle["text/html"]
    assert not re.search(r"https?:|\bsrc=\"(?!data:)|\bhref|\bimport\b|\bfetch\(|XMLHttp|localStorage", page)
    assert not re.search(r"\bid=", page), "an id may stand twice on a page with several pictures"
    assert page.count("<script>") == page.count("</script>") == 1, "what stands in the data ends the script"
    assert f'<img alt="{bundle["text/plain"][:20]}' in page and bundle["image/png"] in page
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
    folder = ROOT / "llmbook" / "book" / "interactive" / "static"
    for name in [*NAMES, "frame"]:
        assert {f"llmbook/book/interactive/static/{name}.{kind}" for kind in ("js", "css")} <= shipped
        assert (folder / f"{name}.js").is_file()


# --- temperature, top-k, top-p -----------------------------------------------------------------------------------

SETTINGS = [(6, 9, 10), (0, 9, 10), (9, 9, 9), (9, 9, 10), (8, 4, 7), (7, 8, 9), (3, 0, 10), (9, 9, 4)]


def by_pytorch(logits: torch.Tensor, setting: tuple[int, int, int]) -> torch.Tensor:
    row, column, depth = setting
    return filter_logits(logits, TEMPERATURES[row], TOP_KS[column], TOP_PS[depth]).softmax(-1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_sampling_keeps_are_filter_logits_probabilities(samples, next_logits, setting):
    probabilities = by_pytorch(next_logits([[]]), setting)[0]
    pieces, shown, kept, mass = picked(samples.data, 0, setting)
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
    assert sampled(ended.data, 0, (0, 0, 10)) == [VOCABULARY[first]]
    alone = sampling(VOCABULARY, next_logits([[]])[0], length=4)
    assert sampled(alone.data, 0, (0, 0, 10)) == [VOCABULARY[first]] and len(alone.data["nodes"]) == 1


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


@pytest.mark.parametrize("setting", SETTINGS)
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
    assert words.all_text_contents() == sampled(samples.data, 0, (9, 9, 10))
    page.locator("[data-part=again]").click()
    assert words.all_text_contents() == sampled(samples.data, 1, (9, 9, 10))
    page.locator("[data-part=reset]").click()
    assert words.all_text_contents() == sampled(samples.data, 0, samples.data["start"])
    temperature.press("ArrowLeft")
    assert words.all_text_contents() == sampled(samples.data, 0, (3, 9, 10))

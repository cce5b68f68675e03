"""The chat page, in a real browser: it streams, stops, edits, regenerates, and shows what the model was sure of."""

import json
import re
import threading
import time

import pytest
import torch

from llmbook.formats.shipped import load_shipped
from llmbook.serve.page import policy_of
from llmbook.serve.server import Server
from tests.serve.served import Caller, tiny_chat
from tests.support.browser import open_browser
from tests.support.repository import ROOT

PAGE = (ROOT / "llmbook" / "serve" / "page.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_from_elsewhere_and_its_policy_sees_to_it():
    assert not re.findall(r'(?:src|href)="(?!data:)', PAGE)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", PAGE)
    assert not re.search(r'\sstyle="|\son[a-z]+="|innerHTML|insertAdjacentHTML|document\.write|eval\(', PAGE)
    policy = policy_of("<style>a</style><script>b</script>")
    assert policy.startswith("default-src 'none'; script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='; "
                             "style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='; connect-src 'self'")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def server():
    with Server(*tiny_chat(), name="tiny", port=0) as running:
        yield running


def same_each_time(route) -> None:
    """Adds a seed to what the page asks for and keeps answers short, so that two of them fit into the tiny context."""
    asked = route.request.post_data_json if route.request.method == "POST" else None
    if asked is None:
        return route.continue_()
    short = {"max_tokens": min(asked["max_tokens"], 20)} if "max_tokens" in asked else {}
    return route.continue_(post_data=json.dumps({**asked, "seed": 1, **short}))


def open_page(browser, server, **options):
    page = browser.new_page(viewport={"width": options.pop("width", 800), "height": 800}, **options)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.route("**/v1/**", same_each_time)
    response = page.goto(server.url)
    page.headers = response.headers
    page.wait_for_selector("body[data-ready]")
    return page


@pytest.fixture
def page(browser, server):
    page = open_page(browser, server)
    yield page
    assert not page.errors
    page.close()


def say(page, text: str, wait: bool = True) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    if wait:
        finished(page)


def finished(page) -> None:
    page.wait_for_selector("body:not([data-busy])")  # no script of a test may run on the page: its policy forbids it


def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def answers(page) -> list[str]:
    return page.locator(".model .said").all_inner_texts()


class Held:
    """Lets an engine take so many steps and no more, until it is let go."""

    def __init__(self, server, monkeypatch, steps: int):
        self.go, real = threading.Event(), server.engine.rows.step

        def step(new):
            nonlocal steps
            steps -= 1
            assert steps >= 0 or self.go.wait(30)
            return real(new)

        monkeypatch.setattr(server.engine.rows, "step", step)


def test_it_comes_with_headers_that_keep_it_to_itself(page):
    assert page.headers["content-security-policy"] == policy_of(PAGE)
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    assert page.title() == "tiny \u00b7 llmbook" and page.inner_text("h1") == "tiny"
    assert page.evaluate("document.activeElement.id") == "text"  # one can write at once


def test_a_message_is_answered_and_the_conversation_goes_on(page, server):
    page.click("#adjust")
    page.fill("#temperature", "0")
    page.fill("#most", "6")
    page.fill("#system", "Be kind.")
    say(page, "hello")
    said = Caller(server).chat(messages=[{"role": "system", "content": "Be kind."},
                                         {"role": "user", "content": "hello"}], temperature=0, max_tokens=6)[1]
    assert page.locator(".you .said").all_inner_texts() == ["hello"]
    first = said["choices"][0]["message"]["content"]
    assert page.locator(".model .said").first.text_content() == first
    assert re.search(r"\d+ tokens, [\d.]+ per second", page.inner_text(".model .below"))
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    say(page, "and now?")
    assert [message["content"] for message in asked[0]["messages"]] == ["Be kind.", "hello", first, "and now?"]
    assert len(answers(page)) == 2


def test_an_answer_streams_and_stops(page, server, monkeypatch):
    held = Held(server, monkeypatch, 5)
    say(page, "hello", wait=False)
    until(lambda: page.locator(".model .said").count() and len(page.locator(".model .said").text_content()) > 2)
    assert page.get_attribute("article.model", "aria-busy") == "true"
    assert page.inner_text("#send") == "Stop"
    page.press("#text", "Enter")  # a second message does not go anywhere meanwhile
    part = page.locator(".model .said").text_content()
    page.keyboard.press("Escape")
    finished(page)
    held.go.set()
    assert page.locator(".model .said").text_content() == part and "stopped" in page.inner_text(".model .below")
    assert page.get_attribute("article.model", "aria-busy") == "false"
    assert page.inner_text("#status").split() == f"Answer: {part}".split()
    assert page.get_attribute("#status", "aria-live") == "polite"
    say(page, "hello", wait=False)
    page.click("#send")  # the button stops, too
    finished(page)
    assert page.get_by_role("button", name="Answer again").count() == 1  # of the last answer only


def test_a_message_is_edited_and_an_answer_made_anew(page):
    say(page, "one")
    say(page, "two")
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.get_by_role("button", name="Answer again").click()
    finished(page)
    assert [message["content"] for message in asked[0]["messages"]][::2] == ["one", "two"] and len(answers(page)) == 2
    page.get_by_role("button", name="Edit message 1").click()
    field = page.get_by_label("Your message, to be changed")
    assert field.input_value() == "one"
    field.press("Escape")
    assert page.locator(".you .said").all_inner_texts() == ["one", "two"]
    page.get_by_role("button", name="Edit message 1").click()
    page.get_by_label("Your message, to be changed").fill("three")
    page.get_by_label("Your message, to be changed").press("Enter")
    finished(page)
    assert page.locator(".you .said").all_inner_texts() == ["three"] and len(asked[1]["messages"]) == 1
    page.click("#anew")
    assert not page.locator("article").count()


def test_tokens_show_what_else_was_likely_and_the_keyboard_goes_through_them(page):
    say(page, "hello")
    text = page.locator(".model .said").text_content()
    page.get_by_role("button", name="Tokens").click()
    tokens = page.locator(".token")
    assert "".join(tokens.all_text_contents()) == text or "\ufffd" in text and tokens.count() > 3
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    chosen = page.locator('.token[aria-selected="true"]')
    assert chosen.count() == 1 and chosen.text_content() == tokens.nth(1).text_content()
    assert page.locator(".chances dt").count() >= 5 and page.locator(".chances dt.taken").count() == 1
    shares = [float(re.sub(r"[^\d.]", "", part)) for part in page.locator(".chances dd:nth-of-type(odd)")
              .all_inner_texts() if part.strip()]
    assert shares[:5] == sorted(shares[:5], reverse=True) and 0 < sum(shares) <= 100.5
    page.get_by_role("button", name="Tokens").click()
    assert not page.locator(".token").count() and page.locator(".model .said").text_content() == text


def test_an_error_is_shown_and_the_next_message_goes_through(page, server, monkeypatch):
    real = server.engine.rows.step
    monkeypatch.setattr(server.engine.rows, "step", lambda new: (_ for _ in ()).throw(MemoryError("too little")))
    say(page, "hello")
    assert "too little" in page.inner_text("[role=alert]")
    monkeypatch.setattr(server.engine.rows, "step", real)
    page.get_by_role("button", name="Answer again").click()
    finished(page)
    assert not page.locator("[role=alert]").count()
    say(page, "word " * 200)
    assert "the context is 128" in page.inner_text("[role=alert]")
    page.errors = [error for error in page.errors if "status of 400" not in error]  # the browser's own remark


def test_what_is_said_is_text_and_never_markup(page):
    say(page, "<img src=x onerror=alert(1)><b>bold</b>")
    assert page.locator(".you .said").inner_text() == "<img src=x onerror=alert(1)><b>bold</b>"
    assert not page.locator(".you img, .you b").count()


def test_a_key_is_asked_for_where_the_server_wants_one(browser):
    with Server(*tiny_chat(), port=0, api_key="s3cret") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("[role=alert]")
        assert "API key is missing" in page.inner_text("[role=alert]")
        assert page.evaluate("document.activeElement.id") == "key"
        page.fill("#key", "s3cret")
        page.press("#key", "Tab")
        page.wait_for_selector("body[data-ready]")
        say(page, "hello")
        assert len(answers(page)) == 1
        page.close()


def test_a_base_model_writes_texts(browser):
    model, tokenizer = load_shipped("storyteller", torch.float32, torch.device("cpu"))
    with Server(model, tokenizer, "storyteller", port=0, begin=(tokenizer.eot_token,)) as server:
        page = open_page(browser, server)
        assert page.inner_text("#send") == "Write" and page.inner_text("#anew") == "New text"
        page.click("#adjust")
        assert not page.is_visible("#system")
        page.fill("#most", "12")
        say(page, "One day")
        part = page.locator(".model .said").text_content()
        assert part.startswith(" ") and "cut here" in page.inner_text(".model .below")
        page.get_by_role("button", name="Go on").click()
        finished(page)
        assert page.locator(".model .said").text_content().startswith(part)
        assert not page.errors
        page.close()


@pytest.mark.parametrize("scheme, ground, ink", [("light", "rgb(251, 251, 249)", "rgb(29, 29, 31)"),
                                                 ("dark", "rgb(22, 24, 27)", "rgb(236, 236, 234)")])
def test_it_is_light_or_dark_and_fits_a_phone(browser, server, scheme, ground, ink):
    page = open_page(browser, server, width=390, color_scheme=scheme)
    page.click("#adjust")
    say(page, "a" * 70)
    page.get_by_role("button", name="Tokens").click()
    page.locator(".token").first.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.evaluate("getComputedStyle(document.body).color") == ink
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out
    assert page.evaluate("document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth")
    page.close()

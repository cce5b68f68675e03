"""The web edition as `make site` builds it, and what a reader meets in a browser that opens it from disk."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.browser import open_browser
from tests.support.repository import ADDRESS, CHAPTERS, NOTEBOOKS, ROOT, read
from tools.website import checks
from tools.website.measure import every_byte

pytestmark = [pytest.mark.book, pytest.mark.slow]

pytest.importorskip("sphinx", reason="needs docs/requirements.txt, which `make test` installs")

HEAVIEST = 1_500_000  # bytes that a chapter loads, its pictures and the shared files included
LOOKED_AT = ["index.html", "notebooks/03_attention.html", "notebooks/zh/03_attention.html", "docs/glossary.html",
             "docs/references.html", "api/taught_in_the_chapters.html"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, str]:
    """The folder of the site, and what its building said. SITE names one that is built already."""
    if os.environ.get("SITE"):
        return Path(os.environ["SITE"]).resolve(), ""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "tools.website", "--out", folder], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    return folder / "html", done.stderr


@pytest.fixture(scope="module")
def site(built) -> Path:
    return built[0]


@pytest.fixture(scope="module")
def pages(site) -> dict[str, checks.Page]:
    return checks.read_site(site)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


def html(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def article(site: Path, name: str) -> str:
    return re.search(r"<article\b.*</article>", html(site, name), re.DOTALL).group()


def test_building_it_says_no_warning(built):
    assert "WARNING" not in built[1] and "ERROR" not in built[1], built[1]


def test_no_link_is_dead_no_anchor_broken_no_picture_missing_or_without_words(site, pages):
    assert checks.problems(site, pages) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_is_a_page_in_the_contents_with_its_neighbours_and_ways_to_run_it(path, site, pages):
    name = f"notebooks/{path.stem}.html"
    text = html(site, name)
    colab = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert f'href="{colab}/blob/main/notebooks/{path.name}"' in text
    assert f'href="{ADDRESS}/blob/main/notebooks/{path.name}"' in text
    assert name in pages["index.html"].links
    assert re.search(r'<link rel="(prev|next)"', text)
    assert "Open in Colab" not in article(site, name), "the badge is a picture from elsewhere"
    title = re.match(r"# (.+)", read(path).cells[0].source).group(1)
    assert f"<h1>{title.replace('&', '&amp;')}" in text.replace("’", "'"), title


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_shows_its_outputs_folds_its_setup_and_sets_its_formulas(path, site):
    name = f"notebooks/{path.stem}.html"
    text, notebook = article(site, name), read(path)
    setup = text.index("importlib")
    assert text.rfind("<details", 0, setup) > text.rfind("</details>", 0, setup), "the setup cell is not folded"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    moving = sum("data-llmbook=" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert text.count('<img class="picture"') == pictures - moving and text.count("<div data-llmbook=") == moving
    formulas = sum(len(re.findall(r"\$\$", cell.source)) // 2 for cell in notebook.cells
                   if cell.cell_type == "markdown")
    assert text.count('display="block"') >= formulas
    assert "$$" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
    streams = [output for output in outputs if output.output_type == "stream"]
    assert not streams or text.count('class="output') >= len(streams)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_term_is_linked_once_in_a_chapter(path, site):
    links = Counter(re.findall(r'<a class="term[^>]*href="\.\./docs/glossary\.html#([^"]+)"',
                               article(site, f"notebooks/{path.stem}.html")))
    assert len(links) >= 5, "a chapter uses some of the glossary's terms"
    assert max(links.values()) == 1, [term for term, times in links.items() if times > 1]


def test_a_citation_leads_to_the_bibliography_and_back(site):
    assert 'href="../docs/references.html#' in article(site, "notebooks/03_attention.html")
    references = article(site, "docs/references.html")
    assert references.count("Cited in") > 60
    assert re.search(r'Cited in</em> <a [^>]*href="\.\./notebooks/03_attention\.html#', references)


def test_the_reference_has_signatures_shapes_and_sources(site):
    text = article(site, "api/taught_in_the_chapters.html")
    for name in ("llmbook.gpt.GPT", "llmbook.training.train", "llmbook.attention.MultiHeadAttention"):
        assert f'id="{name}"' in text, name
    assert "(batch, tokens" in text and "Source:" in text


def test_the_home_page_has_the_promise_the_picture_ten_stories_and_five_minutes(site):
    text = article(site, "index.html")
    words = " ".join(re.sub(r"<[^>]+>", "", text).split())
    assert "A book you can run" in words and "make lab" in words
    assert "blob/main/notebooks/05b_open_weights.ipynb" in text
    assert text.count("<details") == 10 and text.count("The checker:") == 10
    assert len(re.findall(r'<img class="picture"', text)) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_is_light(path, site):
    assert every_byte(site, f"notebooks/{path.stem}.html") <= HEAVIEST


def test_a_translated_chapter_is_in_its_language_and_each_leads_to_the_other(site, pages):
    english, chinese = "notebooks/03_attention.html", "notebooks/zh/03_attention.html"
    assert 'href="zh/03_attention.html" lang="zh-CN"' in article(site, english)
    assert 'href="../03_attention.html" lang="en"' in article(site, chinese)
    text = html(site, chinese)
    assert re.search(r'<html [^>]*lang="zh-CN"', text) and "<h1>第 3 章：注意力" in text
    assert "在 Colab 中运行" in text and "本页内容" in text and "On this page" not in text
    assert every_byte(site, chinese) <= HEAVIEST
    terms = re.findall(r'<a class="term[^>]*href="\.\./\.\./docs/glossary\.html#([^"]+)"', text)
    assert len(terms) == len(set(terms)) >= 10 and {"softmax", "causal-mask"} <= set(terms)
    assert text.count('href="../../docs/references.html#') > 5
    home = article(site, "zh/index.html")
    assert 'href="../notebooks/zh/03_attention.html"' in home and 'alt="本书模型的数据流图' in home


# --- in a browser, from disk -------------------------------------------------------------------------------------

def opened(browser, site: Path, name: str, width: int = 1400, scheme: str = "light"):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.failed = []
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.set_default_timeout(300_000)  # a busy machine is no mistake of the page
    path, _, query = name.partition("?")
    page.goto((site / path).as_uri() + (query and f"?{query}"))
    page.wait_for_load_state("load")
    return page


AUDITED = [("index.html", "light", 1400), ("notebooks/03_attention.html", "dark", 1400),
           ("docs/references.html", "light", 1400), ("api/long_and_large_runs.html", "dark", 1400),
           ("notebooks/zh/03_attention.html", "light", 390), ("search.html?q=softmax", "dark", 390)]
if os.environ.get("AUDIT") == "all":  # before a release
    AUDITED = [(name, scheme, width) for name in (*LOOKED_AT, "search.html?q=softmax", "zh/index.html")
               for scheme in ("light", "dark") for width in (390, 1400)]


@pytest.mark.parametrize(("name", "scheme", "width"), AUDITED)
def test_the_audit_finds_nothing_serious(name, scheme, width, site, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(browser, site, name, width, scheme)
    found = axe.Axe().run(page).response["violations"]
    serious = [(one["id"], node["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
               for node in one["nodes"]]
    page.close()
    assert not serious


@pytest.mark.parametrize("name", LOOKED_AT)
def test_on_a_phone_nothing_is_wider_than_the_screen(name, site, browser):
    page = opened(browser, site, name, width=390)
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert wide <= 390


def test_from_disk_nothing_is_asked_of_a_network_and_no_script_fails(site, browser):
    page = opened(browser, site, "notebooks/03_attention.html")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.asked and all(url.startswith(("file:", "data:")) for url in page.asked)
    assert page.failed == []
    assert page.locator("div[data-llmbook]").count() > 0
    assert page.evaluate("[...document.querySelectorAll('div[data-llmbook]')].every(e => e.shadowRoot || "
                         "[...e.querySelectorAll('*')].some(x => x.shadowRoot))"), "a picture that moves did not start"
    page.close()


def test_search_finds_a_chapter_without_a_server(site, browser):
    page = opened(browser, site, "search.html?q=softmax")
    page.wait_for_selector("#search-results li a[href*='03_attention']")
    page.close()


def test_a_term_s_card_opens_by_keyboard_and_closes_with_escape(site, browser):
    page = opened(browser, site, "notebooks/03_attention.html")
    term = page.locator("a.term[href$='#dot-product']")
    term.focus()
    card = page.locator("#card-over")
    assert card.is_visible() and "two" in card.inner_text()
    assert term.get_attribute("aria-describedby") == "card-over"
    page.keyboard.press("Escape")
    assert not card.is_visible() and term.get_attribute("aria-describedby") is None
    page.close()


def test_pictures_lose_their_white_paper_in_the_dark(site, browser):
    page = opened(browser, site, "notebooks/03_attention.html", scheme="dark")
    filters = page.evaluate("[...document.querySelectorAll('img.picture')].map(i => getComputedStyle(i).filter)")
    page.close()
    assert filters and all("invert(1)" in one for one in filters)

"""How the web edition's pages are made from the notebooks: links, citations, pictures; the checks of a built site."""

import base64
import io
import re

import nbformat
import pytest
from PIL import Image

from tests.support.repository import ADDRESS, NOTEBOOKS, ROOT
from tools.website import api, checks
from tools.website.citations import link_citations, read_references, with_back_links
from tools.website.measure import every_byte
from tools.website.pictures import alternative_text, picture_tag, with_stills_as_files
from tools.website.places import parts, relink, slug

REFERENCES = """# References

## Chapter 3: Attention

- A. Vaswani, N. Shazeer, N. Parmar et al., *Attention*, 2017. [A page](https://arxiv.org/abs/1706.03762). The scaling.
- M. Saerens, P. Latinne and C. Decaestecker, *Adjusting the Outputs*, 2002. For priors.
- T. A. Almeida, J. M. Gómez Hidalgo and A. Yamakami, *Spam*, 2011. The messages.

## Chapter 5a: Pretraining

- A. Vaswani, N. Shazeer, N. Parmar et al., *Attention Is All You Need*, 2017. The warm-up.
"""


@pytest.mark.parametrize(("target", "expected"), [
    ("02_text_data.ipynb", "02_text_data.ipynb"),
    (f"{ADDRESS}/blob/main/docs/glossary.md", "../docs/glossary.md"),
    (f"{ADDRESS}/blob/main/docs/glossary.md#softmax", "../docs/glossary.md#softmax"),
    ("../README.md#speed", "../index.md"),
    ("../llmbook/gpt.py", f"{ADDRESS}/blob/main/llmbook/gpt.py"),
    ("../tests", f"{ADDRESS}/tree/main/tests"),
    ("https://arxiv.org/abs/1706.03762", "https://arxiv.org/abs/1706.03762"),
    ("#here", "#here"),
])
def test_a_link_leads_to_the_page_or_to_the_repository(target, expected):
    assert relink(f"see [it]({target}).", "notebooks/03_attention.ipynb") == f"see [it]({expected})."


def test_a_page_weighs_what_it_loads_each_file_once(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "x.css").write_bytes(b"c" * 100)
    (tmp_path / "x.webp").write_bytes(b"p" * 1000)
    page = ('<link rel="stylesheet" href="../x.css?v=1"><img src="../x.webp" alt="a"><img src="../x.webp" alt="b">'
            '<a href="../y.html">y</a><script src="https://elsewhere.org/x.js"></script>')
    (tmp_path / "notebooks" / "a.html").write_text(page)
    assert every_byte(tmp_path, "notebooks/a.html") == len(page) + 1100


def test_every_notebook_belongs_to_a_part_and_a_stranger_is_named():
    assert sorted(path for _, group in parts(NOTEBOOKS) for path in group) == NOTEBOOKS
    with pytest.raises(ValueError, match=r"x9_odd\.ipynb: in no part of the book; see PARTS"):
        parts([ROOT / "notebooks" / "x9_odd.ipynb"])


def test_the_parts_take_every_chapter_in_order():
    names = ["01_a", "04_b", "05a_c", "05b_d", "09_e", "10_f", "11_g", "12_h", "A_i", "C_j", "E_k"]
    found = parts([ROOT / "notebooks" / f"{name}.ipynb" for name in names])
    assert [[path.stem[:2].rstrip("_") for path in group] for _, group in found] == [
        ["01", "04"], ["05", "05"], ["09"], ["10", "11", "12"], ["A", "E"], ["C"]]


@pytest.mark.parametrize(("text", "key"), [
    ("the transformer (Vaswani et al., 2017), then", "vaswani-2017"),
    ("Vaswani et al. (2017) scale it", "vaswani-2017"),
    ("Shazeer (2017) too", "vaswani-2017"),
    ("(Saerens, Latinne and Decaestecker, 2002)", "saerens-2002"),
    ("(Almeida, Gómez Hidalgo\nand Yamakami, 2011)", "almeida-2011"),
    ('Vaswani et al., "Attention Is All You Need" (2017)', "vaswani-2017"),
    ("Vaswani 等人（2017，第 3.2.1 节）推测", "vaswani-2017"),
    ("（权重，Vaswani 等人，2017）", "vaswani-2017"),
    ("（Saerens 和 Latinne，2002）", "saerens-2002"),
])
def test_a_citation_leads_to_its_entry_which_leads_back(text, key):
    references = read_references(REFERENCES)
    linked = link_citations(text, references, "3", "../docs/references.md", ("3.5", "../notebooks/03.ipynb#s"))
    assert f"](../docs/references.md#{key})" in linked
    assert re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", linked) == text, "the words stay"
    if text.startswith("("):
        assert linked.startswith("(["), "the link begins with the first author"
    back = with_back_links(REFERENCES, references)
    assert f"[]{{#{key} .entry}}" in back and back.count("*Cited in* [3.5](../notebooks/03.ipynb#s).") == 1


def test_a_chapter_s_own_entry_goes_first_and_what_is_no_citation_stays():
    references = read_references(REFERENCES)
    assert [one.key for one in references] == ["vaswani-2017", "saerens-2002", "almeida-2011", "vaswani-2017b"]
    linked = link_citations("(Vaswani et al., 2017)", references, "5a", "r.md", ("5a.2", "x"))
    assert linked == "([Vaswani et al., 2017](r.md#vaswani-2017b))"
    for text in ("`Vaswani et al., 2017`", "$Vaswani (2017)$", "[Vaswani et al., 2017](x)", "Miller et al., 2017",
                 "in March 2017"):
        assert link_citations(text, references, "3", "r.md", ("3.1", "x")) == text


def png(colour: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def test_a_picture_becomes_a_small_file_of_the_same_points_with_words(tmp_path):
    tag = picture_tag(png(), 'A "red" card', tmp_path, "../pictures")
    name = re.search(r'src="\.\./pictures/(\w+\.webp)"', tag).group(1)
    assert 'alt="A &quot;red&quot; card" width="30" height="20"' in tag
    assert Image.open(tmp_path / name).convert("RGB").getcolors() == [(600, (255, 0, 0))]


def test_a_still_picture_leaves_the_page_and_keeps_its_words(tmp_path):
    page = with_stills_as_files(f'<img alt="a still" src="data:image/png;base64,{png()}">', tmp_path, "../pictures")
    assert "base64" not in page and 'alt="a still"' in page and 'src="../pictures/' in page
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("data", "metadata", "words"), [
    ({"text/plain": "<Figure size 420x594 with 1 Axes>"}, {"image/png": {"alt": "A diagram of a block"}},
     "A diagram of a block"),
    ({"text/plain": "Attention in a sentence"}, {}, "Attention in a sentence"),
    ({"text/plain": "<Figure size 420x594 with 1 Axes>"}, {}, "Picture in the section “3.1 Words”"),
])
def test_words_for_a_picture_come_from_its_output_or_else_name_the_section(data, metadata, words):
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    assert alternative_text(output, "3.1 Words") == words


def test_the_reference_has_the_public_modules_and_not_the_notebooks_helpers():
    names = [name for group in api.modules().values() for name in group]
    assert {"gpt", "training", "storyworld", "formats.gguf", "assets"} <= set(names)
    assert not [name for name in names if name.startswith(("book", "cli", "storyworld."))]
    assert len(names) == len(set(names))


def test_slugs_are_github_s():
    assert slug("3.5 Why divide by the square root of `d`?") == "35-why-divide-by-the-square-root-of-d"


GOOD = '<h1 id="top">T</h1><a href="b.html#there">b</a><img src="p.webp" alt="a card with four words">'
BAD = [
    ('<a href="c.html">c</a>', "c.html is not there"),
    ('<a href="b.html#gone">b</a>', "b.html#gone has no such anchor"),
    ('<a href="#gone">b</a>', "#gone has no such anchor"),
    ('<img src="q.webp" alt="a card with four words">', "q.webp is not there"),
    ('<img src="p.webp">', "the picture p.webp has no alternative text"),
    ('<img src="p.webp" alt="一张图">', "the picture p.webp has no alternative text"),
    ('<img src="p.webp" alt="picture">', "the picture p.webp has no alternative text"),
    ('<script src="https://elsewhere.org/x.js"></script>', "fetches https://elsewhere.org/x.js from elsewhere"),
    ('<p id="top"></p>', "the anchor top stands twice"),
]


CHINESE = '<img src="p.webp" alt="三个头的注意力权重">'


@pytest.mark.parametrize(("piece", "problem"), [("", None), (CHINESE, None), *BAD])
def test_the_checks_find_what_is_wrong_with_a_site(tmp_path, piece, problem):
    (tmp_path / "a.html").write_text(GOOD + piece)
    (tmp_path / "b.html").write_text('<p id="there">here</p><a href="https://elsewhere.org">out</a>')
    (tmp_path / "p.webp").write_bytes(b"")
    found = checks.problems(tmp_path)
    assert found == [] if problem is None else len(found) == 1 and problem in found[0], found

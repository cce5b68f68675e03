"""The book for e-readers: strict pages, links that stay inside. The whole book is built by `make epub`."""

import posixpath
import re
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import pytest

from tests.support.repository import ROOT
from tools.website.ebook import mend, xhtml


@pytest.mark.parametrize(("page", "strict"), [
    ("<p>a<br>b", "<p>a<br />b"),
    ('<img src=x.webp alt="a &amp; b" loading="lazy">', '<img src="x.webp" alt="a &amp; b" />'),
    ("<details open><p>a</p></details>", '<details open="open"><p>a</p></details>'),
    ("<p>a</p><script>if (a < b) c();</script><p>b</p>", "<p>a</p><p>b</p>"),
    ("<p>&nbsp;&#8217;&amp;&lt;</p>", "<p>\u00a0&#8217;&amp;&lt;</p>"),
    ('<?xml version="1.0"?><!DOCTYPE html><math><mi>x</mi></math>',
     '<?xml version="1.0"?><!DOCTYPE html><math><mi>x</mi></math>'),
    ('<a id="x"/>', '<a id="x"></a>'),
])
def test_pages_become_strict(page, strict):
    assert xhtml(page) == strict


def test_a_book_keeps_its_files_and_its_links_lead_to_its_own_pages(tmp_path):
    book = tmp_path / "x.epub"
    with zipfile.ZipFile(book, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("docs/a.xhtml", '<html><head><link rel="stylesheet" type="text/css" href="../x.css" />'
                                      '<link rel="stylesheet" href="../y.css" /></head><body>'
                                      '<a href="../b.html#there">b</a><a href="c.html">c</a>'
                                      '<a href="https://x.org/d.html">d</a><img src="p.webp" alt="p"></body></html>')
        file.writestr("x.css", "")
        file.writestr("b.xhtml", "<html><body>b</body></html>")
        file.writestr("p.webp", b"\x00\x01")
    mend(book)
    with zipfile.ZipFile(book) as file:
        assert file.namelist()[0] == "mimetype" and file.infolist()[0].compress_type == zipfile.ZIP_STORED
        page = file.read("docs/a.xhtml").decode()
        assert 'href="../b.xhtml#there"' in page and 'href="c.html"' in page and 'href="https://x.org/d.html"' in page
        assert "../x.css" in page and "y.css" not in page
        assert file.read("p.webp") == b"\x00\x01"
        ElementTree.fromstring(page)


@pytest.mark.slow
@pytest.mark.book
def test_a_chapter_is_a_book_that_an_e_reader_opens(tmp_path):
    pytest.importorskip("sphinx", reason="needs docs/requirements.txt, which `make test` installs")
    done = subprocess.run([sys.executable, "-m", "tools.website", "--epub", "--only", "03", "--out", tmp_path],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "llmbook.epub") as file:
        names = set(file.namelist())
        for name in names:
            if name.endswith((".xhtml", ".opf", ".ncx")):
                ElementTree.fromstring(file.read(name))
        chapter = file.read("notebooks/03_attention.xhtml").decode()
    here = {target for target in re.findall(r'(?:href|src)="(?!\w+:)([^"#]+)', chapter)
            if not target.endswith(".ipynb")}
    assert {posixpath.normpath(f"notebooks/{target}") for target in here} <= names
    assert chapter.count("<img") >= 20 and "<script" not in chapter and "importlib" not in chapter
    assert chapter.count('display="block"') >= 5
    assert {name for name in names if name.endswith(".webp")}, "its pictures"

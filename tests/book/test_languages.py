"""The words of figures, pictures that move and checks in another language, and English where there is no other."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.font_manager import fontManager

from llmbook.book import interactive, languages
from llmbook.book.exercises import Wrong, exercise
from llmbook.book.figures import describe, heatmap
from llmbook.book.languages import drawn, language, said
from tests.support.browser import open_browser, show


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv("LLMBOOK_LANGUAGE", "zh")
    monkeypatch.setattr(drawn, "font_families", lambda name: ("DejaVu Sans", "some font"))


def test_the_language_is_the_folder_s_or_the_environment_s(monkeypatch, tmp_path):
    monkeypatch.delenv("LLMBOOK_LANGUAGE", raising=False)
    folder = tmp_path / "notebooks" / "zh"
    folder.mkdir(parents=True)
    for here, found in ((folder, "zh"), (folder.parent, ""), (tmp_path, "")):
        monkeypatch.chdir(here)
        assert language() == found
    for name, found in (("zh", "zh"), ("en", ""), ("xx", ""), ("../zh", "")):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("LLMBOOK_LANGUAGE", name)
        assert language() == found


def test_texts_are_found_with_their_values_and_what_is_inside_them(chinese):
    assert said("Multi-head: 8 query heads, 2 of keys and values") == "多头：8 个查询头，2 个键值头"
    assert said("Exercise 3.1: not yet. The rows do not add up to 1.") == "练习 3.1：还没对。各行加起来不等于 1。"
    assert said("softmax\nof S / √d") == "softmax\nS / √d", "line by line"
    assert said("no such text") == "no such text" and said("") == ""


def test_the_text_with_the_most_words_of_its_own_goes_first(chinese, monkeypatch):
    words = {"figures": {"{} b": "短{0}", "a {} b": "长{0}", "{}: a b": "尾{0}"}}
    monkeypatch.setattr(languages, "catalogue", lambda name: words)
    languages.patterns.cache_clear()
    try:
        assert said("a x b") == "长x" and said("x b") == "短x"
    finally:
        monkeypatch.undo()
        languages.patterns.cache_clear()


def test_without_a_language_nothing_changes(monkeypatch):
    monkeypatch.setenv("LLMBOOK_LANGUAGE", "en")
    assert said("thing") == "thing"
    picture = interactive.cache(["a", "b"], *[torch.ones(2, 2)] * 3)
    assert "speak(" not in picture.html


def small_map():
    return heatmap(torch.eye(2), ["thing", "kettle"], ["sound", "heat"], "Two questions: head 1", "attended to",
                   "attends").figure


def test_a_figure_s_title_labels_names_and_description_change(chinese):
    figure = small_map()
    drawn.translate_figure(figure)
    ax = figure.axes[0]
    assert ax.get_title(loc="left") + ax.get_title() == "两个问题：头 1"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["事物", "kettle"]
    words = describe(figure)
    assert words == ("两个问题：头 1: 2 行 (事物, kettle)、2 列 (声音, 热度)的表格，按数值着色，从 0 到 1; "
                     "纵轴“关注别人的词”，横轴“被关注的词”.")
    plt.close(figure)


def test_curves_change_their_names(chinese):
    figure, ax = plt.subplots()
    ax.plot([1, 2, 3], label="with mask")
    ax.legend()
    drawn.translate_figure(figure)
    assert ax.get_legend().get_texts()[0].get_text() == "有掩码" and "有掩码从 1 到 3" in describe(figure)
    plt.close(figure)


def test_where_no_font_has_the_letters_a_figure_stays_english(monkeypatch):
    monkeypatch.setenv("LLMBOOK_LANGUAGE", "zh")
    monkeypatch.setattr(drawn, "font_families", lambda name: ("DejaVu Sans",))
    figure = small_map()
    drawn.translate_figure(figure)
    assert figure.axes[0].get_xlabel() == "attended to"
    plt.close(figure)


def test_fonts_are_latin_first_and_one_of_those_that_are_there(monkeypatch):
    drawn.font_families.cache_clear()
    monkeypatch.setattr(drawn, "_unpack", lambda wanted: None)

    class Font:
        def __init__(self, name):
            self.name = name

    monkeypatch.setattr(fontManager, "ttflist", [Font("SimHei"), Font("PingFang SC"), Font("DejaVu Sans")])
    assert drawn.font_families("zh") == ("DejaVu Sans", "PingFang SC") and drawn.font_families("xx") == ("DejaVu Sans",)
    drawn.font_families.cache_clear()


def test_a_check_answers_in_the_language(chinese, capsys):
    @exercise("3.9", "No cheat gets past you.")
    def check(answer):
        if answer == 1:
            raise Wrong("The rows do not add up to 1.")
        if answer == 2:
            raise ValueError("bad")

    for answer in (None, 0, 1, 2):
        check(answer)
    assert capsys.readouterr().out.splitlines() == [
        "练习 3.9：还没开始。请先把上面空着的函数补全，再运行这个单元。", "练习 3.9：做对了。什么作弊都瞒不过你。",
        "练习 3.9：还没对。各行加起来不等于 1。", "练习 3.9：还没对。你的代码出错停下了，ValueError：bad"]


def test_a_picture_that_moves_speaks_the_language_also_after_a_step(chinese, monkeypatch):
    monkeypatch.setattr(interactive.Interactive, "png", b"")
    words = ["the", "kettle", "sang", "because", "it"]
    values = torch.eye(5)[:, :3]
    head = interactive.attention(words, values, values, values, features=["thing", "sound", "heat"])
    cache = interactive.cache(words, values, values, values)
    with open_browser() as browser:
        page = show(browser, head.html + cache.html)
        text = ("[...document.querySelectorAll('[data-llmbook]')]"
                ".map(e => e.shadowRoot.querySelector('.view').innerText).join()")
        before = page.evaluate(text)
        page.locator("button[data-name=mask]").click()
        page.locator("button[data-part=step]").click()
        after = page.evaluate(text)
        labels = page.evaluate("[...document.querySelectorAll('[data-llmbook]')].flatMap(e => "
                               "[...e.shadowRoot.querySelectorAll('[aria-label]')].map(x => x.ariaLabel))")
        page.close()
    assert "因果掩码：关" in before and "因果掩码：开" in after and before != after
    for part in (before, after, *labels):
        left = [line for line in part.splitlines() if len(set(line.split()) - set(words)) > 3
                and not any("\u4e00" <= letter <= "\u9fff" for letter in line)
                and any(letter.isalpha() for letter in line)]
        assert not left, left
    assert not page.errors


def test_a_font_that_was_cut_off_is_made_again(monkeypatch, tmp_path):
    ttlib = pytest.importorskip("fontTools.ttLib")
    from llmbook.book.languages.drawn import _unpack

    class Face:
        def __init__(self, whole):
            self.whole = whole

        def __getitem__(self, table):
            return self

        def getDebugName(self, number):
            return "Noto Sans CJK SC"

        def save(self, file):
            file.write(b"half")
            if not self.whole:
                raise KeyboardInterrupt
            file.write(b" and half")

    faces, added = [Face(False)], []
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(drawn, "findSystemFonts", lambda: ["/fonts/NotoSansCJK-Regular.ttc"])
    monkeypatch.setattr(drawn.fontManager, "addfont", added.append)
    monkeypatch.setattr(ttlib, "TTCollection", lambda file, lazy: type("Fonts", (), {"fonts": faces}))
    with pytest.raises(KeyboardInterrupt):
        _unpack(("Noto Sans CJK SC",))
    faces[0].whole = True
    _unpack(("Noto Sans CJK SC",))
    assert added == [tmp_path / "fonts" / "NotoSansCJK-Regular-0.otf"]
    assert added[0].read_bytes() == b"half and half"

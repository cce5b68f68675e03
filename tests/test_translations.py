"""llmbook.translations: catalogues read, pairs cleaned, parts without near-copies."""

from __future__ import annotations

import itertools
import random

import pytest

from llmbook import assets
from llmbook.catalogue_files import CATALOGUES, catalogue_name
from llmbook.translations import Pair, clean_pair, near_copies, read_catalogue, split_pairs, translation_pairs, words_of

CATALOGUE = '''
msgid ""
msgstr "Language: de\\n"

#: page.py:3
msgid "Delete the page?"
msgstr "Seite löschen?"

#, fuzzy
msgid "guessed"
msgstr "geraten"

#, python-format
#| msgid "an earlier text"
msgctxt "menu"
msgid "one "
"long text"
msgstr ""
"ein "
"langer \\"Text\\""

msgid "not yet"
msgstr ""

msgid "%d page"
msgid_plural "%d pages"
msgstr[0] "%d Seite"
msgstr[1] "%d Seiten"
#~ msgid "obsolete"
#~ msgstr "veraltet"
msgid "last"
msgstr "zuletzt"'''


def test_a_catalogue_gives_its_confirmed_translations_and_both_forms_of_a_plural():
    assert list(read_catalogue(CATALOGUE)) == [
        ("Delete the page?", "Seite löschen?"), ("one long text", 'ein langer "Text"'), ("%d page", "%d Seite"),
        ("%d pages", "%d Seiten"), ("last", "zuletzt")]


def test_a_line_separator_inside_a_text_ends_no_line():
    assert list(read_catalogue('msgid "a\u2028b"\nmsgstr "c"\n')) == [("a\u2028b", "c")]


@pytest.mark.parametrize("text, message", [
    ('msgid "a"\nmgstr "b"\n', "line 2 is 'mgstr \"b\"': that is no line"),
    ('msgid "a\nmsgstr "b"\n', "line 1 ends with '\"a': give a string"),
])
def test_what_is_no_catalogue_is_named_with_its_line(text, message):
    with pytest.raises(ValueError, match=message):
        list(read_catalogue(text))


@pytest.mark.parametrize("english, german, cleaned", [
    ("Save  the\npage", "Seite speichern", ("Save the page", "Seite speichern")),
    ("Save &all files", "Alle &Dateien speichern", ("Save all files", "Alle Dateien speichern")),
    ("It’s “new”…", "Es ist „neu“…", ('It\'s "new"...', 'Es ist "neu"...')),
    ("%(n)s of %(all)s <b>pages</b>", "%(n)s von %(all)s <b>Seiten</b>", ("X of Y pages", "X von Y Seiten")),
    ("%s has {name}", "{name} gehört %s", ("X has Y", "Y gehört X")),
])
def test_a_good_pair_is_made_plain(english, german, cleaned):
    assert clean_pair(english, german) == cleaned


@pytest.mark.parametrize("english, german", [
    ("Page", "Seite"),  # one word
    ("many words " * 15, "viele Wörter " * 15),
    ("Two words", "Zwei Wörter und danach noch sechs oder sieben weitere"),
    ("Admin interface", "admin Interface"),  # not translated
    ("%s of all pages", "Alle Seiten"),  # the stand-in is missing
    ("%(a)s, %(b)s, %(c)s and %(d)s", "%(a)s, %(b)s, %(c)s und %(d)s"),  # four stand-ins
    ("See <pre>the code</pre> here", "Siehe <pre>den Code</pre> hier"),
    ("See https://example.org for more", "Mehr unter https://example.org hier"),
    ("The page is new.", "Die Seite ist neu"),
    ("- a list", "- eine Liste"),
])
def test_a_pair_that_teaches_nothing_is_left_out(english, german):
    assert clean_pair(english, german) is None


def test_near_copies_are_those_that_comparing_all_with_all_finds():
    draw = random.Random(1)
    sentences = [" ".join(draw.choices("abcdefghijkl", k=draw.randint(1, 9))) for _ in range(150)]
    for share in (0.5, 0.7, 1.0):
        wanted = {(i, j) for j in range(150) for i in range(j)
                  if len(words_of(sentences[i]) & words_of(sentences[j]))
                  >= share * len(words_of(sentences[i]) | words_of(sentences[j]))}
        assert wanted and set(near_copies(sentences, share)) == wanted


def test_numbers_count_as_one_word_and_case_not_at_all():
    assert words_of("Page 12, page 13") == words_of("PAGE 7") == {"page", "0"}


def pairs(n: int = 400) -> list[Pair]:
    draw = random.Random(2)
    words = [f"w{'abcdefghij'[i]}{'abcdefghij'[j]}" for i in range(10) for j in range(10)]
    return [Pair(" ".join(draw.sample(words, 4)), " ".join(draw.sample(words, 3)), "here") for _ in range(n)]


def test_no_sentence_has_a_near_copy_in_another_part():
    first = pairs()
    new = ["".join(letters) for letters in itertools.product("abcdefg", repeat=3)]
    copies = [Pair(pair.english + " x", f"d{word} e{word}", "here") for pair, word in zip(first[:200], new)]
    copies += [Pair(f"q{word} r{word}", pair.german.upper(), "here") for pair, word in zip(first[200:], new)]
    split = split_pairs(first + copies)
    parts = (split.train, split.val, split.test)
    assert sum(map(len, parts)) == 800 and all(len(part) > 20 for part in parts)
    for side in ("english", "german"):
        texts, owner = [], []
        for number, part in enumerate(parts):
            texts += [getattr(pair, side) for pair in part]
            owner += [number] * len(part)
        assert all(owner[one] == owner[other] for one, other in near_copies(texts))


def test_more_pairs_leave_the_others_where_they_are():
    first, more = pairs(300), pairs(400)
    small, large = split_pairs(first), split_pairs(more)
    moved = set(small.train) & set(large.test) | set(small.test) & set(large.train)
    assert len(moved) <= 3  # only those that join another group


def test_a_folder_of_catalogues_gives_its_pairs_once(tmp_path):
    (tmp_path / "one--a.po").write_text('msgid "new page"\nmsgstr "neue Seite"\n\nmsgid "Page"\nmsgstr "Seite"\n')
    (tmp_path / "two--b.po").write_text('msgid "New page"\nmsgstr "Neues Blatt"\n')
    assert translation_pairs(tmp_path) == [Pair("new page", "neue Seite", "one")]
    with pytest.raises(ValueError, match="holds no .po file"):
        translation_pairs(tmp_path / "empty")


def test_each_catalogue_has_a_name_of_its_own_and_a_pinned_wheel():
    names = [catalogue_name(wheel, member) for wheel, _, members in CATALOGUES for member, _ in members]
    assert len(set(names)) == len(names) == len(assets.ASSETS["translations"])
    assert catalogue_name("Django==5.2", "django/contrib/admin/locale/de/LC_MESSAGES/django.po") == (
        "django--django-contrib-admin-de-django.po")


@pytest.mark.slow
def test_the_catalogues_give_eight_thousand_pairs_and_more():
    found = translation_pairs()
    split = split_pairs(found)
    assert len(found) >= 8000 and min(len(split.val), len(split.test)) >= 500
    assert len({pair.source for pair in found}) == 7

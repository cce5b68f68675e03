"""The words, the rules and the phrasings: complete, and English."""

import re

import pytest

from llmbook.storyworld import lint
from llmbook.storyworld.grammar import Phrasing, Variant, alternatives, read_kinds
from llmbook.storyworld.plots import all_plots
from llmbook.storyworld.rules import RuleError, finds, parse_deed, parse_need
from llmbook.storyworld.words import article, lexicon


def test_the_world_is_as_large_as_promised():
    words = lexicon()
    assert len(words.things) >= 150
    assert len(words.children) >= 60
    assert {agent.he for agent in words.children} == {"she", "he"}
    assert len(words.species) >= 40
    assert len(words.places) >= 40
    assert len(words.countables) >= 40
    assert len(all_plots()) >= 40


def test_no_two_things_agents_or_places_have_one_key():
    words = lexicon()
    for group in (words.people + words.creatures, [things[0] for things in words.things], words.places,
                  words.countables):
        keys = [item.key for item in group]
        assert len(keys) == len(set(keys)), [key for key in keys if keys.count(key) > 1]
    names = [agent.key for agent in words.people] + [name for name, _ in words.animal_names]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]


def test_the_tables_have_no_fault_that_lint_knows():
    assert lint.problems() == []


@pytest.mark.parametrize("noun, expected", [
    ("apple", "an apple"), ("kite", "a kite"), ("old hat", "an old hat"), ("useful hat", "a useful hat"),
    ("one-eyed doll", "a one-eyed doll"), ("umbrella", "an umbrella"), ("enormous bear", "an enormous bear")])
def test_articles(noun, expected):
    assert article(noun) == expected


def test_alternatives_are_all_of_them():
    assert alternatives("a [b|c] d[ e|]") == ["a b d e", "a b d", "a c d e", "a c d"]


KIND = """
== give A B T
needs: holder T = A
does: holder T = B
- {A} gave {T} to {B}.
- "{T}?" said {A}. "{B.he} may have it."
"""


def test_slots_are_capitalised_where_a_sentence_begins():
    mira, omar = (next(a for a in lexicon().people if a.key == name) for name in ("Mira", "the cobbler"))
    kite = lexicon().things[0][0]
    roles = {"A": omar, "B": mira, "T": kite}
    kind = read_kinds(KIND, "test")[0]
    first, second = (phrasing.variants[0] for phrasing in kind.phrasings)
    assert first.first.format_map(roles) == "The cobbler gave the kite to Mira."
    assert first.linked.format_map(roles) == "the cobbler gave the kite to Mira."
    assert second.first.format_map(roles) == '"The kite?" said the cobbler. "She may have it."'
    assert second.linked is None


def test_pronouns_become_objects_and_names_where_grammar_wants_it():
    mira = next(a for a in lexicon().people if a.key == "Mira")
    seen = {"A": mira.pronoun_view}
    for text, expected in [("{A} ran.", "She ran."), ('"No," said {A}.', '"No," said Mira.'),
                           ("It came to {A}.", "It came to her."), ("After {A} had gone, it rained.",
                                                                    "After she had gone, it rained."),
                           ("It was {A's} hat.", "It was her hat."), ("It was {A's}.", "It was Mira's."),
                           ("The one in front of {A} was red.", "The one in front of her was red."),
                           ("In {A's} was a hat.", "In Mira's was a hat."), ("The fog hid {A}.", "The fog hid Mira."),
                           ("So {A} never knew.", "So she never knew."),
                           ("It hit {A}, who ran.", "It hit Mira, who ran."),
                           ('"Why?" {A} had thought of that.', '"Why?" She had thought of that.'),
                           ('"Why?" {A} asked.', '"Why?" she asked.'),
                           ("Behind {A} lay a hat.", "Behind her lay a hat."),
                           ("After {A} had eaten, it rained.", "After she had eaten, it rained."),
                           ("Somebody made {A} laugh.", "Somebody made her laugh.")]:
        assert Variant(text).first.format_map(seen) == expected


@pytest.mark.parametrize("text, named", [("{A} saw <bird>s.", "touches a letter"), ("{X} ran.", "slot {X}"),
                                         ("{A}xyz ran.", "touches a letter")])
def test_a_phrasing_with_a_broken_slot_is_named(text, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        Variant(text)


def test_a_slot_of_a_role_that_the_kind_lacks_is_named():
    kind = read_kinds("== sit A\n- {A} sat {P.at}.\n", "test")[0]
    with pytest.raises(ValueError, match="role P, which the kind has not"):
        _ = kind.phrasings


def test_a_line_that_is_nothing_is_named():
    with pytest.raises(ValueError, match="'need: holder T = A' begins with none of"):
        read_kinds("== sit A\nneed: holder T = A\n", "test")


def test_a_role_that_is_not_said_is_found_by_a_need_or_carried():
    kind = read_kinds(KIND, "test")[0]
    assert Phrasing("{B} had {T}.", kind).carried == ()
    assert Phrasing("{A} was glad.", kind).carried == ("B", "T")


# --- the rules ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("need, state, keys, fine", [
    ("holder T = A", {("holder", "kite"): "Mira"}, {"T": "kite", "A": "Mira"}, True),
    ("holder T = A", {("holder", "kite"): "Omar"}, {"T": "kite", "A": "Mira"}, False),
    ("holder T = A", {}, {"T": "kite", "A": "Mira"}, False),
    ("holder T = A", {("holder", "kite"): "nobody"}, {"T": "kite"}, False),
    ("broken T", {("broken", "kite"): True}, {"T": "kite"}, True), ("broken T", {}, {"T": "kite"}, False),
    ("not broken T", {}, {"T": "kite"}, True), ("not broken T", {("broken", "kite"): True}, {"T": "kite"}, False),
    ("M = N - K", {}, {"M": 3, "N": 5, "K": 2}, True), ("M = N - K", {}, {"M": 4, "N": 5, "K": 2}, False),
    ("N > K", {}, {"N": 2, "K": 2}, False), ("N >= 2", {}, {"N": 2}, True),
    ("not lies T = P", {("lies", "kite"): "mill"}, {"T": "kite", "P": "mill"}, False),
    ("not lies T = P", {("lies", "kite"): "mill"}, {"T": "kite", "P": "barn"}, True),
    ("together A B", {("place", "Mira"): "mill", ("place", "Omar"): "barn"}, {"A": "Mira", "B": "Omar"}, False),
    ("together A B", {("place", "Mira"): "mill", ("place", "Omar"): "mill"}, {"A": "Mira", "B": "Omar"}, True),
    ("weather sky = rain", {("weather", "sky"): "rain"}, {}, True),
    ("weather sky = rain", {("weather", "sky"): "sun"}, {}, False), ("weather sky = rain", {}, {}, False),
    ("together A B", {("place", "Mira"): "mill"}, {"A": "Mira", "B": "Omar"}, True)])
def test_needs(need, state, keys, fine):
    assert (parse_need(need)(state, dict(keys)) is None) is fine


def test_roofs_are_known():
    need = parse_need("indoors A")
    assert need({("place", "Mira"): "kitchen"}, {"A": "Mira"}) is None
    assert "not indoors" in need({("place", "Mira"): "meadow"}, {"A": "Mira"})
    assert need({}, {"A": "Mira"}) is None  # nobody knows where she is
    assert parse_need("outdoors A")({("place", "Mira"): "meadow"}, {"A": "Mira"}) is None
    assert parse_need("outdoors A")({("place", "Mira"): "kitchen"}, {"A": "Mira"}) is not None


def test_needs_are_looked_at_again_once_a_role_is_found():
    kind = read_kinds("== nod A T B\nneeds: thanked B A; owner T = B\n- {A} nodded at {T}.", "test")[0]
    state = {("known", "Mira"): True, ("known", "kite"): True, ("known", "Omar"): True, ("owner", "kite"): "Omar"}
    assert kind.missing(state, {"A": "Mira", "T": "kite"}) == ["thanked Omar Mira is not so"]
    state["thanked", "Omar", "Mira"] = True
    keys = {"A": "Mira", "T": "kite"}
    assert kind.missing(state, keys) == []
    assert keys["B"] == "Omar"


def test_a_phrasing_for_indoors_is_not_used_under_the_sky():
    kind = read_kinds("== sit A\n- (A indoors) {A} sat by the stove.\n- (A named) {A} sat.", "test")[0]
    mira = next(a for a in lexicon().people if a.key == "Mira")
    inside, anywhere = kind.phrasings
    assert not inside.fits({"A": mira}, {("place", "Mira"): "meadow"})
    assert inside.fits({"A": mira}, {("place", "Mira"): "kitchen"})
    assert anywhere.fits({"A": mira}, {("place", "Mira"): "meadow"})
    kind = read_kinds("== rain P\n- (P not indoors) It rained {P.at}.\n- (P indoors) Rain beat on the roof {P.at}.",
                      "test")[0]
    kitchen, meadow = (next(p for p in lexicon().places if p.key == key) for key in ("kitchen", "meadow"))
    wet, dry = kind.phrasings
    assert wet.fits({"P": meadow}, {}) and not wet.fits({"P": kitchen}, {})
    assert dry.fits({"P": kitchen}, {}) and not dry.fits({"P": meadow}, {})


def test_an_open_role_takes_its_value_from_the_state():
    keys = {"T": "kite"}
    assert parse_need("holder T = A")({("holder", "kite"): "Mira"}, keys) is None
    assert keys == {"T": "kite", "A": "Mira"}
    keys = {"N": 5, "K": 2}
    assert parse_need("M = N - K")({}, keys) is None
    assert keys["M"] == 3
    assert finds("holder T = A", {"T"}) == "A"
    assert finds("holder T = A", {"A"}) is None


@pytest.mark.parametrize("deed, keys, state", [
    ("holder T = B", {"T": "kite", "B": "Omar"}, {("holder", "kite"): "Omar"}),
    ("lost T", {"T": "kite"}, {("lost", "kite"): True, ("holder", "kite"): "Mira"}),
    ("not holder T", {"T": "kite"}, {}),
    ("count A S = N - K", {"A": "Mira", "S": "figs", "N": 5, "K": 2},
     {("count", "Mira", "figs"): 3, ("holder", "kite"): "Mira"}),
    ("weather sky = rain", {}, {("weather", "sky"): "rain", ("holder", "kite"): "Mira"}),
    ("friends A B", {"A": "Mira", "B": "Omar"}, {("friends", "Mira", "Omar"): True, ("holder", "kite"): "Mira"})])
def test_deeds(deed, keys, state):
    world = {("holder", "kite"): "Mira"}
    parse_deed(deed)(world, keys)
    assert world == state


@pytest.mark.parametrize("text", ["holder T ~ A", "A", "holder T = A B C"])
def test_statements_that_are_none(text):
    with pytest.raises(RuleError, match=re.escape(repr(text)) if text != "holder T = A B C" else "A B C"):
        parse_need(text)


def test_a_deed_that_compares_is_none():
    with pytest.raises(RuleError, match="use ="):
        parse_deed("count A S > 3")


# --- lint -----------------------------------------------------------------------------------------------------------

GOOD = ["{A} nodded at {T}.", *[f"{{A}} saw {{T}} {n} times." for n in range(11)]]


@pytest.mark.parametrize("head, texts, fault", [
    ("nod A T", GOOD, None),
    ("nod A T", GOOD[1:], "11 phrasings, fewer than 12"),
    ("nod A T", [*GOOD, GOOD[0]], "a phrasing stands twice"),
    ("end_nod A T", GOOD, "an ending without a line `title:`"),
    ("nod A T", [*GOOD, "{A} saw {T} \N{EM DASH} twice."], "not ASCII"),
    ("nod A T", [*GOOD, "{A} saw {T}"], "does not end a sentence"),
    ("nod A T", [*GOOD, '"Look, said {A}, and saw {T}.'], "odd number of quotation marks"),
    ("nod A T\nneeds: holder T = B", GOOD, "role B stands in a statement"),
    ("nod A T", [f"(T food) {text}" for text in GOOD], "no phrasing that always fits"),
    ("nod A B T", [text.replace("{A}", "{B.he}") for text in GOOD], "no phrasing that always fits"),
    ("nod A T\ndoes: known T", GOOD, "introduces T without {T.a}"),
    ("nod A T\ndoes: known A", [text.replace("{A}", "{A.he}") for text in GOOD], "introduces A without {A.intro}")])
def test_lint_names_the_fault(head, texts, fault):
    kind = read_kinds(f"== {head}\n" + "\n".join(f"- {text}" for text in texts), "test")[0]
    found = lint.faults(kind)
    assert found == [] if fault is None else any(fault in line for line in found), found


def test_a_pronoun_may_stand_for_who_was_named_first_and_only_once_all_are_known():
    kind = read_kinds("== meet A B\ndoes: known B\n- Behind the oak stood {B.intro}.\n- {A} met {B.intro}.", "test")[0]
    assert [phrasing.leads for phrasing in kind.phrasings] == [False, True]
    assert kind.brings  # so the next sentence names A again: whose "he" would it be?
    assert not read_kinds("== sit A\ndoes: known A\n- {A.intro} sat.", "test")[0].brings


@pytest.mark.parametrize("text, distinct", [
    ("{A} met {B}, and {B.he} laughed.", True), ("{A} told {B} about {A.his} hat.", False),
    ("{B} gave {A} {A.his} hat.", True), ("{A} met {B}.", False)])
def test_pronouns_that_need_two_different_ones(text, distinct):
    kind = read_kinds(f"== meet A B\n- {text}", "test")[0]
    assert kind.phrasings[0].distinct is distinct

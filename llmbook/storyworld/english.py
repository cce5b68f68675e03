"""Name or pronoun, subject or object: what English wants at a place in a phrasing, seen from the words around it."""

import re

_SAID = """said asked cried called whispered answered shouted replied laughed sighed added begged explained muttered
    grumbled declared admitted promised agreed wondered giggled sobbed groaned announced insisted offered suggested
    warned yelled murmured exclaimed chuckled puffed panted sniffed squeaked decided"""
_OBJECT = """to with from at of beside behind towards about on by past round near into over without around under
    against taken gave given handed let helped thanked hugged lent sent showed taught brought offered met followed
    took"""
_PERHAPS = "for like after before told made found saw"
_PAST = """had was were could would should might must did went got ran came said saw knew put took found gave made
    thought felt held stood sat lay kept told left lost met heard let set hid fell flew began sang ate drank slept
    woke wrote read rode drew grew threw blew shook spoke broke chose bit hit hurt cut shut caught taught bought
    brought fought built sent spent lent meant swept wept crept leapt slid hung swung clung flung stuck struck dug
    spun won rang sank swam bent tore wore swore bore led fed sped fled paid laid has is does lit rose stole trod
    wound understood forgot forgave became overslept sprang shot spread stung spat dealt showed"""
_ADVERB = """never only just still nearly almost always soon even really simply quite also then now slowly quickly
    [a-z]+ly at\\ once no\\ longer"""


def _any(words: str) -> str:
    return "|".join(words.replace("\\ ", "_").split()).replace("_", " ")


_AFTER_SPEECH = re.compile(rf"\b(?:{_any(_SAID)}) $")
_AFTER_PREPOSITION = re.compile(rf"\b(?:{_any(_OBJECT)}) $", re.IGNORECASE)
_AFTER_EITHER = re.compile(rf"\b(?:{_any(_PERHAPS)}) $", re.IGNORECASE)  # "after her", but "after she had gone"
_VERB = re.compile(rf" (?:(?:{_any(_ADVERB)}) )?(?:{_any(_PAST)}|[a-z]+ed)\b")
_SPEAKS = re.compile(rf" (?:{_any(_SAID)}|called|told|said|wanted to know|thought)\b")
_ASKED = re.compile(r'[!?]" $')
_BEGINNING = re.compile(r'(?:[.!?] |(?:^|\s)"|\." )$')


def begins_sentence(before: str, after: str = "") -> bool:
    """Whether a new sentence begins between these texts, of which the first is not empty.

    After a question in quotation marks one does, unless it is somebody who asks it: '"Why?" the baker asked'.
    """
    if _ASKED.search(before):
        return not _SPEAKS.match(after)
    return bool(before) and bool(_BEGINNING.search(before))


def subject_form(before: str, after: str) -> str:
    """The form of `{A}` between these texts: "s" (name or she), "o" (name or her), "n" (the name, to be safe)."""
    if after.startswith(", who") or _AFTER_SPEECH.search(before):
        return "n"
    if _AFTER_PREPOSITION.search(before):
        return "o"
    if _VERB.match(after):
        return "s"
    if _AFTER_EITHER.search(before):
        return "o"
    return "s" if not before or begins_sentence(before, after) else "n"


def genitive_form(after: str) -> str:
    """The form of `{A's}`: "g" (Mira's or her) before a noun, "ng" where it stands alone and her would be hers."""
    return "g" if after.startswith(" ") and not _VERB.match(after) else "ng"

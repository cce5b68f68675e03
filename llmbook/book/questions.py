"""Fifty questions about this book and about Python, where their answers stand, and how an answer can be checked.

They were written before any search saw them, in a reader's words rather than the passage's where that was possible.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["QUESTIONS", "Question"]


class Question(NamedTuple):
    """A question, the names of passages that answer it, and words of which a right answer has one."""

    text: str
    places: tuple[str, ...]
    answers: tuple[str, ...]

    def is_answered_by(self, text: str) -> bool:
        """Whether one of the answers stands in a text as words of its own."""
        return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) for answer in self.answers)


QUESTIONS = tuple(Question(text, tuple(places.split()), tuple(answers.split("|"))) for text, places, answers in (
    ("How many values can a byte have?", "2.2", "256"),
    ("Who invented the compression method that became byte-pair encoding?", "2.3", "Gage"),
    ("How large is the vocabulary of GPT-2?", "2.9", "50,257|50257"),
    ("Which special token stands between two documents?", "2.10", "endoftext"),
    ("What is the length of a token's embedding called?", "2.13", "d_model"),
    ("What is the step called in which each word collects information from the others?", "3.1", "attention"),
    ("Which function turns scores into weights that add up to one?", "3.3", "softmax"),
    ("What is the name of the vector that says what a token is looking for?", "3.4", "query"),
    ("What is the standard deviation of a dot product of d random features?", "3.5", "sqrt|square root|√d"),
    ("What hides the words that come later from a language model?", "3.6", "causal mask|mask"),
    ("What sets some numbers to zero at random while a network trains?", "3.7", "dropout"),
    ("How can a model avoid computing the keys of old tokens again?", "3.10", "cache|key-value cache"),
    ("What do you call the first word when most heads look at it for no reason?", "3.13", "attention sink|sink"),
    ("How many parameters does GPT-3 have?", "1.7", "175 billion"),
    ("How many tokens did GPT-3 read in its training?", "1.8 D.6", "300 billion"),
    ("What did one training run of GPT-3 cost?", "1.9", "4.6 million|$4.6"),
    ("Which model was trained on financial text?", "1.10", "BloombergGPT"),
    ("What kind of learning makes its own labels?", "1.5", "self-supervised"),
    ("What is a model called that counts pairs of words?", "1.3", "bigram"),
    ("What is a model called that is trained once on broad data and then adapted to many tasks?", "1.2",
     "foundation model"),
    ("How many operations does one training token cost for each parameter?", "1.9 D.7", "6|six"),
    ("What is a file called that the system reads from disk only where one looks?", "D.6", "memory map|memory-map"),
    ("What is it called when every process computes the gradient of its own half of the batch?", "D.5",
     "data parallelism|data parallel|DDP"),
    ("What is the method called that trains adapters over a model of four bits?", "E.7", "QLoRA"),
    ("Which library has set the file layout for adapters?", "E.8", "PEFT"),
    ("Which exception comes when an assert statement fails?", "assert", "AssertionError"),
    ("How do I write a function without a name?", "lambda", "lambda"),
    ("How do I leave a loop early?", "break", "break"),
    ("How do I skip the rest of a loop's body and go on with the next round?", "continue", "continue"),
    ("Which statement does nothing at all?", "pass", "pass"),
    ("What does a function give back if its return has no value?", "return", "None"),
    ("What is the real part of 3j?", "imaginary", "0.0|0|zero"),
    ("Is there a limit to the size of an integer?", "integers", "no|no limit|memory"),
    ("Which statement lets an inner function change a variable of the function around it?", "nonlocal", "nonlocal"),
    ("Which exception is raised when I delete a name that does not exist?", "del", "NameError"),
    ("What does -1**2 give?", "power", "-1"),
    ("Which method decides whether an object counts as true?", "truth booleans", "__bool__|__len__|bool"),
    ("What are names with two underscores on both sides called?", "id-classes", "dunder"),
    ("How can I write three dots as an object?", "bltin-ellipsis-object", "Ellipsis|..."),
    ("Which special method is called at the start of a with block?", "with context-managers", "__enter__|enter"),
    ("Which module lets me step through a program line by line?", "debugger", "pdb"),
    ("What kind of function contains the yield keyword?", "yield", "generator"),
    ("What is the bitwise inversion of x?", "unary", "-(x+1)|-x-1|-(x + 1)"),
    ("What does a shift to the right by n bits divide by?", "shifting", "pow(2,n)|2^n|2**n|pow(2, n)"),
    ("Which character may stand between the digits of a number to make it readable?", "integers floating imaginary",
     "underscore|underscores"),
    ("Which character stands in brackets to take a range of a list?", "slicings", "colon|:"),
    ("What happens if I use raise alone while no exception is active?", "raise", "RuntimeError"),
    ("Which value stays when I give the same key of a dictionary twice?", "dict", "last|the last"),
    ("How do I suspend a coroutine until something is ready?", "await", "await"),
    ("Which brackets make a list?", "lists", "square"),
))

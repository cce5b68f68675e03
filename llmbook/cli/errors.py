"""What is said when something is wrong: one line with what, the value, and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UsageError", "naming", "one_line", "plain_reason"]


class UsageError(Exception):
    """What the reader asked for cannot be: a wrong argument or setting. Exit code 2."""


# What to do about an error of the system that comes without advice.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "it is a folder: give a file",
    errno.ENOTDIR: "a part of the path is a file: give another folder",
    errno.EACCES: "you may not use it: change its permissions, or give another path",
    errno.EPERM: "you may not use it: change its permissions, or give another path",
    errno.EROFS: "give a folder that can be written to",
    errno.EEXIST: "it is there already: give another name",
    errno.ENOSPC: "free some space, or give another --out; then the same command goes on",
    errno.EDQUOT: "your share of the disk is used up: free some, then the same command goes on",
    errno.EFBIG: "the disk takes no file of this size: give another --out",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 4096`",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "its links go round in a circle: give the real path",
    errno.ENOMEM: "memory ran out: lower batch_size, or take a smaller model",
    errno.EIO: "the disk or its connection fails: copy the file elsewhere, then try again",
}
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad allocation|"
                            r"invalid buffer size|cannot allocate memory", re.IGNORECASE)
_BYTES = re.compile(r"(?:allocate|buffer size:?)\s+([\d.]+)\s*(bytes|[KMGT]i?B)?", re.IGNORECASE)


@contextmanager
def naming(what: str | Path) -> Iterator[None]:
    """Errors inside name `what`, a file or a setting, where they do not yet.

    Raises ValueError in place of an error of text encoding, which does not know its file.
    """
    try:
        yield
    except UnicodeError as error:
        raise ValueError(f"{what} is not UTF-8 ({_encoding_problem(error)}): save it as UTF-8, or give another "
                         "file") from error
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(what)
        raise
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply to be read: give another file") from error


def _encoding_problem(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start:,} is 0x{error.object[error.start]:02x}"
    if isinstance(error, UnicodeEncodeError):
        return f"character {error.start:,} is {error.object[error.start]!r}, which has no {error.encoding.upper()}"
    return str(error)


# An exception that another one quotes, as in "is damaged (KeyError('tokens'))".
_QUOTED = re.compile(r"""\b([A-Z]\w*)?Error\((?:(["'])(.*?)\2)?(?:, .*?)?\)(?=$|[\s):;,])""")
# Sentences of the libraries below that say what is wrong and not what to do.
_ADVICE = (
    ("is not a tokenizer file", "give another file, or write it again with llmbook.text.save_tokenizer"),
    ("holds no entry", "give a file with at least two"),
    ("unknown configuration keys", "take them out, or save the model again"),
    ("missing configuration keys", "add them, or save the model again"),
    ("does not fit its configuration", "download the folder again, or save the model anew"),
    ("does not fit the model", "save the model again, or copy the whole folder again"),
)


def plain_reason(error: BaseException | str) -> str:
    """What an exception says, in words for a reader: without the names of Python's exceptions."""
    text = " ".join((repr(error) if isinstance(error, BaseException) else error).split())

    def in_words(found: re.Match[str]) -> str:
        kind, _, inside = found.groups()
        if kind == "Key":
            return f"it has no {inside!r}"
        if kind in ("Type", "Attribute", "Index") or not inside:
            return "it holds something else than it should"
        if kind == "Recursion":
            return "it is nested too deeply"
        return inside if kind != "UnicodeDecode" else "it is not UTF-8"

    return _QUOTED.sub(in_words, text)


def one_line(error: BaseException) -> str:
    """An error in one line, with a remedy where it brings none itself."""
    text = plain_reason(str(error))
    for sentence, advice in _ADVICE:
        if sentence in text and advice.split(",")[0] not in text:
            text = f"{text}: {advice}"
    if isinstance(error, OSError) and error.errno is not None:
        return _system_error(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)):
        return _out_of_memory(text)
    if isinstance(error, UnicodeError):
        return f"text that is not UTF-8 ({_encoding_problem(error)}): save it as UTF-8, or take the character out"
    if isinstance(error, KeyError) or not text:
        return f"{type(error).__name__}: {text or 'no more is known'}: --debug shows where it comes from"
    if isinstance(error, UsageError | ValueError | OSError | ArithmeticError | ImportError | Warning):
        return text
    if isinstance(error, RuntimeError) and ": " in text and "\n" not in str(error):
        return text
    return f"{type(error).__name__}: {text}: --debug shows where it comes from"


def _system_error(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = " -> ".join(names)
    what = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno, "check the path, or give another")
    return ": ".join(part for part in (where, what, remedy) if part)


def _out_of_memory(text: str) -> str:
    found = _BYTES.search(text)
    asked = ""
    if found:
        amount, unit = found.groups()
        asked = (f" ({float(amount) / 1e9:,.1f} GB were asked for at once)" if unit in (None, "bytes")
                 else f" ({amount} {unit} were asked for at once)")
    return (f"memory ran out{asked}: lower batch_size (and raise accumulation_steps to train the same), lower "
            "context_length, or take a smaller model")

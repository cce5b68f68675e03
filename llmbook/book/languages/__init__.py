"""The words of figures, of pictures that move and of exercise checks in the reader's language.

English is what the code says. `zh.json` holds what to say instead in 简体中文: English text -> translation, in which
"{}" stands for whatever a figure or a check puts there, and "{0}", "{1}" for the same in the translation. What has no
translation stays English.

The language is that of the folder that a notebook runs in (`notebooks/zh`), or of the environment variable
`LLMBOOK_LANGUAGE`, which goes first.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

__all__ = ["catalogue", "language", "patterns", "said"]

FOLDER = Path(__file__).parent


def language() -> str:
    """The reader's language, such as "zh"; "" for English, also where there is no catalogue."""
    name = os.environ.get("LLMBOOK_LANGUAGE", "")
    if not name:
        with suppress(OSError):  # the working directory may be gone
            here = Path.cwd()
            name = here.name if here.parent.name == "notebooks" else ""
    return name if re.fullmatch(r"[a-z]{2}", name) and (FOLDER / f"{name}.json").is_file() else ""


@lru_cache
def catalogue(name: str) -> dict[str, dict[str, str]]:
    """A language's texts by where they are used.

    These are "figures", "pictures" (that move), "exercises", "pages" of the web edition and the "theme" around them.
    """
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@lru_cache
def patterns(name: str, section: str | None = None) -> tuple[tuple[str, str], ...]:
    """(regular expression for a whole English text, what to say instead), that with the most words of its own first."""
    texts = {key: text for part, found in catalogue(name).items() if section in (None, part)
             for key, text in found.items()}
    special = sorted(texts, key=lambda key: len(key.replace("{}", "")), reverse=True)
    return tuple(("(.*?)".join(map(re.escape, key.split("{}"))), texts[key]) for key in special)


def said(text: str) -> str:
    """A text in the reader's language, line by line where it is not known as a whole."""
    name = language()
    return _said(text, patterns(name)) if name and text.strip() else text


def _said(text: str, known: tuple[tuple[str, str], ...]) -> str:
    for pattern, instead in known:
        match = re.fullmatch(pattern, text, re.DOTALL)
        if match:
            return instead.format(*(_said(part, known) for part in match.groups()))
    lines = text.split("\n")
    return "\n".join(_said(line, known) for line in lines) if len(lines) > 1 else text

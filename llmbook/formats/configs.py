"""Other people's settings, checked: the types they must have, and whether a name is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Fraction", "RotarySettings", "Settings", "Size", "read_settings"]

Size = Annotated[int, Field(ge=1)]
"""A whole number, at least 1. True is none."""
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
"""A number between 0 and 1, such as the number under a norm's root."""


class Settings(BaseModel):
    """Settings of one family, each with its type. A class of its own says which, and with which defaults.

    Names that it does not know are let through, because files hold many that change nothing. But a name that is almost
    one of its own, which is missing, is a misspelling, and its value would be lost without a word.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=(), validate_by_name=False)


class RotarySettings(Settings):
    """`rope_parameters` or `rope_scaling`. Names that are not known are refused, since they may slow the turning."""

    rope_type: str | None = None
    type: str | None = None  # its name in older files
    rope_theta: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: Size | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] | None = None

    @property
    def kind(self) -> str:
        """How positions are slowed down, as `rotary_frequencies` names it."""
        return self.rope_type or self.type or "default"

    def scaling(self, original_context: int | None, context: int) -> dict[str, Any] | None:
        """The `rope_scaling` of our configurations; None if nothing is scaled. It is checked there, too.

        Args:
            original_context: a setting outside that goes first. context: what the model was trained on if none says.
        """
        needed = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
        if self.kind not in needed:
            raise ValueError(f"rotary scaling {self.kind!r} is not supported: {', '.join(needed)} are")
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                raise ValueError(f"the setting {name!r} = {value!r} of rotary scaling {self.kind!r} is not known: take "
                                 "it out if it changes nothing")
        values: dict[str, Any] = {"rope_type": self.kind, **{name: getattr(self, name) for name in needed[self.kind]}}
        if self.kind == "llama3":
            values["original_max_position_embeddings"] = (
                original_context or self.original_max_position_embeddings or context)
        return None if self.kind == "default" else values


def read_settings(kind: type[Settings], found: Mapping[str, Any]) -> Any:
    """Settings of a file as an object of the class `kind`.

    Raises ValueError that names a setting which is missing, misspelt, or has a value that our models do not have.
    """
    known = {field.alias or name for name, field in kind.model_fields.items()}
    for name in found:
        if name not in known and not name.startswith("_") and (near := difflib.get_close_matches(
                name, known - set(found), 1, cutoff=0.85)):
            raise ValueError(f"the setting {name!r} is not known: correct it to {near[0]!r}, or take it out")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        raise ValueError(f"the setting {name!r} is missing: download the file again")
    if problem["type"] == "literal_error":
        raise ValueError(f"{name} = {problem['input']!r} is not supported (only {problem['ctx']['expected']})")
    value = repr(problem["input"])
    value = value if len(value) <= 60 else value[:57] + "..."
    raise ValueError(f"{name} = {value} is not supported ({problem['msg'][0].lower()}{problem['msg'][1:]})")

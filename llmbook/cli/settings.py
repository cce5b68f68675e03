"""The settings of a run: a TOML file and what the command line changes of it, checked by pydantic.

Each section is a pydantic model. The fields of [model] are those of the configuration class of the family that `kind`
names (`llmbook.families`), those of [training] are `TrainingConfig`'s and a few of the command's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ..families import Family, family_of_kind, known_families
from .errors import UsageError, naming

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

__all__ = ["DataSection", "Settings", "TextPart", "changes_from", "nearest"]

LARGEST = 2**31 - 1
"""The largest whole number in settings: what PyTorch's shapes and loops take without overflowing anywhere."""


class Section(BaseModel):
    """A section of the file: unknown keys are refused, and text is not taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class TextPart(Section):
    """One of the texts of `[data] train`, with its share of the batches."""

    path: str = Field(min_length=1)
    share: float | None = Field(None, ge=0)


def _as_parts(value: Any) -> Any:
    """One path, or a list of paths and tables, as a list of tables."""
    items = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in items]


class TopSection(Section):
    """What stands before the first section."""

    out: str | None = Field(None, min_length=1)


class DataSection(Section):
    """[data]: the texts and the tokenizer for them."""

    train: Annotated[list[TextPart], BeforeValidator(_as_parts)] | None = Field(None, min_length=1)
    validation: Annotated[float, Field(gt=0, lt=1)] | Annotated[str, Field(min_length=1)] | None = None
    tokenizer: Annotated[int, Field(ge=257, le=LARGEST)] | Annotated[str, Field(min_length=1)] | None = None
    text_column: str = Field("text", min_length=1)
    separator: str | None = Field(None, min_length=1)
    stories: int | None = Field(None, ge=1, le=LARGEST)
    documents: bool = False


class CheckpointsSection(Section):
    """[checkpoints]: when to write one and where."""

    folder: str | None = Field(None, min_length=1)
    every_steps: int | None = Field(None, gt=0, le=LARGEST)
    every_minutes: float | None = Field(None, gt=0)
    keep: int = Field(2, gt=0, le=LARGEST)
    allow: list[str] = []


class LogSection(Section):
    """[log]: where the numbers of each step go."""

    csv: str | None = Field(None, min_length=1)
    tensorboard: str | None = Field(None, min_length=1)


PARALLEL = ("ddp", "fsdp")


def training_section() -> type[Section]:
    """[training]: `TrainingConfig`'s fields, and batch_size, seed and parallel, which the command itself uses."""
    from ..training import TrainingConfig

    own = {"batch_size": (Annotated[int, Field(ge=1, le=LARGEST)], 8),
           "seed": (Annotated[int, Field(ge=0, le=2**63 - 1)], 0),
           "parallel": (Literal[PARALLEL], "ddp"),
           "max_norm": (Annotated[float, Field(gt=0, allow_inf_nan=True)] | None, 1.0)}
    return create_model("TrainingSection", __base__=Section, **{**_fields_of(TrainingConfig), **own})


def model_section(kind: str) -> type[Section]:
    """[model]: the fields of a family's configuration class."""
    config_class = family_of_kind(kind).config_class
    own = {"kind": (str, "gpt")}
    if hasattr(config_class, "preset"):
        own["preset"] = (str | None, None)
    return create_model("ModelSection", __base__=Section, **{**_fields_of(config_class), **own})


def _fields_of(config_class: type) -> dict[str, tuple[Any, Any]]:
    """A dataclass's fields as pydantic's: what TOML writes as a list may be a tuple."""
    hints = typing.get_type_hints(config_class)
    return {item.name: (_bounded(hints[item.name]), _default_of(item))
            for item in dataclasses.fields(config_class) if item.init}


def _default_of(item: dataclasses.Field) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return None if item.default_factory is dataclasses.MISSING else item.default_factory()


def _bounded(hint: Any) -> Any:
    """A type hint in which whole numbers have a bound and lists may stand for tuples."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return Annotated[int, Field(le=LARGEST)]
    if origin is tuple:
        return Annotated[hint, Field(strict=False)]
    if origin in (typing.Union, type(int | str)):
        return typing.Union[tuple(_bounded(one) for one in inner)]  # noqa: UP007 (made while the program runs)
    return hint


def nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant by a name that is not known."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"


class Settings:
    """The sections of a TOML file and what was changed on the command line, checked.

    Args:
        path: of the file; None for none.
        changes: (section, key, value, where it was said), of the command line.
        sections: those that the command has; "" is what stands before the first.
        defaults: section -> key -> value, where the command's own differ from the sections'.

    Attributes:
        values: section -> key -> value, of what was given.
        defaults: the same, of what was not.

    Raises UsageError that names the place of what is wrong.
    """

    SECTIONS = ("", "model", "data", "training", "checkpoints", "log")

    def __init__(self, path: str | None, changes: Sequence[tuple[str, str, Any, str]] = (),
                 sections: Sequence[str] | None = None, defaults: Mapping[str, Mapping[str, Any]] | None = None):
        self.path, self.values, self.places = path, {}, {}
        for key, value in (_read_toml(path) if path else {}).items():
            if isinstance(value, dict):
                self.values[key] = dict(value)
            else:
                self.values.setdefault("", {})[key] = value
        for section, key, value, place in changes:
            self.values.setdefault(section, {})[key] = value
            self.places[section, key] = place
        self.schema = self._schema()
        self.sections = tuple(sections or self.SECTIONS)
        self._check_names()
        self.values = {section: self._checked(section) for section in self.sections}
        self.defaults = {section: self._defaults(section, (defaults or {}).get(section))
                         for section in self.sections}

    def _schema(self) -> dict[str, type[Section]]:
        kinds = [family.kind for family in known_families() if family.kind]
        kind = self.values.get("model", {}).get("kind", kinds[0])
        if kind not in kinds:
            raise UsageError(f"{self.place('model', 'kind')} is {kind!r}: {nearest(str(kind), kinds)}")
        return {"": TopSection, "model": model_section(kind), "data": DataSection, "training": training_section(),
                "checkpoints": CheckpointsSection, "log": LogSection}

    def _check_names(self) -> None:
        for section, keys in self.values.items():
            if section not in self.sections:
                raise UsageError(f"{self._origin(section, next(iter(keys), ''))}: no section [{section}]: "
                                 f"{nearest(section, [name for name in self.sections if name])}")
            known = self.schema[section].model_fields
            for key in keys:
                if key in self.sections and key not in known:
                    raise UsageError(f"{self._origin(section, key)}: {key} must be a section: write [{key}] and its "
                                     "settings below")
                if key not in known:
                    at = [name for name in self.sections if name and key in self.schema[name].model_fields]
                    hint = f"it belongs in [{at[0]}]" if at else self._other_kind(section, key) or nearest(
                        key, list(known))
                    raise UsageError(f"{self.place(section, key)} is not known: {hint}")

    def _other_kind(self, section: str, key: str) -> str:
        """The kind of model that has a setting which this one has not."""
        others = [family.kind for family in known_families() if section == "model" and family.kind]
        others = [kind for kind in others if key in model_section(kind).model_fields]
        return f'it goes with kind = "{others[0]}": set that too, or leave it out' if others else ""

    def _checked(self, section: str) -> dict[str, Any]:
        given = self.values.get(section, {})
        try:
            checked = self.schema[section].model_validate(given)
        except ValidationError as error:
            raise UsageError(self._explain(section, error)) from None
        # What was given stays as it was written, but for tuples and whole numbers that stand for fractions.
        return {key: value if key == "train" else getattr(checked, key) for key, value in given.items()}

    def _explain(self, section: str, error: ValidationError) -> str:
        problems = error.errors(include_url=False)
        key = str(problems[0]["loc"][0])
        problems = [problem for problem in problems if problem["loc"][0] == key]
        worse = [problem for problem in problems if not _is_type_problem(problem)]
        problems = worse[:1] or problems
        first = problems[0]
        inside = [str(part + 1) if isinstance(part, int) else part for part in first["loc"][1:]]
        where = self.place(section, key)
        if section == "data" and key == "train" and inside:
            where += f", text {', '.join(inside)}"
        if first["type"] == "extra_forbidden":
            return f"{where} is not known: {nearest(inside[-1], list(TextPart.model_fields))}"
        if first["type"] == "missing" and section == "data":
            return f'{where} is missing: write {{path = "stories", share = 0.7}}'
        if first["type"] in ("missing", "too_long", "too_short"):  # of a tuple
            value = self.values[section][key]
            if value == []:
                return f"{where} is []: give at least one"
            return f"{where} is {_short(value)}: it must be a list of {_length_of(self.schema[section], key)}"
        wanted = list(dict.fromkeys(_wanted(problem) for problem in problems))
        if first["type"] == "model_type":
            wanted = ["text in quotation marks", "a table such as {path = \"stories\", share = 0.7}"]
        return f"{where} is {_short(first['input'])}: it must be {' or '.join(wanted)}"

    def _defaults(self, section: str, changed: Mapping[str, Any] | None) -> dict[str, Any]:
        own = {name: item.default for name, item in self.schema[section].model_fields.items()}
        return {**own, **(changed or {})}

    def _origin(self, section: str, key: str = "") -> str:
        return self.places.get((section, key)) or self.path or "command line"

    def place(self, section: str, key: str) -> str:
        """Where a setting stands, for a message."""
        return f"{self._origin(section, key)}: " + (f"[{section}] {key}" if section else key)

    def get(self, section: str, key: str, default: Any = None) -> Any:
        """A setting, or what it is if it was not given."""
        found = self.values[section].get(key, self.defaults[section].get(key))
        return default if found is None else found

    def need(self, section: str, key: str) -> Any:
        """A setting that has no default. Raises UsageError if it was not given."""
        if key not in self.values[section]:
            raise UsageError(f"{self.place(section, key) if self.path else '--' + key.replace('_', '-')} is missing: "
                             "add it")
        return self.values[section][key]

    def make(self, section: str, build: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """A configuration from a section; what it refuses is said with the place."""
        try:
            return build(*arguments, **more)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            named = [key for key in self.values[section] if re.search(rf"\b{key}\b", text)]
            raise UsageError(f"{self._origin(section, *named[:1])}: [{section}] {text}") from None

    @property
    def family(self) -> Family:
        """That of the model."""
        return family_of_kind(self.get("model", "kind"))

    def model_config(self, n_vocab: int) -> Any:
        """The configuration of the model to build; its vocabulary is the tokenizer's if not given."""
        given = dict(self.values["model"])
        given.pop("kind", None)
        config_class = self.family.config_class
        preset = given.pop("preset", None)
        if given.setdefault("vocab_size", n_vocab) < n_vocab:
            raise UsageError(f"{self.place('model', 'vocab_size')} is {given['vocab_size']:,}, the tokenizer has "
                             f"{n_vocab:,} tokens: raise it, or leave it out")
        if preset:
            return self.make("model", config_class.preset, preset, **given)
        return self.make("model", config_class, **given)

    def complete(self, note: Mapping[str, Any]) -> dict[str, Any]:
        """The flat settings of a run, `section.key`, with the defaults for what they do not give: two runs are alike
        if these are."""
        full = {f"{section}.{key}": value for section in ("model", "data", "training") if section in self.sections
                for key, value in self.defaults[section].items()}
        if "model.vocab_size" in full:
            full["model.vocab_size"] = None  # the tokenizer's
        preset = note.get("model.preset")
        if preset and "model" in self.sections:
            config_class = family_of_kind(note.get("model.kind", "gpt")).config_class
            sizes = dataclasses.asdict(config_class.preset(preset))
            full.update({f"model.{key}": value for key, value in sizes.items() if key != "vocab_size"})
        full.update(note)
        full.pop("model.preset", None)
        return full


def _is_type_problem(problem: Mapping[str, Any]) -> bool:
    return problem["type"].endswith("_type") or problem["type"] in ("int_from_float", "none_required")


_WANTED = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
           "string_type": "text in quotation marks", "bool_type": "true or false", "list_type": "a list",
           "sequence_str": "a list", "is_instance_of": "a list",  # of Sequence
           "tuple_type": "a list", "dict_type": "a table", "mapping_type": "a table", "model_type": "a table",
           "model_attributes_type": "a table", "finite_number": "a finite number",
           "string_too_short": "text that is not empty"}
_BOUNDS = {"greater_than": ("above", "gt"), "greater_than_equal": ("at least", "ge"),
           "less_than": ("below", "lt"), "less_than_equal": ("at most", "le")}


def _wanted(problem: Mapping[str, Any]) -> str:
    """What a value must be, in words, from one of pydantic's errors."""
    kind, details = problem["type"], problem.get("ctx", {})
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"{word} {details[name]:,}"
    if kind == "literal_error":
        return f"one of {details['expected']}"
    if kind == "value_error":
        return str(details["error"])
    return _WANTED.get(kind, problem["msg"])


def _length_of(section: type[Section], key: str) -> str:
    length = len([part for part in typing.get_args(section.model_fields[key].annotation) if part is not Ellipsis])
    return {2: "two", 3: "three"}.get(length, str(length))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with naming(path):
            text = Path(path).read_bytes().decode("utf-8").removeprefix("\ufeff")  # some editors' mark
            return tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: `llmbook pretrain --example > {path}` writes one that runs") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a file of settings; `llmbook pretrain "
                         "--example` prints one") from None
    except ValueError as error:  # not TOML, or not UTF-8
        text = str(error).removeprefix(path).strip(": ")
        raise UsageError(f"{path} cannot be read as TOML ({text}): mend it there; `llmbook pretrain --example` prints "
                         "one that runs") from None


def changes_from(arguments: argparse.Namespace) -> list[tuple[str, str, Any, str]]:
    """What the command line changes: `--set section.key=value`, and the flags of single settings."""
    changes = []
    for text in arguments.set:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().rpartition(".")
        if not equals or not key:
            raise UsageError(f"--set {text}: write --set section.key=value, such as --set training.max_steps=100")
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = value.strip()  # a shell takes quotation marks away: --set model.kind="llama"
        changes.append((section, key, value, f"--set {name.strip()}"))
    for section, key in (("", "out"), ("training", "max_steps"), ("training", "batch_size"),
                         ("training", "learning_rate"), ("training", "device"), ("training", "precision")):
        if (value := getattr(arguments, key, None)) is not None:
            changes.append((section, key, value, f"--{key.replace('_', '-')}"))
    return changes

"""Models as files that other programs read: a Hugging Face folder for transformers, a GGUF file for llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..families import family_of
from ..files import is_first, read_json, replace_file
from ..model_files import check_whole, save_model
from .gguf_tokenizers import PIECES
from .gguf_writer import check_quantization, write_gguf
from .model_cards import model_card, modelfile
from .pretrained import open_pretrained
from .pretrained_tokenizer import PretrainedTokenizer, check_size
from .tokenizer_runners import pieces_of
from .tokenizer_writers import described, tokenizer_for_gguf
from .tokenizers import save_tokenizer_files

__all__ = ["check_target", "convert_for_hugging_face", "export", "save_for_hugging_face"]

_KINDS = ("huggingface", "gguf")
_GENERATION = {"temperature": (Real, 0, 100), "top_k": (Integral, 1, 10**9), "top_p": (Real, 0, 1),
               "max_new_tokens": (Integral, 1, 10**9)}  # name: kind, least, most


def export(model: nn.Module, tokenizer: Any, folder_or_file: str | Path, to: str = "huggingface", *,
           quantization: str | None = None, name: str | None = None, chat_template: str | None = None,
           begins_with_end: bool = False, generation: Mapping[str, Any] | None = None, about: str = "",
           licence: str = "") -> Path:
    """Write a model and its tokenizer so that other programs run them; returns what was written.

    Args:
        model: a GPT, Llama or Gemma, in the number format in which its weights shall lie in a Hugging Face folder.
        tokenizer: its tokenizer: the book's own, tiktoken's, or that of the files that it came from.
        folder_or_file: an empty or new folder; for a GGUF also a new file, name.gguf.
        to: "huggingface": config.json, model.safetensors, generation_config.json, README.md and the tokenizer's files,
            which transformers loads. "gguf": one file for llama.cpp, and a Modelfile for Ollama beside it.
        quantization: the number format of a GGUF file's matrices: F32, F16 (if None), BF16, Q8_0, Q4_0 or Q4_1.
        name: of the model; that of the folder or file if None.
        chat_template: how the model reads conversations, in Jinja2; that of its tokenizer if None.
        begins_with_end: put `<|endoftext|>` before each text, as in the training of the storyteller.
        generation: how it should draw: temperature, top_k, top_p, max_new_tokens.
        about, licence: what its card says of it, and the name of its licence.

    All is written under another name and renamed when it is whole. Raises, with nothing written, FileExistsError if
    something is there already; ValueError for another `to`, quantization or setting of `generation`, a model with
    adapters, one that was quantised, or that the other program does not compute, a tokenizer of another model, and a
    format whose blocks do not fit a row.
    """
    target = check_target(folder_or_file, to)
    if to == "gguf":
        check_quantization(quantization := quantization or "F16")
    elif quantization is not None:
        raise ValueError(f"quantization is {quantization!r}: a Hugging Face folder has the model's own number format; "
                         "give to='gguf', or turn the model with model.bfloat16()")
    _check_generation(generation or {})
    if any(hasattr(module, "adapters") for module in model.modules()):  # of `llmbook.lora`
        raise ValueError(f"this {type(model).__name__} has adapters, which no other program computes: "
                         "merge_lora(model) first")
    check_whole(model).find_layout()
    tokens = described(tokenizer, chat_template, begins_with_end)
    check_size(tokens, model.config.vocab_size, target)
    name = name or target.resolve().name.removesuffix(".gguf")
    if Path(name).name != name:
        raise ValueError(f"name is {name!r}: it becomes the name of a file, so give it no slashes")
    with _staged(target) as staged:
        if to == "huggingface":
            _write_folder(model, tokens, staged, name, generation or {}, about, licence)
        else:
            alone = target.suffix == ".gguf"
            file = staged / (target.name if alone else f"{name}-{quantization}.gguf")
            said = {"general.name": name, "general.description": about, "general.license": licence}
            write_gguf(model, file, quantization, {**{key: text for key, text in said.items() if text},
                                                   **tokenizer_for_gguf(tokens, model.config.vocab_size)})
            if is_first():
                for_ollama = modelfile(tokens, file.name, model.config.context_length, generation)
                replace_file(staged / "Modelfile", for_ollama.encode())
            if is_first() and alone:
                os.replace(staged / "Modelfile", _modelfile_beside(target))
                os.replace(file, target)
                return target
            card = model_card(model, tokens, name, file.name, quantization, about, licence)
            if is_first():
                replace_file(staged / "README.md", card.encode())
        if is_first():
            _move_into_place(staged, target)
    return target


def _check_generation(generation: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that is not known or cannot be."""
    for name, value in generation.items():
        if name not in _GENERATION:
            raise ValueError(f"generation has {name!r}: it can have {', '.join(_GENERATION)}")
        kind, least, most = _GENERATION[name]
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            word = "a whole number" if kind is Integral else "a number"
            raise ValueError(f"generation has {name} = {value!r}: it must be {word} from {least:g} to {most:g}")


def check_target(folder_or_file: str | Path, to: str) -> Path:
    """The path that `export` may write to. Raises ValueError for another `to`, FileExistsError if something is there,
    NotADirectoryError if what should be the folder above is a file."""
    if to not in _KINDS:
        raise ValueError(f"to is {to!r}: it must be {' or '.join(map(repr, _KINDS))}")
    target = Path(folder_or_file).expanduser()
    if not is_first():
        return target
    if to == "gguf" and target.suffix == ".gguf":
        for path in (target, _modelfile_beside(target)):
            if path.exists():
                raise FileExistsError(f"{path} exists: give another name, or remove it")
    elif target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file: give a folder" + (", or a name that ends in .gguf" if to == "gguf"
                                                                      else ""))
    elif target.exists() and (found := sorted(path.name for path in target.iterdir())):
        raise FileExistsError(f"{target} holds {found[0]}, which export did not write: give an empty or a new folder")
    above = next(path for path in target.absolute().parents if path.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file: give a folder elsewhere")
    return target


def _modelfile_beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}.Modelfile")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into. It goes in the end, and after an error also the folders above it that
    were made for it. Only the first process of a team has one."""
    folder = target.absolute().with_name(f".{target.name}.{os.getpid()}.tmp")
    if not is_first():
        yield folder
        return
    made = [path for path in folder.parents if not path.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, target: Path) -> None:
    """The staged folder becomes the target."""
    if target.exists():
        target.rmdir()  # it was empty; OSError if somebody wrote into it meanwhile
    folder.rename(target)


def _write_folder(model: nn.Module, tokens: PretrainedTokenizer, folder: Path, name: str,
                  generation: Mapping[str, Any], about: str, licence: str) -> None:
    """All of a Hugging Face folder. Every process of a team calls it."""
    save_model(model, folder, layout="huggingface")
    if not is_first():
        return
    save_tokenizer_files(tokens, folder)
    known = {**tokens.description.vocabulary, **tokens.description.added}
    ids = {"bos_token_id": tokens.bos_id, "pad_token_id": known.get(tokens.named.get("pad_token", ""))}
    ends = list(tokens.end_ids)
    if ids["pad_token_id"] is None and ends:  # the library asks for one as soon as texts of unequal length are batched
        ids["pad_token_id"] = ends[0]
    config = read_json(folder / "config.json")
    if config["model_type"] == "qwen2" and pieces_of(tokens.description) != PIECES["qwen2"].pattern:
        warnings.warn("transformers' AutoTokenizer cuts texts for every qwen2 as Qwen2's own tokenizer does, and this "
                      "one does not: load it there with PreTrainedTokenizerFast.from_pretrained(folder)", stacklevel=3)
    config |= {**ids, "eos_token_id": ends[0] if ends else None}
    replace_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    draws = {"do_sample": True, **generation} if generation.get("temperature", 0) > 0 else dict(generation)
    if draws.get("temperature") == 0:
        draws = {**draws, "do_sample": False}
        del draws["temperature"]
    settings = {**{key: value for key, value in ids.items() if value is not None},
                **read_json(folder / "generation_config.json"), **draws}
    replace_file(folder / "generation_config.json", (json.dumps(settings, indent=2) + "\n").encode())
    number_format = str(next(model.parameters()).dtype).removeprefix("torch.")
    card = model_card(model, tokens, name, None, number_format, about, licence)
    replace_file(folder / "README.md", card.encode())


def save_for_hugging_face(model: nn.Module, folder: str | Path) -> None:
    """Save a model so that the transformers library loads it: config.json and model.safetensors.

    Raises FileExistsError if the folder holds a model already, ValueError for a model that the library has no family
    for. `save_model(model, folder, layout="huggingface")` does this, and `export` with all that belongs to a model.
    """
    family_of(model).find_layout().save(model, folder)


def convert_for_hugging_face(source: str | Path, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model's settings and weights as its Hugging Face folder: config.json and model.safetensors.

    Args:
        source: a .gguf file or a Hugging Face folder. folder: must be empty or new.
        dtype: number format of the weights that are written.

    Raises FileNotFoundError, ValueError as `open_pretrained`; FileExistsError if the folder holds something.
    """
    save_model(open_pretrained(Path(source)).build(dtype), folder, layout="huggingface")

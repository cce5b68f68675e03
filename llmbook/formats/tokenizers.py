"""Tokenizers of other people's models: Hugging Face folders and GGUF files, with their BOS, ends and chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiktoken

from ..files import replace_file
from .gguf import GGUFCheckpoint
from .gguf_tokenizers import tokenizer_of_gguf
from .pretrained_tokenizer import PretrainedTokenizer, adapt, bos_token, check_size, encode_prompt, end_tokens
from .tokenizer_descriptions import Description

__all__ = ["PretrainedTokenizer", "Tokenizer", "adapt", "bos_token", "encode_prompt", "end_tokens",
           "save_tokenizer_files", "tokenizer_of", "tokenizer_of_folder"]

Tokenizer = tiktoken.Encoding | PretrainedTokenizer
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def tokenizer_of(path: Path, vocab_size: int | None = None) -> PretrainedTokenizer | None:
    """The tokenizer in a Hugging Face folder or a GGUF file; None for a folder that has none. Raises ValueError."""
    if Path(path).is_dir():
        return tokenizer_of_folder(path, vocab_size)
    return tokenizer_of_gguf(GGUFCheckpoint(Path(path)), vocab_size)


def tokenizer_of_folder(folder: Path, vocab_size: int | None = None) -> PretrainedTokenizer | None:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, and what the files beside it say.

    Args:
        folder: may also hold tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
            chat_template.jinja, which give BOS, the ends and the chat template.
        vocab_size: rows of the model's embedding, which must be as many as the tokens, or a few more.

    Returns None if there is no tokenizer. Raises ValueError, with the file's name, for one that is damaged, of a kind
    that is not known, or of another model.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _without_json(folder)
    content = _read_object(path)
    settings = {**_read_object(folder / "special_tokens_map.json"), **_read_object(folder / "tokenizer_config.json")}
    named = {name: token for name in _NAMED if (token := _content_of(settings.get(name)))}
    try:
        content = {**content, "added_tokens": _all_added(content, settings, named, vocab_size)}
        description = Description(content)
        prefix = None
        if "add_bos_token" in settings or "add_eos_token" in settings:  # then transformers sets the prefix anew
            known = {**description.vocabulary, **description.added}
            wanted = settings.get("add_bos_token") and named.get("bos_token") in known
            prefix = [known[named["bos_token"]]] if wanted else []
        tokenizer = PretrainedTokenizer(description, folder.resolve().name, named, _ends_in(folder), prefix,
                                        _template_in(folder, settings))
    except ValueError as error:
        raise ValueError(f"{path} is not a tokenizer that can be read: {error}. Download it again, or save it anew "
                         "with transformers' save_pretrained") from None
    check_size(tokenizer, vocab_size, path)
    return tokenizer


def _without_json(folder: Path) -> None:
    """None, or ValueError if the tokenizer is there in another format."""
    for name in ("tokenizer.model", "tekken.json", "vocab.json", "vocab.txt"):
        if (folder / name).is_file():
            raise ValueError(f"{folder} has its tokenizer in {name} only: write a tokenizer.json with transformers, "
                             f"AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object, {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not a JSON file that can be read ({error}): download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {str(content)[:40]!r}, no JSON object: download it again")
    return content


def _content_of(token: Any) -> str | None:
    """A special token's text, which files give as such or as an object."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _all_added(content: Mapping[str, Any], settings: Mapping[str, Any], named: Mapping[str, str],
               vocab_size: int | None) -> list[Any]:
    """The added tokens, and those that the settings alone know; without any that the embedding has no row for."""
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocab, list):
        vocab = {entry[0]: place for place, entry in enumerate(vocab) if isinstance(entry, list) and entry
                 and isinstance(entry[0], str)}
    vocab = vocab if isinstance(vocab, Mapping) else {}
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        return added
    entries = [entry for entry in added if isinstance(entry, Mapping)]
    known, ids = {entry.get("content") for entry in entries}, {entry.get("id") for entry in entries}
    for number, entry in (settings.get("added_tokens_decoder") or {}).items():
        if isinstance(entry, Mapping) and str(number).isdecimal() and entry.get("content") not in known and int(
                number) not in ids:
            added = [*added, {**entry, "id": int(number)}]
            known.add(entry.get("content"))
    for token in named.values():
        if token not in known and token in vocab:
            added = [*added, {"content": token, "id": vocab[token], "special": True}]
            known.add(token)
    return [entry for entry in added if vocab_size is None or not isinstance(entry, Mapping)
            or entry.get("content") in {*vocab, *named.values()} or type(entry.get("id")) is not int
            or entry["id"] < vocab_size]


def _ends_in(folder: Path) -> Iterator[int]:
    """The ids that end a text, as a folder's files list them."""
    for name in ("generation_config.json", "config.json"):
        ends = _read_object(folder / name).get("eos_token_id")
        for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
            if type(end) is not int or end < 0:
                raise ValueError(f"eos_token_id in {name} is {str(ends)[:40]}: it must be an id, or a list of ids")
            yield end


def _template_in(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or a setting; of several, the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
    if isinstance(template, Mapping):
        template = template.get("default")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"chat_template in tokenizer_config.json is {str(template)[:40]}: it must be text")
    return template


def save_tokenizer_files(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that `tokenizer_of_folder`, and transformers, give the same ids, BOS, ends and template.

    Writes tokenizer.json, tokenizer_config.json and generation_config.json (its eos_token_id; what else stands there
    stays). Raises ValueError for a tokenizer of which no description is known.
    """
    known, folder = adapt(tokenizer), Path(folder)
    if (description := known.description) is None:
        raise ValueError(f"a tokenizer of the type {type(tokenizer).__name__} cannot be written in Hugging Face's "
                         "format: llmbook.text.save_tokenizer keeps it for llmbook")
    tokens = {number: token for token, number in {**description.vocabulary, **description.added}.items()}
    named = dict(known.named)
    if known.end_ids and "eos_token" not in named and known.end_ids[0] in tokens:
        named["eos_token"] = tokens[known.end_ids[0]]
    single = [{"SpecialToken": {"id": tokens[number], "type_id": 0}} for number in known.prefix]
    before = {"type": "TemplateProcessing", "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}],
              "pair": [*single, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
              "special_tokens": {tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
                                 for number in known.prefix}}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    if known.chat_template is not None:
        settings["chat_template"] = known.chat_template
    generation = _read_object(folder / "generation_config.json")
    generation |= {"eos_token_id": list(known.end_ids)} if known.end_ids else {}
    for name, content in (("tokenizer.json", {**description.content, "post_processor": before}),
                          ("tokenizer_config.json", settings), ("generation_config.json", generation)):
        replace_file(folder / name, json.dumps(content, ensure_ascii=False, indent=0).encode("utf-8"))

"""What accompanies a model that leaves: its card for readers, and a Modelfile for Ollama."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from .chat_templates import CHATML, render_chat
from .pretrained_tokenizer import PretrainedTokenizer

__all__ = ["model_card", "modelfile"]

_CHATML_FOR_OLLAMA = ("{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
                      "<|im_start|>assistant\n")


def model_card(model: nn.Module, tokenizer: PretrainedTokenizer, name: str, file: str | None, number_format: str,
               about: str = "", licence: str = "") -> str:
    """A README.md with the few lines that the hub reads, what the model is, and how to load it.

    Args:
        name: of the model. file: of the GGUF file; None for a Hugging Face folder.
        number_format: of the weights, such as "float32" or "Q8_0".
        about: what it was trained on and for, which only you know. licence: its name, such as "apache-2.0".
    """
    front = {"library_name": "gguf" if file else "transformers", "pipeline_tag": "text-generation", "tags": ["llmbook"]}
    if licence:
        front["license"] = licence
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    config, count = model.config, sum(parameter.numel() for parameter in model.parameters())
    rows = {"family": type(model).__name__, "parameters": f"{count:,}", "layers": f"{config.n_layers:,}",
            "width": f"{config.d_model:,}", "context": f"{config.context_length:,} tokens",
            "vocabulary": f"{tokenizer.n_vocab:,} tokens", "weights": number_format,
            "conversations": "a chat template is included" if tokenizer.chat_template else "none: it continues texts"}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    if file:
        use = f"```sh\nllama-cli -m {file} -p \"Once\"\nollama create {ollama_name(name)} -f Modelfile\n```"
    else:
        use = ("```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
               "model = AutoModelForCausalLM.from_pretrained(\".\")\n"
               "tokenizer = AutoTokenizer.from_pretrained(\".\")\n```")
    said = about.strip() or "Nothing was said about its training. Add what it has learned from, and what it is for."
    return f"---\n{head}\n---\n\n# {name}\n\n{said}\n\n| | |\n|---|---|\n{table}\n\n{use}\n\nWritten by llmbook.\n"


def ollama_name(name: str) -> str:
    """A name that Ollama accepts: small letters, digits, dots, hyphens and underscores."""
    kept = "".join(character if character.isascii() and (character.isalnum() or character in "._-") else "-"
                   for character in name.lower())
    return kept.strip("._-") or "model"


def modelfile(tokenizer: PretrainedTokenizer, file: str, context_length: int,
              generation: Mapping[str, Any] | None = None) -> str:
    """Ollama's description of a model beside its GGUF file: how it is asked, where it stops, how it draws.

    Conversations are written out for ChatML. A model with another chat template gets no TEMPLATE: Ollama looks then
    whether it knows the template inside the file. One without any continues what it is given.

    Source: the Modelfile and template pages of Ollama's documentation (2024).
    """
    lines = [f"FROM ./{file}"]
    template, system = _template(tokenizer)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines.append(f"PARAMETER num_ctx {context_length}")
    names = {number: token for token, number in tokenizer.runner.special.items()}
    lines += [f"PARAMETER stop {json.dumps(names[number], ensure_ascii=False)}" for number in tokenizer.end_ids
              if number in names]
    known = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "max_new_tokens": "num_predict",
             "seed": "seed"}
    lines += [f"PARAMETER {known[name]} {value}" for name, value in (generation or {}).items() if name in known]
    return "\n".join(lines) + "\n"


def _template(tokenizer: PretrainedTokenizer) -> tuple[str | None, str]:
    """Ollama's template for a tokenizer's conversations, None if we know none; and what its own template says first."""
    if tokenizer.chat_template is None:
        return "{{ .Prompt }}", ""
    asked = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."},
             {"role": "user", "content": "Why?"}]
    whole = [{"role": "system", "content": "Be kind."}, *asked]
    try:
        if render_chat(tokenizer.chat_template, whole, **tokenizer.named) != render_chat(CHATML, whole):
            return None, ""
        short = render_chat(tokenizer.chat_template, asked, **tokenizer.named)
    except ValueError:
        return None, ""
    first, rest = short[: -len(render_chat(CHATML, asked))], render_chat(CHATML, asked)
    if not short.endswith(rest) or first and not first.startswith("<|im_start|>system\n"):
        return None, ""
    return _CHATML_FOR_OLLAMA, first.removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>\n")

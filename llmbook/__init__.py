"""A book you can run: a ChatGPT-like language model from scratch in PyTorch, in notebooks, and the package they build.

The names that a script needs most can be imported from here, `from llmbook import GPT, generate`; each is loaded when
it is asked for, so that `import llmbook` itself loads next to nothing. Everything has its home in a module of its own:

- `llmbook.text`, `attention`, `gpt`, `training`, `generation`, `llama`, `open_weights`, `classification`,
  `instructions`, `lora`, `preferences`, `quantization`: what the chapters teach, written from their notebooks
- `llmbook.formats`: files that other programs read and write
- `llmbook.scale`: checkpoints, several processes, text larger than memory
- `llmbook.serve`: a server in OpenAI's protocol, and a page to chat with it
- `llmbook.cli`: the command `llmbook`
- `llmbook.assets`, `devices`, `families`, `files`, `protocols`: what all of these stand on
- `llmbook.book`: figures, widgets, corpora and exercises, for the notebooks

Importing it also tells the threads that PyTorch computes with to wait for each other asleep, not spinning, unless you
have said otherwise: see `llmbook.threads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbook.threads import let_threads_sleep

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` imports them one by one
    from llmbook.assets import fetch
    from llmbook.attention import KeyValueCache, MultiHeadAttention
    from llmbook.classification import TextClassifier, classify, finetune_classifier
    from llmbook.generation import generate, stream
    from llmbook.gpt import GPT, GPTConfig
    from llmbook.instructions import InstructionDataset, finetune_instructions, format_prompt, respond
    from llmbook.llama import Llama, LlamaConfig
    from llmbook.lora import add_lora, load_adapter, merge_lora, save_adapter
    from llmbook.open_weights import Chat, load_pretrained
    from llmbook.preferences import PreferenceDataset, RewardModel, finetune_preferences
    from llmbook.text import NextTokenDataset, load_tokenizer, make_dataloader, train_bpe
    from llmbook.training import TrainingConfig, evaluate, load_model, next_token_loss, save_model, train

__version__ = "0.2.0"

_HOMES = {
    "assets": ("fetch",),
    "attention": ("KeyValueCache", "MultiHeadAttention"),
    "classification": ("TextClassifier", "classify", "finetune_classifier"),
    "generation": ("generate", "stream"),
    "gpt": ("GPT", "GPTConfig"),
    "instructions": ("InstructionDataset", "finetune_instructions", "format_prompt", "respond"),
    "llama": ("Llama", "LlamaConfig"),
    "lora": ("add_lora", "load_adapter", "merge_lora", "save_adapter"),
    "open_weights": ("Chat", "load_pretrained"),
    "preferences": ("PreferenceDataset", "RewardModel", "finetune_preferences"),
    "text": ("NextTokenDataset", "load_tokenizer", "make_dataloader", "train_bpe"),
    "training": ("TrainingConfig", "evaluate", "load_model", "next_token_loss", "save_model", "train"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: F822  (found by __getattr__)
    "GPT", "Chat", "GPTConfig", "InstructionDataset", "KeyValueCache", "Llama", "LlamaConfig", "MultiHeadAttention",
    "NextTokenDataset", "PreferenceDataset", "RewardModel", "TextClassifier", "TrainingConfig", "add_lora",
    "classify", "evaluate", "fetch", "finetune_classifier", "finetune_instructions", "finetune_preferences",
    "format_prompt", "generate", "load_adapter", "load_model", "load_pretrained", "load_tokenizer",
    "make_dataloader", "merge_lora", "next_token_loss", "respond", "save_adapter", "save_model", "stream", "train",
    "train_bpe",
]

let_threads_sleep()


def __getattr__(name: str) -> object:
    """Import one of the names above, or one of the modules, at its first use (PEP 562)."""
    import importlib

    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"llmbook.{_HOME_OF[name]}"), name)
        globals()[name] = value  # the next use finds it without coming here
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"llmbook.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"llmbook.{name}":  # the module is there, and something that it needs is not
                raise
    raise AttributeError(f"module 'llmbook' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

"""The command line's words: commands, flags, and their help."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from .errors import UsageError

__all__ = ["make_parser"]

DEFAULT_MODEL = "smollm2-135m-instruct"


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's, which keeps quiet about what it could not write."""
        if message:
            (file or sys.stderr).write(message)


def _run(name: str) -> Callable[[argparse.Namespace], int]:
    """A command's function, imported when it is called."""
    return lambda arguments: importlib.import_module(f".{name}", __package__).run(arguments)


def _number(kind: type, least: float | None = None, most: float | None = None) -> Callable[[str], float]:
    """A converter for argparse, with bounds."""
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} must be {word}") from None
        if value != value or abs(value) == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} must be a finite number")
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be at least {least:,}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{text!r} must be at most {most:,}")
        return value

    return convert


def make_parser(version: str) -> Parser:
    """The parser of the whole command line; `run` of what it gives is the command's function."""
    parser = Parser("llmbook", description="Train language models and let them write. Each command has its own --help "
                    "with an example.", epilog="Where the shell does not find `llmbook`, activate the environment in "
                    "which it is installed, or write `python -m llmbook`, which is the same.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"llmbook {version}")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)

    def command(name: str, about: str, example: str) -> Parser:
        added = commands.add_parser(name, help=about, description=about, epilog=f"example: {example}",
                                    allow_abbrev=False)
        added.set_defaults(run=_run(name))
        added.add_argument("--debug", action="store_true", help="show where in the program an error comes from")
        return added

    _pretrain(command)
    _tokenize(command)
    _finetune(command)
    _generate(command)
    _chat(command)
    _serve(command)
    _export(command)
    return parser


def _pretrain(command: Callable[..., Parser]) -> None:
    one = command("pretrain", "Train a model from nothing on text.", "llmbook pretrain --example > run.toml && "
                  "llmbook pretrain run.toml")
    one.add_argument("settings", nargs="?", metavar="run.toml", help="a file of settings")
    one.add_argument("--example", action="store_true", help="print a file of settings that runs, with explanations")
    one.add_argument("--dry-run", action="store_true", help="say what it would cost, memory and time; write nothing")
    _training_flags(one)


def _tokenize(command: Callable[..., Parser]) -> None:
    one = command("tokenize", "Turn text into a folder of token files, to train on it again and again.",
                  "llmbook tokenize stories/ tokens/")
    one.add_argument("source", help="a text file, a folder of them, or JSON Lines")
    one.add_argument("folder", help="where the token files go")
    one.add_argument("--tokenizer", default="gpt2", metavar="NAME_OR_FILE_OR_N",
                     help="gpt2 (if not given), a file, or how many tokens to learn: from all of the text, or from 10 "
                     "MB that are taken from every file and from all over it")
    one.add_argument("--text-column", default="text", metavar="KEY", help="the key of the text in JSON Lines (text)")
    one.add_argument("--separator", metavar="TEXT", help="where a text file is cut into documents, such as "
                     "'<|endoftext|>'; a whole file is one if not given")
    one.add_argument("--processes", type=_number(int), metavar="N",
                     help="how many work at it; as many as cores if not given")


def _finetune(command: Callable[..., Parser]) -> None:
    one = command("finetune", "Train a model that exists to follow instructions.", "llmbook finetune --data "
                  "instructions.json --out runs/assistant")
    one.add_argument("--data", required=True, metavar="FILE", help="JSON or JSON Lines; each entry has an instruction, "
                     "an output, and an input if there is one")
    _model_flags(one)
    one.add_argument("--validation", default="0.1", metavar="SHARE_OR_FILE", help="what is held out (0.1)")
    one.add_argument("--epochs", type=_number(int), default=1, metavar="N", help="passes over the entries (1)")
    one.add_argument("--style", choices=("chatml", "alpaca", "plain"), help="how an instruction is written; that of "
                     "the model's tokenizer if not given")
    _training_flags(one)


def _generate(command: Callable[..., Parser]) -> None:
    one = command("generate", "Let a model go on with a text.", "llmbook generate --model runs/example \"The list is\"")
    one.add_argument("prompt", help="the text to go on with; '' lets the model begin; - reads it from the standard "
                     "input")
    _model_flags(one)
    _writing_flags(one, 0.7)


def _chat(command: Callable[..., Parser]) -> None:
    one = command("chat", "Talk with a model that was trained to.", f"llmbook chat --model {DEFAULT_MODEL}")
    _model_flags(one)
    _writing_flags(one, None)
    one.add_argument("--system", metavar="TEXT", help="the first message, which says how to answer; '' for none "
                     "(that it is a helpful assistant, where the model has a place for that)")


def _serve(command: Callable[..., Parser]) -> None:
    one = command("serve", "Let programs and browsers talk with a model, over HTTP in OpenAI's protocol.",
                  f"llmbook serve --model {DEFAULT_MODEL}, then open http://127.0.0.1:8000")
    _model_flags(one)
    one.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where it listens: 127.0.0.1 (if not "
                     "given) for programs on this machine, 0.0.0.0 for everybody who can reach it")
    one.add_argument("--port", type=_number(int, 0, 65535), default=8000, metavar="N", help="0 takes any (8000)")
    one.add_argument("--api-key", metavar="KEY", help="what clients must send; also taken from the environment, "
                     "LLMBOOK_API_KEY, where other users of this machine do not see it (none)")
    one.add_argument("--rows", type=_number(int, 1), default=8, metavar="N", help="requests that are answered at the "
                     "same time (8)")
    one.add_argument("--waiting", type=_number(int, 0), default=64, metavar="N", help="requests that may wait beyond "
                     "those (64)")
    one.add_argument("--max-tokens", type=_number(int, 1), default=1024, metavar="N", help="of an answer (1024)")
    one.add_argument("--context", type=_number(int, 2), metavar="N", help="tokens of a conversation (all that the "
                     "model can look at)")
    one.add_argument("--seconds", type=_number(float, 1), default=600.0, metavar="X", help="of a request (600)")
    one.add_argument("--allow-origin", action="append", metavar="URL", help="a site whose pages may ask, "
                     "such as https://example.org; may be repeated")
    one.add_argument("--allow-host", action="append", metavar="NAME", help="a further name under which "
                     "the server is called; may be repeated")
    one.add_argument("--tools", action="append", metavar="NAME", help="a tool that the model was taught to call, as in "
                     "chapter 9: calculator; clients carry the calls out (none)")
    one.set_defaults(compile=False)
    _weight_flags(one)


def _export(command: Callable[..., Parser]) -> None:
    one = command("export", "Write a model so that other programs run it.", "llmbook export --model runs/assistant "
                  "--to gguf --quantization Q8_0 assistant.gguf")
    one.add_argument("target", metavar="FOLDER_OR_FILE", help="an empty or new folder; for --to gguf also a new file, "
                     "name.gguf")
    _model_flags(one)
    one.add_argument("--to", choices=("huggingface", "gguf"), default="huggingface", help="a folder for transformers "
                     "(if not given), or a file for llama.cpp and Ollama")
    one.add_argument("--quantization", metavar="NAME", help="the number format of a GGUF file's matrices: F32, F16 (if "
                     "not given), BF16, Q8_0, Q4_0 or Q4_1")
    one.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="the number "
                     "format of the weights in a folder (float32)")
    one.add_argument("--adapter", metavar="FOLDER", help="of LoRA, to be merged into the weights first")
    one.add_argument("--name", help="of the model; that of the folder or file if not given")
    one.add_argument("--about", default="", metavar="TEXT", help="what the model's card says of it")
    one.add_argument("--licence", default="", metavar="NAME", help="its licence, such as apache-2.0")


def _training_flags(added: Parser) -> None:
    added.add_argument("--out", metavar="FOLDER", help="where everything is written; the same command goes on there "
                       "after an interruption")
    added.add_argument("--max-steps", type=_number(int), metavar="N", help="optimizer steps")
    added.add_argument("--batch-size", type=_number(int), metavar="N", help="examples in a batch")
    added.add_argument("--learning-rate", type=_number(float), metavar="X", help="the highest learning rate")
    added.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; the best there is if not given")
    added.add_argument("--precision", choices=("auto", "float32", "bfloat16"), help="the number format of matrix "
                       "products; weights stay float32 (auto: bfloat16 where the hardware computes it)")
    added.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                       help="any other setting, such as training.weight_decay=0.05; may be repeated")


def _model_flags(added: Parser) -> None:
    added.add_argument("--model", metavar="NAME_OR_FOLDER", default=DEFAULT_MODEL, help=f"{DEFAULT_MODEL} (if not "
                       "given), storyteller, gpt2, ...; the folder of a run, also while it trains; a folder that "
                       "llmbook or Hugging Face wrote; a .gguf file")
    added.add_argument("--tokenizer", metavar="NAME_OR_FILE", help="gpt2 or a file, for a model saved without one")


def _writing_flags(added: Parser, temperature: float | None) -> None:
    added.add_argument("--max-new-tokens", type=_number(int, 0), default=200, metavar="N",
                       help="stop after so many (200)")
    added.add_argument("--temperature", type=_number(float, 0), default=temperature, metavar="X",
                       help="0: always the likeliest token; higher: more varied (0.7)")
    added.add_argument("--top-k", type=_number(int, 1), metavar="N", help="choose among the N likeliest tokens only")
    added.add_argument("--top-p", type=_number(float, 1e-9, 1), metavar="X", help="choose among the likeliest tokens "
                       "that together have this probability")
    added.add_argument("--seed", type=_number(int, 0, 2**63 - 1), metavar="N", help="the same text each time")
    _weight_flags(added)
    added.add_argument("--compile", action="store_true", help="compile the model first: worth the wait on a GPU, for "
                       "long texts")


def _weight_flags(added: Parser) -> None:
    added.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; the best there is if not given")
    added.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="the number format of the weights; "
                       "the fastest that the device computes well if not given")
    added.add_argument("--bits", type=int, choices=(4, 8), help="round the weights to so many bits: faster, and nearly "
                       "as good; 4 on a CPU only")


"""Small tokenizers of each kind, trained here, and texts that are hard to tokenize."""

import functools
import random
from pathlib import Path

import tokenizers

from tests.support.pretrained import STORY, saved

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

LLAMA3_PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                 r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@functools.cache
def trained_tokenizer(style: str) -> "tokenizers.Tokenizer":
    """A byte-level one of 400 tokens; in the style "sentencepiece", one of characters with bytes to fall back on."""
    cut, bytes_ = tokenizers.pre_tokenizers, tokenizers.pre_tokenizers.ByteLevel
    first, special = [], SPECIAL
    if style == "sentencepiece":
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.pre_tokenizer, tokenizer.decoder = cut.Metaspace(), tokenizers.decoders.Sequence([
            tokenizers.decoders.Replace("\u2581", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
        special = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.decoder, first = tokenizers.decoders.ByteLevel(), sorted(bytes_.alphabet())
        tokenizer.pre_tokenizer = {
            "gpt-2": bytes_(add_prefix_space=False),
            "nfc": bytes_(add_prefix_space=False),
            "prefix space": bytes_(add_prefix_space=True),
            "llama-bpe": cut.Sequence([cut.Split(tokenizers.Regex(LLAMA3_PIECES), "isolated"),
                                       bytes_(add_prefix_space=False, use_regex=False)]),
            "smollm": cut.Sequence([cut.Digits(individual_digits=True), bytes_(add_prefix_space=False)]),
        }[style]
        if style == "nfc":
            tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.train_from_iterator([STORY], tokenizers.trainers.BpeTrainer(
        vocab_size=700 if style == "sentencepiece" else 400, special_tokens=special, initial_alphabet=first,
        show_progress=False))
    return tokenizer

TEXTS = [
    "", " ", "  ", "\n", "\t", "\r\n", " \n \n", "a", " a", "a ", "Hello, world!", "  two  spaces ",
    "tab\tand\n\nlines",
    "1", "12", "123", "1234567890", "3.14159 and 1,000,000", " 42 7", "a1b22c333", "x  9",
    "it's we'll they'RE I'd 'tis",
    "IT'S WE'LL", "don\u2019t", "Grüße aus Köln: Straße, Äpfel", "Wir müssen's machen.", "你好,世界。", "一二三 四五",
    "日本語のテキスト", "Привет, мир", "مرحبا ١٢٣", "नमस्ते", "😀", "👩\u200d👩\u200d👧 family 👍🏽", "e\u0301 vs é",
    "½ ² Ⅷ ①", "a\u00a0b\u2003c", "def f(x):\n    return x**2  # square\n", "{\"key\": [1, 2, {\"a\": null}]}\n",
    "https://example.org/a?b=c&d=%20", "----\n====", "...!!!???", "\u200b\ufeff", "\x04", "a\x04b \x00\x1f\x7f",
    "\x0b\x0c \x85 \u2028", "   leading\n   and trailing   \n", "<|not special|> <im_end>",
    "\U000e0041\U0010ffff \U00020000",
]

POOL = [*"abcdefgXYZ", *"0123456789", *"    \t\n\n\r", *".,;:!?'\"-_()[]{}<>/\\@#$%^&*+=~`|", "'s", "'ll", "äöüß", "é",
        "e\u0301", "你", "好", "日本", "😀", "👍🏽", "\u00a0", "\u2003", "\u200d", "½", "²", "٣", "क्", "Ж",
        "\x04", "\x00", "\x7f", "\x1c", "\x85", "\u2028", "the ", "ing", "    "]


def random_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(POOL, k=draw.randint(1, 40))) for _ in range(count)]


def with_tokenizer(folder: Path, style: str, vocab_size: int = 410, **changes) -> Path:
    """A tiny Llama and a tokenizer in a folder."""
    saved(folder, vocab_size=vocab_size, **changes)
    trained_tokenizer(style).save(str(folder / "tokenizer.json"))
    return folder

"""Tokenizers of the kinds that real models have, trained here on a little text, as folders and as GGUF files."""

import functools
import json
import random
from pathlib import Path

import gguf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.pretrained import STORY
from tests.support.tokenizer_files import LLAMA3_PIECES, POOL, TEXTS

QWEN2_PIECES = LLAMA3_PIECES.replace("{1,3}", "")
TRAINING = [STORY, *TEXTS * 4]
KINDS = ("gpt2", "smollm", "llama3", "qwen2", "llama2", "mistral", "gemma", "unigram")
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama2": ["<unk>", "<s>", "</s>"],
    "mistral": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "unigram": ["<unk>", "<s>", "</s>"],
}
USER_DEFINED = {"qwen2": ["<think>", "</think>"], "gemma": ["\u2581\u2581", "\u2581\u2581\u2581"]}
SETTINGS = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "add_bos_token": True},
    "unigram": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level(kind: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = {"llama3": LLAMA3_PIECES, "qwen2": QWEN2_PIECES}.get(kind)
    if cut:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        plain = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(cut), "isolated"), plain])
    if kind == "smollm":
        plain = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = plain, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "smollm":  # its vocabulary lacks some bytes
        gone = {"\u0104", "\u0105", "\u013d"}
        alphabet = [character for character in alphabet if character not in gone]
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, show_progress=False, limit_alphabet=len(alphabet)))
    return tokenizer


def _sentencepiece(kind: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # for training alone
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*SPECIAL[kind], *BYTES], show_progress=False, limit_alphabet=90))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in BYTES]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**data, "pre_tokenizer": None}))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "gemma":
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _all_ways(data: dict) -> list[list[str]]:
    """The merges of a file that was converted from tiktoken: every pair that makes a token."""
    ids = data["model"]["vocab"]
    pairs = [(ids[token], ids[token[:place]], ids[token[place:]], token[:place], token[place:])
             for token in ids for place in range(1, len(token)) if token[:place] in ids and token[place:] in ids]
    return [list(pair[3:]) for pair in sorted(pairs)]


@functools.cache
def trained(kind: str) -> str:
    """A tokenizer.json."""
    if kind == "unigram":
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.train_from_iterator(TRAINING, trainers.UnigramTrainer(
            vocab_size=700, special_tokens=SPECIAL[kind], unk_token="<unk>", show_progress=False))
    elif kind in ("llama2", "mistral", "gemma"):
        tokenizer = _sentencepiece(kind)
    else:
        tokenizer = _byte_level(kind)
    data = json.loads(tokenizer.to_str())
    if kind == "llama3":
        data["model"]["merges"] = _all_ways(data)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in SPECIAL[kind]])
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in USER_DEFINED.get(kind, [])])
    if bos := {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "gemma": "<bos>"}.get(kind):
        number = tokenizer.token_to_id(bos)
        before = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                               special_tokens=[(bos, number)])
        tokenizer.post_processor = before if kind != "llama3" else processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), before])
    return tokenizer.to_str()


def folder_of(kind: str, folder: Path, **settings) -> Path:
    """A folder as transformers saves it."""
    import transformers

    own = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(trained(kind)),
                                               **{**SETTINGS[kind], **settings})
    own.save_pretrained(folder)
    return folder


PRE = {"gpt2": "gpt-2", "smollm": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}


def gguf_of(kind: str, path: Path, **settings) -> Path:
    """A GGUF file with the tokenizer alone, as llama.cpp's converter writes it."""
    data = json.loads(trained(kind))
    vocab = dict(data["model"]["vocab"])
    added = {token["content"]: token for token in data["added_tokens"]}
    vocab |= {token: entry["id"] for token, entry in added.items()}
    tokens = sorted(vocab, key=vocab.get)
    writer = gguf.GGUFWriter(path, {"gemma": "gemma3", "qwen2": "qwen2", "gpt2": "gpt2"}.get(kind, "llama"))
    types = [(3 if added[token]["special"] else 4) if token in added else 6 if token in BYTES else 1
             for token in tokens]
    writer.add_tokenizer_model("gpt2" if kind in PRE else "llama")
    if kind in PRE:
        writer.add_tokenizer_pre(PRE[kind])
        writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge
                                 for merge in data["model"]["merges"]])
    else:
        types[tokens.index("<unk>")] = 2
        order = {"".join(merge): -float(place) for place, merge in enumerate(data["model"]["merges"])}
        writer.add_token_scores([order.get(token, -1e4 if types[place] == 1 else 0.0)
                                 for place, token in enumerate(tokens)])
        if kind == "gemma":
            writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                      ("unk_token", writer.add_unk_token_id), ("pad_token", writer.add_pad_token_id)):
        if name in SETTINGS[kind]:
            add(vocab[SETTINGS[kind][name]])
    writer.add_add_bos_token(kind in ("llama3", "llama2", "mistral", "gemma"))
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hard_texts(kind: str, count: int = 2000, seed: int = 0) -> list[str]:
    """Random texts of letters, digits, spaces, Unicode and the kind's own special tokens."""
    draw = random.Random(seed)
    pool = [*POOL * 2, *SPECIAL[kind], *USER_DEFINED.get(kind, []), " <", "\u2581", "<0x41>"]
    texts = ["".join(draw.choices(pool, k=draw.randint(1, 30))) for _ in range(count - len(TEXTS) - 200)]
    anything = ["".join(chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]))
                        for _ in range(draw.randint(1, 12))) for _ in range(200)]
    return [*TEXTS, *texts, *anything]

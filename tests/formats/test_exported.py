"""llmbook.formats.export.export: whole models for other programs, which then write the same, and what it refuses."""

import json
import re

import pytest
import tokenizers as hub
import torch

from llmbook.classification import TextClassifier
from llmbook.formats.export import export
from llmbook.formats.gguf_writer import QUANTIZATIONS
from llmbook.formats.model_cards import modelfile
from llmbook.formats.quantized import quantize
from llmbook.formats.tokenizer_writers import described
from llmbook.formats.tokenizers import tokenizer_of, tokenizer_of_folder
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import add_lora, merge_lora
from llmbook.open_weights import load_pretrained
from llmbook.text import GPT2_PATTERN, train_bpe
from tests.support import llama_server
from tests.support.pretrained import LLAMA3, STORY, shaken
from tests.support.tokenizer_files import LLAMA3_PIECES, TEXTS, random_texts, with_tokenizer

SIZES = {"vocab_size": 310, "context_length": 96, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
         "d_hidden": 96, "rope_base": 1000.0}
GEMMA = {**SIZES, "d_head": 16, "window": 9, "n_layers": 6, "norm_eps": 1e-5}
SCALED = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
MODELS = {  # name: a model whose every number matters
    "GPT": lambda: GPT(GPTConfig(310, 96, 64, 4, 2, 0.1, False)),
    "GPT with biases": lambda: GPT(GPTConfig(310, 96, 64, 4, 2, 0.0, True)),
    "Llama": lambda: Llama(LlamaConfig(**SIZES)),
    "untied": lambda: Llama(LlamaConfig(**SIZES, tie_embeddings=False)),
    "wide heads": lambda: Llama(LlamaConfig(**SIZES, d_head=32)),
    "biases": lambda: Llama(LlamaConfig(**SIZES, qkv_bias=True, out_bias=True)),
    "linear": lambda: Llama(LlamaConfig(**SIZES, rope_scaling={"rope_type": "linear", "factor": 3.0})),
    "llama3": lambda: Llama(LlamaConfig(**SIZES, rope_scaling=SCALED)),
    "Qwen2": lambda: Llama(LlamaConfig(**SIZES, qkv_bias=True)),
    "Qwen3": lambda: Llama(LlamaConfig(**SIZES, qk_norm=True)),
    "SmolLM3": lambda: Llama(LlamaConfig(**{**SIZES, "n_layers": 4}, no_rope_layers=[3])),
    "Gemma": lambda: Gemma(GemmaConfig(**GEMMA)),
}
CHAT = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(STORY, 310, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


def prompts() -> torch.Tensor:
    return torch.randint(0, 300, (6, 5), generator=torch.Generator().manual_seed(1))


def greedy(model, count: int = 20) -> list[list[int]]:
    return generate(model, prompts(), count, temperature=0)[:, 5:].tolist()


# --- what is written comes back ---

@pytest.mark.filterwarnings("ignore:transformers' AutoTokenizer")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("to", ["huggingface", "gguf"])
def test_what_is_exported_comes_back_bit_for_bit(kind, to, tokenizer, tmp_path):
    model = shaken(MODELS[kind]())
    target = tmp_path / ("model.gguf" if to == "gguf" else "model")
    assert export(model, tokenizer, target, to, **({"quantization": "F32"} if to == "gguf" else {})) == target
    again, their = load_pretrained(target, torch.float32, "cpu")
    expected = model.state_dict()
    for name, tensor in again.state_dict().items():
        if name not in expected:  # GPT-2's biases, which other programs always have
            assert name.endswith("qkv.bias") and not tensor.any()
        elif kind == "Gemma" and to == "gguf" and name.endswith("norm.weight"):
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)  # 1 is added and taken off
        else:
            assert torch.equal(tensor, expected[name]), name
    assert greedy(again) == greedy(model)
    assert all(their.encode_ordinary(text) == tokenizer.encode_ordinary(text) for text in [*TEXTS, *random_texts(100)])


@pytest.mark.parametrize("dtype, quantization", [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_half_precision_comes_back_bit_for_bit(dtype, quantization, tokenizer, tmp_path):
    model = shaken(MODELS["Llama"]()).to(dtype)
    export(model, tokenizer, tmp_path / "folder")
    export(model, tokenizer, tmp_path / "model.gguf", "gguf", quantization=quantization)
    for place in ("folder", "model.gguf"):
        again, _ = load_pretrained(tmp_path / place, dtype, "cpu")
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))


def test_a_quantised_file_is_as_near_as_its_bits_allow(tokenizer, tmp_path):
    model, error = shaken(MODELS["untied"]()), {}
    for quantization in QUANTIZATIONS:
        export(model, tokenizer, tmp_path / f"{quantization}.gguf", "gguf", quantization=quantization)
        again, _ = load_pretrained(tmp_path / f"{quantization}.gguf", torch.float32, "cpu")
        parts = [(again.state_dict()[name] - tensor).norm() / tensor.norm()
                 for name, tensor in model.state_dict().items() if "feed_forward." in name]
        error[quantization] = float(sum(parts) / len(parts))
        fine = (again.output.weight - model.output.weight).norm() / model.output.weight.norm()
        assert fine < 0.01  # also in a file of 4 bits
    assert error["F32"] == 0 < error["F16"] < error["BF16"] < error["Q8_0"] < error["Q4_1"] < error["Q4_0"] < 0.12
    assert (tmp_path / "Q4_0.gguf").stat().st_size < (tmp_path / "Q8_0.gguf").stat().st_size < 0.35 * (
        tmp_path / "F32.gguf").stat().st_size


def test_a_merged_adapter_goes_with_the_model(tokenizer, tmp_path):
    model = add_lora(shaken(MODELS["Llama"]()), 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(4))
    expected = greedy(model)
    with pytest.raises(ValueError, match=r"has adapters, which no other program computes: merge_lora\(model\) first"):
        export(model, tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    merge_lora(model)
    export(model, tokenizer, tmp_path / "new")
    assert greedy(load_pretrained(tmp_path / "new", torch.float32, "cpu")[0]) == expected


def test_all_that_belongs_to_a_chat_model_is_written(tokenizer, tmp_path):
    model = shaken(MODELS["Llama"]())
    export(model, tokenizer, tmp_path / "new", name="talker", chat_template=CHAT, begins_with_end=True,
           generation={"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 50}, about="It talks.", licence="mit")
    end, turn = (tokenizer.encode(token, allowed_special="all")[0] for token in ("<|endoftext|>", "<|im_end|>"))
    their = tokenizer_of_folder(tmp_path / "new")
    assert (their.chat_template, their.prefix, set(their.end_ids)) == (CHAT, (end,), {end, turn})
    said = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert said == {"bos_token_id": end, "pad_token_id": end, "eos_token_id": list(their.end_ids), "do_sample": True,
                    "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 50}
    card = (tmp_path / "new" / "README.md").read_text()
    assert card.startswith("---\n") and 'license: "mit"' in card and "# talker\n\nIt talks." in card
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"| parameters | {count:,} |" in card and "| weights | float32 |" in card
    export(model, tokenizer, tmp_path / "talker", "gguf", chat_template=CHAT, quantization="Q8_0",
           generation={"temperature": 0.7, "max_new_tokens": 50})
    assert {path.name for path in (tmp_path / "talker").iterdir()} == {"README.md", "Modelfile", "talker-Q8_0.gguf"}
    assert tokenizer_of(tmp_path / "talker" / "talker-Q8_0.gguf").chat_template == CHAT
    lines = (tmp_path / "talker" / "Modelfile").read_text()
    assert lines.startswith("FROM ./talker-Q8_0.gguf\nTEMPLATE \"\"\"{{- range .Messages }}<|im_start|>{{ .Role }}\n")
    assert 'PARAMETER stop "<|im_end|>"' in lines and "PARAMETER temperature 0.7\nPARAMETER num_predict 50\n" in lines


def test_a_modelfile_says_how_the_model_is_asked(tokenizer):
    base = modelfile(described(tokenizer), "a.gguf", 96)
    assert base.splitlines()[:3] == ["FROM ./a.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 96"]
    assert sorted(base.splitlines()[3:]) == ['PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|im_end|>"']
    first = ("{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}") + CHAT
    kind = modelfile(described(tokenizer, first), "a.gguf", 96)
    assert 'SYSTEM """You are kind."""' in kind and "range .Messages" in kind
    other = modelfile(described(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}"), "a.gguf", 96)
    assert "TEMPLATE" not in other and "SYSTEM" not in other


# --- the programs themselves ---

@pytest.mark.parametrize("kind", ["GPT", "Llama", "llama3", "Qwen3", "Gemma"])
def test_transformers_writes_the_same(kind, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = shaken(MODELS[kind]())
    export(model, tokenizer, tmp_path / "new", begins_with_end=True, chat_template=CHAT)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    ids = prompts()
    found = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
                            eos_token_id=None, pad_token_id=0)
    assert found[:, 5:].tolist() == greedy(model)
    their = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    for text in [*TEXTS, *random_texts(100)]:
        assert their.encode(text, add_special_tokens=False) == tokenizer.encode(text, disallowed_special=()), text
    end = tokenizer.encode("<|endoftext|>", allowed_special="all")
    assert their.encode("The sea") == end + tokenizer.encode("The sea")
    asked = [{"role": "user", "content": "Who?"}]
    assert their.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n")


def test_a_qwen2_with_another_tokenizer_is_warned_of(tokenizer, tmp_path):
    with pytest.warns(UserWarning, match="load it there with PreTrainedTokenizerFast"):
        export(shaken(MODELS["Qwen2"]()), tokenizer, tmp_path / "new")
    transformers = pytest.importorskip("transformers")
    their = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "new")
    for text in [*TEXTS, *random_texts(100)]:
        assert their.encode(text, add_special_tokens=False) == tokenizer.encode(text, disallowed_special=()), text


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.skipif(not llama_server.is_here(), reason=f"needs {llama_server.MISSING}")
def test_llama_cpp_writes_the_same(kind, tokenizer, tmp_path):
    model = shaken(MODELS[kind]())
    export(model, tokenizer, tmp_path / "model.gguf", "gguf", quantization="F32", begins_with_end=True,
           chat_template=CHAT)
    with llama_server.LlamaServer(tmp_path / "model.gguf", 1, 96) as server:
        ids = torch.randint(0, 300, (60, 5), generator=torch.Generator().manual_seed(1))
        logits = model(ids)[:, -1].detach()
        likeliest = logits.argmax(1)
        row = int(((likeliest > 31) & (likeliest < 127)).int().argmax())  # else it may hold back what it wrote
        scores, expected = server.log_probabilities(ids[row].tolist(), 310), logits[row].log_softmax(-1)
        assert max(abs(scores[number] - float(expected[number])) for number in scores) < 0.02
        for text in [*TEXTS, *random_texts(20)]:
            assert server.encode(text) == tokenizer.encode(text, disallowed_special=()), text
        end = tokenizer.encode("<|endoftext|>", allowed_special="all")
        assert server.encode("The sea", begin=True) == end + tokenizer.encode("The sea")
        asked = server.ask("/apply-template", {"messages": [{"role": "user", "content": "Who?"}]})
        assert asked["prompt"] == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
@pytest.mark.skipif(not llama_server.is_here(), reason=f"needs {llama_server.MISSING}")
def test_the_storyteller_tells_the_same_story_in_llama_cpp(tmp_path):
    model, tokenizer = load_pretrained("storyteller", torch.float32, "cpu")
    export(model, tokenizer, tmp_path / "model.gguf", "gguf", quantization="F32", begins_with_end=True)
    start = [*tokenizer.encode("<|endoftext|>", allowed_special="all"), *tokenizer.encode("One morning")]
    expected = generate(model, torch.tensor([start]), 50, temperature=0)[0, len(start):].tolist()
    with llama_server.LlamaServer(tmp_path / "model.gguf", 1, 128) as server:
        assert server.greedy([start], 50) == [expected]


# --- tokenizers ---

@pytest.mark.parametrize("style", ["gpt-2", "smollm", "llama-bpe", "nfc"])
def test_tokenizers_of_other_models_go_through(style, tmp_path):
    model, tokens = load_pretrained(with_tokenizer(tmp_path / "theirs", style), torch.float32, "cpu")
    export(model, tokens, tmp_path / "model.gguf", "gguf", quantization="F32")
    again = tokenizer_of(tmp_path / "model.gguf")
    for text in [*TEXTS, *random_texts(60)]:
        if style != "nfc" or text.isascii():
            assert again.encode(text, allowed_special="all") == tokens.encode(text, allowed_special="all"), text
    assert (set(again.end_ids), again.prefix) == (set(tokens.end_ids), tokens.prefix)
    export(model, again, tmp_path / "ours")  # from the one file into a folder, as with SmolLM2
    runner = hub.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    for text in TEXTS:
        assert runner.encode(text, add_special_tokens=False).ids == again.encode(text, allowed_special="all"), text


def test_rows_that_no_token_has_are_filled(tokenizer, tmp_path):
    model = shaken(Llama(LlamaConfig(**{**SIZES, "vocab_size": 320})))
    export(model, tokenizer, tmp_path / "model.gguf", "gguf")
    again = tokenizer_of(tmp_path / "model.gguf")
    assert again.encode_ordinary(STORY[:2000]) == tokenizer.encode_ordinary(STORY[:2000])


def test_a_tokenizer_that_llama_cpp_does_not_run_is_refused(tmp_path):
    model = shaken(MODELS["Llama"]())
    other = train_bpe(STORY, 310, pattern=GPT2_PATTERN.replace("sdmt", "sdm"))
    with pytest.raises(ValueError, match="llama.cpp knows no tokenizer that cuts a text by .*export to='huggingface'"):
        export(model, other, tmp_path / "new", "gguf")
    export(model, other, tmp_path / "folder")  # transformers does
    their = tokenizer_of_folder(tmp_path / "folder")
    assert their.encode_ordinary("he hadn't") == other.encode_ordinary("he hadn't")
    cut = train_bpe(STORY, 310, pattern=LLAMA3_PIECES)
    export(model, cut, tmp_path / "cut", "gguf")
    again = tokenizer_of(tmp_path / "cut" / "cut-F16.gguf")
    assert all(again.encode_ordinary(text) == cut.encode_ordinary(text) for text in [*TEXTS, *random_texts(60)])

    class Words:
        n_vocab, special_tokens_set = 310, ()

    with pytest.raises(ValueError, match="type Words is not one that other programs run: give one of llmbook.text"):
        export(model, Words(), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "folder"]


# --- what is refused, in one line and with nothing written ---

@pytest.mark.parametrize("to, options, message", [
    ("onnx", {}, "to is 'onnx': it must be 'huggingface' or 'gguf'"),
    ("gguf", {"quantization": "Q4_K"}, "quantization is 'Q4_K': it must be one of F32, F16, BF16, Q8_0, Q4_0, Q4_1"),
    ("huggingface", {"quantization": "Q8_0"}, "has the model's own number format; give to='gguf'"),
    ("gguf", {"generation": {"temprature": 1}}, "generation has 'temprature': it can have temperature, top_k"),
    ("gguf", {"generation": {"top_k": 0}}, "top_k = 0: it must be a whole number from 1"),
    ("gguf", {"generation": {"temperature": float("nan")}}, "temperature = nan: it must be a number from 0"),
    ("gguf", {"name": "a/b"}, "name is 'a/b': .* give it no slashes"),
])
def test_arguments_that_cannot_be(to, options, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(shaken(MODELS["Llama"]()), tokenizer, tmp_path / "new", to, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config, message", [
    ({"d_model": 48, "d_head": 16}, "'Q4_0', which packs 32 numbers .* token_embd.weight has 48: choose F16"),
    ({"window": 9}, "window = 9: llama.cpp computes no window in a Llama"),
    ({"qk_norm": True, "qkv_bias": True}, "no architecture of llama.cpp has that together"),
    ({"no_rope_layers": [0]}, "no architecture of llama.cpp has that together"),
    ({"qkv_bias": True, "rope_scaling": SCALED}, "llama.cpp's qwen2 has only linear scaling"),
])
def test_what_a_gguf_file_cannot_say(config, message, tokenizer, tmp_path):
    model = shaken(Llama(LlamaConfig(**{**SIZES, **config})))
    with pytest.raises(ValueError, match=message):
        export(model, tokenizer, tmp_path / "new" / "folder", "gguf", quantization="Q4_0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes, message", [
    ({"global_layers": [1]}, r"global_layers = \(1,\): llama.cpp has only \(5,\)"),
    ({"attention_scale": 0.2}, "attention_scale = 0.2 .* export to='huggingface'"),
    ({"rope_scaling": SCALED}, "llama.cpp's Gemma has only linear scaling"),
])
def test_what_a_gguf_file_cannot_say_of_a_gemma(changes, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(shaken(Gemma(GemmaConfig(**{**GEMMA, **changes}))), tokenizer, tmp_path / "new", "gguf")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    for rows in (300, 999):
        model = Llama(LlamaConfig(**{**SIZES, "vocab_size": rows}))
        for to in ("huggingface", "gguf"):
            with pytest.raises(ValueError, match=f"tokenizer has 310 tokens, the embedding {rows} rows: they belong"):
                export(model, tokenizer, tmp_path / "new", to)
    with pytest.raises(ValueError, match="has no '<.endoftext.>' for a text to begin with: leave begins_with_end out"):
        export(MODELS["Llama"](), train_bpe(STORY, 310, ("<s>",)), tmp_path / "new", begins_with_end=True)
    assert not list(tmp_path.iterdir())


def test_models_that_are_no_plain_language_models_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="is not what its config describes .*: save it before it is changed"):
        export(quantize(shaken(MODELS["Llama"]())), tokenizer, tmp_path / "new", "gguf")
    with pytest.raises(ValueError, match="no other program's format is known for the family TextClassifier"):
        export(TextClassifier(MODELS["GPT"](), 2), tokenizer, tmp_path / "new")
    with pytest.raises(ValueError, match="the class Linear is not known"):
        export(torch.nn.Linear(2, 2), tokenizer, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value, quantization, message", [
    (float("nan"), "F32", "holds a number that is not finite: the model is broken, train or load it again"),
    (float("inf"), "Q4_0", "holds a number that is not finite"),
    (1e6, "F16", "holds 1e.06, which is more than a float16 can say: choose BF16 or F32"),
])
def test_an_error_in_the_middle_leaves_nothing_behind(value, quantization, message, tokenizer, tmp_path):
    model = shaken(MODELS["Llama"]())
    model.blocks[1].feed_forward.contract.weight.data[3, 5] = value
    (tmp_path / "mine.txt").write_text("years of work")
    for target in ("new.gguf", "above/new"):
        with pytest.raises(ValueError, match=message):
            export(model, tokenizer, tmp_path / target, "gguf", quantization=quantization)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("to, target", [("huggingface", "mine"), ("gguf", "mine"), ("huggingface", "file"),
                                        ("gguf", "file"), ("gguf", "there.gguf"), ("gguf", "half.gguf"),
                                        ("gguf", "file/below")])
def test_nothing_that_is_there_is_written_over(to, target, tokenizer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for name in ("file", "there.gguf", "half.Modelfile"):
        (tmp_path / name).write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match=f"{re.escape(str(tmp_path))}.*(give|remove)"):
        export(shaken(MODELS["Llama"]()), tokenizer, tmp_path / target, to)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_is_taken(tokenizer, tmp_path):
    (tmp_path / "new").mkdir()
    export(shaken(MODELS["Llama"]()), tokenizer, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"new"}
    assert (tmp_path / "new" / "model.safetensors").is_file()

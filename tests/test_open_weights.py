"""llmbook.open_weights: real weights compute what `transformers` computes, or the file is refused by name."""

import functools
import math
import re
from pathlib import Path

import pytest
import tokenizers
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.assets import fetch
from llmbook.book.corpora import held_out_stories
from llmbook.documents import make_document_loader
from llmbook.files import data_folder
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.open_weights import format_chat, load_pretrained
from llmbook.scale.encoding import tokenizer_fingerprint
from llmbook.storyworld import check
from llmbook.text import save_tokenizer, train_bpe
from llmbook.training import evaluate, load_model, next_token_loss, save_model
from tests.support.pretrained import LLAMA3, STORY, difference, edit, reference, saved, some_ids
from tests.support.tokenizer_files import TEXTS, random_texts

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")


# --- tiny models of `transformers` -------------------------------------------------------------------------------

MODELS = {
    "GPT-2": ("GPT2", {}),
    "Llama, tied": ("Llama", {}),
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "Llama, all heads of its own": ("Llama", {"num_key_value_heads": 4}),
    "Llama with biases": ("Llama", {"attention_bias": True, "tie_word_embeddings": False}),
    "Llama 3 scaling": ("Llama", {"rope_parameters": LLAMA3}),
    "linear scaling": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}}),
    "heads of another size": ("Llama", {"head_dim": 12, "rms_norm_eps": 1e-3}),
    "Mistral": ("Mistral", {"tie_word_embeddings": False}),
    "Qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory) -> tuple[nn.Module, nn.Module]:
    """A model of `transformers`, saved to a folder, and ours loaded from there."""
    family, changes = MODELS[request.param]
    theirs, folder = reference(family, **changes), tmp_path_factory.mktemp("pair")
    theirs.save_pretrained(folder)
    ours, tokenizer = load_pretrained(folder)
    assert tokenizer is None and not ours.training and isinstance(ours, GPT if family == "GPT2" else Llama)
    return theirs, ours


def test_logits_equal_transformers(pair):
    assert difference(pair[1], pair[0]) < 1e-4


@torch.no_grad()
def test_greedy_continuations_are_identical(pair):
    theirs, ours = pair
    prompt = some_ids(2, 5)
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=50, do_sample=False,
                               eos_token_id=None, pad_token_id=0)
    assert expected.shape == (2, 55) and len(set(expected[0, 5:].tolist())) > 3
    assert torch.equal(generate(ours, prompt, 50, temperature=0), expected)
    again = prompt
    for _ in range(50):  # without a cache
        again = torch.cat([again, ours(again)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(again, expected)


def test_a_batch_of_unequal_prompts_equals_each_alone(pair):
    ours = pair[1]
    prompts = [some_ids(1, length)[0] for length in (7, 1, 12)]
    for prompt, row in zip(prompts, generate(ours, prompts, 20, temperature=0), strict=True):
        assert torch.equal(row, generate(ours, prompt[None], 20, temperature=0)[0])


def test_prompts_that_do_not_fit_are_refused(pair):
    with pytest.raises(ValueError, match="97 tokens exceed the context_length of 96"):
        generate(pair[1], some_ids(1, 97), 1)
    with pytest.raises(ValueError, match="at least one token"):
        generate(pair[1], torch.zeros(1, 0, dtype=torch.long), 1)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_bfloat16_weights_on_request(family, tmp_path):
    theirs = saved(tmp_path, family)
    ours, _ = load_pretrained(str(tmp_path), dtype=torch.bfloat16)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    exact, _ = load_pretrained(tmp_path)
    for found, expected in zip(ours.parameters(), exact.parameters(), strict=True):
        assert torch.equal(found, expected.bfloat16())
    assert generate(ours, some_ids(1, 4), 4).shape == (1, 8)
    assert theirs.dtype == torch.float32


def test_a_loaded_model_can_be_trained_and_saved(tmp_path):
    saved(tmp_path / "theirs")
    ours, _ = load_pretrained(tmp_path / "theirs")
    ours(some_ids(1, 9)).logsumexp(-1).mean().backward()
    assert all(p.grad is not None and p.is_leaf for p in ours.parameters())
    save_model(ours, tmp_path / "ours")
    assert torch.equal(load_model(tmp_path / "ours")(some_ids(1, 9)), ours(some_ids(1, 9)))


# --- folders that are refused ------------------------------------------------------------------------------------

@pytest.mark.parametrize("family, changes, message", [
    ("Llama", {"model_type": "gemma2"}, "models of the family 'gemma2' are not supported: known are gpt2, llama"),
    ("Llama", {"model_type": ...}, "model_type = None is not supported"),
    ("Llama", {"model_type": ["llama"]}, "model_type = ['llama'] is not supported"),
    ("Llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported (only 'silu'"),
    ("Llama", {"mlp_bias": True}, "mlp_bias = True is not supported (only False)"),
    ("Llama", {"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
    ("GPT2", {"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
    ("Llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
     "rotary scaling 'yarn' is not supported"),
    ("Llama", {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
     "rotary scaling 'dynamic' is not supported"),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}},
     "rotary scaling 'linear' has factor = None"),
    ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
     "rope_parameters.partial_rotary_factor = 0.5 is not supported"),
    ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    ("Llama", {"hidden_size": ...}, "the setting 'hidden_size' is missing"),
    ("Llama", {"max_position_embeddings": ...}, "the setting 'max_position_embeddings' is missing"),
    ("Llama", {"vocab_size": "61"}, "vocab_size = '61' is not supported"),
    ("Llama", {"num_key_value_heads": 3}, "n_heads (4) must be divisible by n_kv_heads (3)"),
    ("GPT2", {"activation_function": "relu"}, "activation_function = 'relu' is not supported (only 'gelu_new' or"),
    ("GPT2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06 is not supported"),
    ("GPT2", {"n_inner": 100}, "n_inner = 100 is not supported (only None or 128)"),
    ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True is not supported"),
    ("GPT2", {"n_layer": ...}, "the setting 'n_layer' is missing"),
    ("GPT2", {"n_head": 5}, "d_model (32) must be divisible by n_heads (5)"),
])
def test_settings_that_are_not_supported_are_named(family, changes, message, tmp_path):
    saved(tmp_path, family)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'config.json'}: {message}")):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("family, changes", [
    ("Mistral", {"sliding_window": 96}),  # no shorter than the context: it hides nothing
    ("Qwen2", {"sliding_window": 32, "use_sliding_window": False}),
    ("Llama", {"rope_parameters": ..., "rope_scaling": None, "rope_theta": 10000.0}),  # as older files say it
    ("Llama", {"rope_parameters": ..., "head_dim": ..., "attention_bias": ..., "mlp_bias": ...}),
    ("GPT2", {"n_inner": 128}),
])
def test_settings_that_change_nothing(family, changes, tmp_path):
    theirs = saved(tmp_path, family)
    edit(tmp_path, **changes)
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4


def test_scaling_as_older_files_say_it(tmp_path):
    theirs = saved(tmp_path, rope_parameters=LLAMA3)
    older = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    edit(tmp_path, rope_parameters=..., rope_scaling=older, rope_theta=1000.0)
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4


@pytest.mark.parametrize("text", ["{", "", "[]", "3", "null", "\u00e4{"])
def test_a_config_that_is_no_json_object(text, tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json"))):
        load_pretrained(tmp_path)


def test_a_folder_from_save_model_is_told_from_one_of_hugging_face(tmp_path):
    save_model(Llama(LlamaConfig(61, 16, 8, 2, 1, 1, 8)), tmp_path)
    with pytest.raises(ValueError, match="open the folder with load_model"):
        load_pretrained(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: give a .gguf file, a Hugging Face folder, "
                                                "or one of smollm2-135m-instruct, gpt2, gpt2-medium, gpt2-large, gpt2"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="config.json does not exist: give a Hugging Face model's folder"):
        load_pretrained(tmp_path)
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no model.safetensors: give a Hugging Face model's folder"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "smollm2-135m-instruct"])
def test_a_local_folder_named_like_a_known_model_is_not_passed_over(name, tmp_path, monkeypatch):
    theirs = saved(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}' is a folder or file here and the name of a model.*give ./{name}"):
        load_pretrained(name)
    assert difference(load_pretrained(f"./{name}", torch.float32, "cpu")[0], theirs) < 1e-4


@pytest.fixture
def brought(tmp_path, monkeypatch) -> tuple[GPT, Path]:
    """A data folder with a tiny model in the storyteller's place, in bfloat16; and that model."""
    monkeypatch.setattr("llmbook.formats.shipped.data_folder", lambda: tmp_path / "data")
    torch.manual_seed(0)
    model = GPT(GPTConfig(300, 16, 8, 2, 1)).to(torch.bfloat16)
    save_model(model, tmp_path / "data" / "storyteller")
    save_tokenizer(train_bpe(STORY, 300), tmp_path / "data" / "storyteller" / "tokenizer.json")
    return model, tmp_path / "data" / "storyteller"


def test_what_comes_with_the_package_needs_no_network(brought, monkeypatch):
    monkeypatch.setattr("llmbook.formats.shipped.fetch", None)
    model, tokenizer = load_pretrained("storyteller", device="cpu")
    assert isinstance(model, GPT) and not model.training and tokenizer.n_vocab == 300
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = some_ids(1, 9)
    assert torch.equal(model(ids), brought[0].float().eval()(ids))
    again, _ = load_pretrained("storyteller", torch.bfloat16, "cpu")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}


def test_what_should_come_with_the_package_and_is_missing_or_damaged_is_said(brought, tmp_path, monkeypatch):
    weights = next(brought[1].glob("model-*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is damaged: the sha256 of its content begins with"):
        load_pretrained("storyteller")
    (brought[1] / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="storyteller holds no model: install llmbook again, or `git checkout"):
        load_pretrained("storyteller")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(ValueError, match="'storyteller' is a folder or file here and.*: give ./storyteller for"):
        load_pretrained("storyteller")


@pytest.mark.skipif(not (data_folder() / "storyteller" / "config.json").is_file(),
                    reason="data/storyteller holds no model yet: python tools/storyteller.py pack RUN")
def test_the_storyteller_is_small_and_knows_its_stories():
    model, tokenizer = load_pretrained("storyteller", torch.float32, "cpu")
    folder = data_folder() / "storyteller"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    end = tokenizer.eot_token
    documents = [tokenizer.encode_ordinary(text) for text in held_out_stories(20, short=True)]
    rows = make_document_loader(documents, model.config.context_length, 20, end, shuffle=False)
    nats = evaluate(model, rows, next_token_loss)
    tokens, size = sum(map(len, documents)) + 20, sum(len(text.encode()) for text in held_out_stories(20, short=True))
    assert nats * tokens / math.log(2) / size < 0.14
    stories = generate(model, torch.full((8, 1), end), 450, temperature=0.5, stop_tokens=[end], seed=1).tolist()
    reports = [check(tokenizer.decode(ids[1 : ids.index(end, 1)])) for ids in stories if end in ids[1:]]
    assert len(reports) >= 6  # the others go on for ever
    sentences = sum(len(report.sentences) for report in reports)
    unknown = sum(problem.kind == "unknown sentence" for report in reports for problem in report.problems)
    assert 1 - unknown / sentences > 0.9


def test_the_small_sibling_has_the_storyteller_s_tokens_and_guesses_what_it_says():
    model, tokenizer = load_pretrained("storyteller-small", torch.float32, "cpu")
    teller, its = load_pretrained("storyteller", torch.float32, "cpu")
    folder = data_folder() / "storyteller-small"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    assert 9 * sum(p.numel() for p in model.parameters()) < 1.1 * sum(p.numel() for p in teller.parameters())
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(its)
    assert model.config.context_length == teller.config.context_length
    documents = [its.encode_ordinary(text) for text in held_out_stories(10, short=True)]
    inputs, _ = next(iter(make_document_loader(documents, 512, 10, its.eot_token, shuffle=False)))
    with torch.no_grad():
        same = model(inputs).argmax(-1) == teller(inputs).argmax(-1)
    read = inputs != its.eot_token
    assert same[read].float().mean() > 0.6


def test_device_and_number_format_follow_the_one_policy(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr("llmbook.open_weights.best_device", lambda: torch.device("meta"))
    monkeypatch.setattr("llmbook.open_weights.inference_dtype",
                        lambda device: torch.bfloat16 if device.type == "meta" else torch.float64)
    assert next(load_pretrained(tmp_path)[0].parameters()).device.type == "meta"
    assert next(load_pretrained(tmp_path)[0].parameters()).dtype == torch.bfloat16
    assert next(load_pretrained(tmp_path, device="cpu")[0].parameters()).dtype == torch.float64
    assert next(load_pretrained(tmp_path, torch.float32)[0].parameters()).dtype == torch.float32


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_unopened(name, tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(Bomb(tmp_path / "ran"), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a pickle.*refused.*transformers.*save_pretrained\(folder\)"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is a pickle.*refused.*safetensors"):
        load_pretrained(tmp_path / name)
    assert not (tmp_path / "ran").exists()


# --- the real one ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def smol():
    """SmolLM2 from one file: ours and its tokenizer, then those of `transformers`."""
    path = fetch("smollm2-135m-instruct")
    ours, tokenizer = load_pretrained("smollm2-135m-instruct")
    with pytest.MonkeyPatch.context() as patch:
        # it wants the package accelerate to be there, and does not use it
        patch.setattr("transformers.modeling_utils.is_accelerate_available", lambda *_, **__: True)
        for name in ("GGUFReader", "get_tensor_name_map"):  # it reads the file and makes a table again and again
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return ours, tokenizer, theirs, their_tokenizer


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_computes_what_transformers_computes(smol):
    ours, tokenizer, theirs, _ = smol
    ids = torch.tensor([tokenizer.encode(STORY[2000:4000])[:250]])
    found, expected = ours(ids), theirs(ids).logits
    assert (found - expected).abs().max() < 1e-3
    perplexities = [F.cross_entropy(logits[0, :-1], ids[0, 1:]).exp().item() for logits in (found, expected)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.01)
    assert 10 < perplexities[0] < 60  # it has learned to read


@pytest.mark.slow
def test_smollm2_s_greedy_answer_is_identical(smol):
    ours, tokenizer, theirs, _ = smol
    question = format_chat([{"role": "user", "content": "What is the capital of France?"}])
    prompt = torch.tensor([tokenizer.encode(question, allowed_special="all")])
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False,
                               eos_token_id=None, pad_token_id=2)
    assert torch.equal(generate(ours, prompt, 30, temperature=0), expected)
    assert "Paris" in tokenizer.decode(expected[0].tolist())


def test_smollm2_s_tokenizer_equals_transformers(smol):
    _, ours, _, theirs = smol
    tokens = {ours.decode_single_token_bytes(number) for number in range(ours.n_vocab)}
    missing = {chr(byte) for byte in range(128) if bytes([byte]) not in tokens}
    assert "\x04" in missing and len(missing) < 20
    # What transformers makes of a GGUF lacks the step that cuts off digits, which the model was trained with. That
    # shows only where several spaces stand before a digit. With the step it is the model's own tokenizer.
    cut = tokenizers.pre_tokenizers
    whole = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    whole.pre_tokenizer = cut.Sequence([cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)])
    texts = [*TEXTS, *random_texts(240), *(chr(byte) for byte in range(256))]
    for text in texts:
        ids = ours.encode(text)
        assert ids == whole.encode(text, add_special_tokens=False).ids, repr(text)
        if not re.search(r"\s[\d½²Ⅷ①]", text):
            assert ids == theirs(text, add_special_tokens=False).input_ids, repr(text)
        if not missing & set(text) and "\U000e0041" not in text:
            assert ours.decode(ids) == text
    assert ours.n_vocab == 49152 and ours.decode([1, 2]) == "<|im_start|><|im_end|>"
    chat = format_chat([{"role": "user", "content": "Hi!"}])
    assert ours.encode(chat, allowed_special="all") == theirs(chat, add_special_tokens=False).input_ids

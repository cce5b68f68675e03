"""Adapters on disk: what PEFT makes of ours, and we of PEFT's. Both must compute the same logits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmbook.classification import TextClassifier
from llmbook.formats.adapters import AdapterFile, LowRankPair, read_adapter, write_adapter
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import add_lora, load_adapter, lora_layers, save_adapter
from llmbook.model_files import save_model
from tests.support.pretrained import SMALL, some_ids
from tests.support.pretrained import saved as saved_reference

IDS = some_ids(2, 30)


def shaken(model, seed=1, std=0.2):
    """The model, all of its adapters' matrices far from 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for update in layer.adapters.values():
                for matrix in (update.A, update.B):
                    matrix.normal_(std=std, generator=generator)
    return model


def small_llama() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(**SMALL)).eval()


def peft_model(folder, adapter=None, **settings):
    """transformers' model in a folder with an adapter of PEFT: one from a folder, or a new one."""
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        return peft.PeftModel.from_pretrained(base, adapter).eval()
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=generator)
    return model


@torch.no_grad()
def gap(ours, theirs) -> float:
    """The largest difference of logits, as a share of their spread."""
    expected = theirs(input_ids=IDS).logits
    return float((ours(IDS) - expected).abs().max() / expected.std())


@torch.no_grad()
def moved(model, before) -> float:
    return float((model(IDS) - before(IDS)).abs().max() / before(IDS).std())


@pytest.mark.slow  # PEFT takes seconds to import
@pytest.mark.parametrize("family", ["Llama", "GPT2", "Qwen2"])
@pytest.mark.parametrize("targets, blocks", [(None, None), (("qkv",), [1]), (("out", "contract"), None)])
def test_peft_loads_ours(tmp_path, family, targets, blocks):
    saved_reference(tmp_path / "base", family)
    before = _load(tmp_path / "base")
    ours = shaken(add_lora(_load(tmp_path / "base"), 3, 7.0, targets=targets, blocks=blocks))
    save_adapter(ours, tmp_path / "adapter")
    assert moved(ours, before) > 0.1
    assert gap(ours, peft_model(tmp_path / "base", tmp_path / "adapter")) < 1e-5


def _load(folder):
    from llmbook.formats.pretrained import open_pretrained

    return open_pretrained(folder).build(torch.float32).eval()


@pytest.mark.slow
@pytest.mark.parametrize("family, targets", [
    ("Llama", ["q_proj", "v_proj"]), ("Llama", "all-linear"), ("Llama", ["o_proj", "up_proj"]),
    ("GPT2", ["c_attn"]), ("Qwen2", ["k_proj", "down_proj"])])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"rank_pattern": {"o_proj": 5, "c_attn": 2},
                                                            "alpha_pattern": {"v_proj": 9, "c_attn": 3}}])
def test_we_load_theirs(tmp_path, family, targets, more):
    saved_reference(tmp_path / "base", family)
    theirs = peft_model(tmp_path / "base", r=4, lora_alpha=6, target_modules=targets, **more)
    theirs.save_pretrained(tmp_path / "adapter")
    before = _load(tmp_path / "base")
    ours = load_adapter(_load(tmp_path / "base"), tmp_path / "adapter")
    assert moved(ours, before) > 0.1
    assert gap(ours, theirs) < 1e-5


@pytest.mark.slow
def test_theirs_saved_by_us_and_loaded_by_peft_computes_the_same(tmp_path):
    saved_reference(tmp_path / "base")
    theirs = peft_model(tmp_path / "base", r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj"])
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(_load(tmp_path / "base"), tmp_path / "adapter")
    save_adapter(ours, tmp_path / "again", base="somewhere")
    assert gap(ours, peft_model(tmp_path / "base", tmp_path / "again")) < 1e-5
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "somewhere"


def test_ours_comes_back_to_the_last_bit_with_what_was_trained_whole(tmp_path):
    def classifier():
        torch.manual_seed(3)
        return TextClassifier(small_llama(), 2, ["a", "b"]).eval()

    first = shaken(add_lora(classifier(), 3, dropout=0.1, also_train=["head", "model.final_norm"]))
    with torch.no_grad():
        first.head.weight.fill_(0.5)
        first.head.bias.fill_(0.25)
        first.model.final_norm.weight.mul_(2)
    save_adapter(first, tmp_path / "adapter", also=["head", "model.final_norm"])
    second = load_adapter(classifier(), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(first(IDS), second(IDS))
    assert lora_layers(second)["model.blocks.0.attention.qkv"].adapters["default"].dropout.p == 0.1
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert {"base_model.model.score.weight", "base_model.model.model.norm.weight"} < names


# --- what is refused ---

@pytest.fixture
def adapter(tmp_path):
    save_adapter(shaken(add_lora(small_llama(), 2)), tmp_path / "adapter")
    return tmp_path / "adapter"


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("changes, named", [
    ({"d_model": 64}, "needs"), ({"n_layers": 1}, "model.layers.1."), ({"d_hidden": 96}, "mlp.")])
def test_an_adapter_for_another_model_is_refused(adapter, changes, named):
    other = Llama(LlamaConfig(**{**SMALL, **changes}))
    names = [name for name, _ in other.named_modules()]
    with pytest.raises(ValueError, match="adapter for another model") as error:
        load_adapter(other, adapter)
    assert named in one_line(error)
    assert [name for name, _ in other.named_modules()] == names  # it is as it was


def test_a_head_of_other_size_is_refused(tmp_path):
    three = add_lora(TextClassifier(small_llama(), 3), 2)
    save_adapter(three, tmp_path / "adapter", also=["head"])
    with pytest.raises(ValueError, match=r"another model.*score.weight has shape \(3, 32\)") as error:
        load_adapter(TextClassifier(small_llama(), 2), tmp_path / "adapter")
    one_line(error)
    with pytest.raises(ValueError, match="another model: it holds score.bias") as error:
        load_adapter(small_llama(), tmp_path / "adapter")


def test_a_folder_that_is_no_adapter_is_refused(adapter, tmp_path):
    save_model(small_llama(), tmp_path / "model")
    for folder in (tmp_path / "nowhere", tmp_path / "model"):
        with pytest.raises(FileNotFoundError, match="is no adapter: it has no adapter_config.json; give a") as error:
            load_adapter(small_llama(), folder)
        assert str(folder) in one_line(error)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        load_adapter(small_llama(), adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="is no adapter: it has no adapter_model.safetensors"):
        load_adapter(small_llama(), adapter)


def test_a_damaged_file_is_named(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="adapter_model.safetensors cannot be read") as error:
        load_adapter(small_llama(), adapter)
    one_line(error)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_adapter(small_llama(), adapter)


@pytest.mark.parametrize("settings, named", [
    ({"peft_type": "IA3"}, "'IA3'; only 'LORA'"), ({"use_dora": True}, "use_dora = True is not supported"),
    ({"bias": "all"}, "bias = 'all' is not supported"), ({"r": 0}, "r is 0"), ({"lora_alpha": "x"}, "lora_alpha 'x'"),
    ({"lora_dropout": 1.5}, "lora_dropout is 1.5"),
    ({"layer_replication": [[0, 1]]}, "layer_replication")])
def test_settings_that_compute_something_else_are_refused(adapter, settings, named):
    change(adapter, **settings)
    with pytest.raises(ValueError, match="adapter_config.json") as error:
        load_adapter(small_llama(), adapter)
    assert named in one_line(error)


def test_half_a_pair_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="layers.0.self_attn.q_proj has matrices") as error:
        load_adapter(small_llama(), adapter)
    one_line(error)


def test_nothing_is_written_over_what_is_there(adapter, tmp_path):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    with pytest.raises(FileExistsError, match="holds adapter_config.json already: give an empty") as error:
        save_adapter(add_lora(small_llama(), 2), adapter)
    one_line(error)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        save_adapter(add_lora(small_llama(), 2), tmp_path / "file")


def test_a_layer_without_a_name_in_the_layout_is_refused_before_writing(tmp_path):
    pair = LowRankPair(torch.zeros(1, 32), torch.zeros(3, 1), 1.0)
    with pytest.raises(ValueError, match="other has no name in a Hugging Face Llama"):
        write_adapter(tmp_path / "new", small_llama(), AdapterFile({"other": pair}))
    assert not (tmp_path / "new").exists()
    part = {"blocks.0.attention.qkv.weight": torch.zeros(64, 32)}
    with pytest.raises(ValueError, match="is 3 tensors in PEFT's layout"):
        write_adapter(tmp_path / "new", small_llama(), AdapterFile({}, part))


def test_the_dropout_comes_back(tmp_path):
    save_adapter(add_lora(small_llama(), 2, dropout=0.25), tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter", small_llama()).dropout == 0.25

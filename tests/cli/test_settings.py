"""Settings: what is read, what is refused, and how that is said."""

import re
from dataclasses import dataclass

import pytest

from llmbook import families
from llmbook.cli.errors import UsageError
from llmbook.cli.example import EXAMPLE
from llmbook.cli.settings import Settings
from llmbook.experts import ExpertsConfig
from llmbook.families import Family, register_family
from tests.cli.helpers import TINY, pretrain, tree


def test_the_example_and_each_of_its_options_is_known(tmp_path):
    path = tmp_path / "example.toml"
    path.write_text(EXAMPLE)
    plain = Settings(str(path)).values
    assert plain["training"]["max_steps"] == 500 and plain["data"]["train"] == "python-documentation"
    full, options = re.subn(r"(?m)^# (?=[a-z_]+ = )", "", EXAMPLE)
    assert options >= 7
    path.write_text(full)
    values = Settings(str(path)).values
    assert values["model"]["preset"] == "gpt2" and values["checkpoints"]["allow"] == ["max_steps"]


@pytest.mark.parametrize("old, new, message", [
    ("max_steps", "max_stps", "run.toml: [training] max_stps is not known: did you mean 'max_steps'?"),
    ("[training]", "[trainin]", "run.toml: no section [trainin]: did you mean 'training'?"),
    ("[training]", "[zzz]", "run.toml: no section [zzz]: choose one of model, data, training, checkpoints, log"),
    ("[model]", "learning_rate = 1.0\n[model]", "run.toml: learning_rate is not known: it belongs in [training]"),
    ("[model]", "outt = 'x'\n[model]", "run.toml: outt is not known: did you mean 'out'?"),
    ("d_model = 16", "batch_size = 16", "run.toml: [model] batch_size is not known: it belongs in [training]"),
    ("d_model = 16", "kind = 'lama'", "run.toml: [model] kind is 'lama': did you mean 'llama'?"),
    ("d_model = 16", "kind = 3", "run.toml: [model] kind is 3: choose one of gpt, llama"),
    ("d_model = 16", "n_kv_heads = 2", "n_kv_heads is not known: it goes with kind = \"llama\""),
    ("d_model = 16", "d_model = 17", "run.toml: [model] d_model (17) must be divisible by n_heads (2)"),
    ("d_model = 16", "d_model = '16'", "run.toml: [model] d_model is '16': it must be a whole number"),
    ("d_model = 16", "vocab_size = 299", "run.toml: [model] vocab_size is 299, the tokenizer has 300 tokens"),
    ("d_model = 16", "preset = 'gpt3'", "run.toml: [model] no preset 'gpt3': choose one of gpt2, gpt2-medium"),
    ("dropout = 0.1", "kind = 'llama'\npreset = 'gpt2'", "[model] preset is not known: it goes with kind = \"gpt\""),
    ("max_steps = 4", "max_steps = 4.5", "run.toml: [training] max_steps is 4.5: it must be a whole number"),
    ("max_steps = 4", "max_steps = true", "run.toml: [training] max_steps is True: it must be a whole number"),
    ("max_steps = 4", "max_steps = 0", "run.toml: [training] max_steps is 0: it must be"),
    ("max_steps = 4", "", "run.toml: [training] max_steps is missing: add it"),
    ("batch_size = 4", "batch_size = 0", "run.toml: [training] batch_size is 0: it must be at least 1"),
    ("batch_size = 4", "betas = [0.9, 'x']", "run.toml: [training] betas is 'x': it must be a number"),
    ("batch_size = 4", "betas = [0.9]", "run.toml: [training] betas is [0.9]: it must be a list of two"),
    ("batch_size = 4", "progress = 1", "run.toml: [training] progress is 1: it must be true or false"),
    ("batch_size = 4", "compile = 'yes'", "run.toml: [training] compile is 'yes': it must be true or false"),
    ('"story.txt"', "3", "run.toml: [data] train, text 1 is 3: it must be text in quotation marks or a table"),
    ('"story.txt"', "[]", "run.toml: [data] train is []: give at least one"),
    ('"story.txt"', "[{path = 'a', shar = 1}]", "train, text 1, shar is not known: did you mean 'share'?"),
    ('"story.txt"', "[{path = 'a', share = 1}, 'b']", "a share to each or to none"),
    ('"story.txt"', "[{path = 'a', share = 'x'}]", "run.toml: [data] train, text 1, share is 'x': it must be a number"),
    ('train = "story.txt"', "", "run.toml: [data] train is missing"),
    ("validation = 0.1", "validation = 1.5", "run.toml: [data] validation is 1.5: it must be below 1"),
    ("[data]", "[data", "run.toml cannot be read as TOML ("),
    ("[data]", "[checkpoints]\nkeep = 0\n[data]", "run.toml: [checkpoints] keep is 0: it must be above 0"),
])
def test_a_wrong_setting_is_named_in_one_line(place, call, old, new, message):
    assert old in TINY
    (place / "run.toml").write_text(TINY.replace(old, new))
    before = tree(place)
    code, out, err = pretrain(call)
    assert (code, out) == (2, "")
    assert err.startswith("llmbook: ") and err.count("\n") == 1 and message in err
    assert tree(place) == before


def test_the_settings_of_another_kind_of_model(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[model]\nkind = 'llama'\nn_kv_heads = 1\nrope_scaling = {rope_type = 'linear', factor = 2}\n"
                    "[training]\nlearning_rate = 1\nbetas = [0, 0.5]\nmax_norm = inf")
    values = Settings(str(path)).values
    assert values["model"]["rope_scaling"] == {"rope_type": "linear", "factor": 2}
    assert values["training"] == {"learning_rate": 1.0, "betas": (0.0, 0.5), "max_norm": float("inf")}
    with pytest.raises(UsageError, match="rope_scaling is 3: it must be a table"):
        Settings(str(path), [("model", "rope_scaling", 3, "--set")])


def test_the_settings_of_models_beyond_attention():
    changes = {"kind": "experts", "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 4, "n_experts": 6,
               "mixers": ["gated delta", "attention"]}

    def settings(**more):
        return Settings(None, [("model", key, value, "--set") for key, value in {**changes, **more}.items()])

    config = settings().model_config(300)
    assert type(config) is ExpertsConfig and config.mixers == ("gated delta", "attention") * 2
    assert (config.vocab_size, config.n_experts, config.experts_per_token) == (300, 6, 2)
    for more, said in (({"mixers": "linear"}, "mixers is 'linear': it must be a list"),
                       ({"mixers": 3}, "mixers is 3: it must be a list"),
                       ({"mixers": [1]}, "mixers is 1: it must be text in quotation marks"),
                       ({"n_experts": 1.5}, "n_experts is 1.5: it must be a whole number"),
                       ({"kind": "hybrid"}, 'n_experts is not known: it goes with kind = "experts"')):
        with pytest.raises(UsageError, match=said):
            settings(**more)
    for more, said in (({"mixers": ["mamba"]}, r"\[model\] no mixer 'mamba': choose from attention, window"),
                       ({"experts_per_token": 7}, r"\[model\] experts_per_token \(7\) must not be more than")):
        with pytest.raises(UsageError, match=said):
            settings(**more).model_config(300)


@dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = 300
    context_length: int = 32
    d_model: int = 8
    wobble: float = 0.5


def test_a_new_family_is_known_without_a_change_here(tmp_path):
    """One registry entry: its word, its fields and their types."""
    register_family(Family("ToyOfTheCommand", "tests.cli.test_settings:ToyConfig", "tests.cli.test_settings:ToyConfig",
                           "toy"))
    try:
        settings = Settings(None, [("model", "kind", "toy", "--set"), ("model", "wobble", 1, "--set")])
        assert settings.model_config(400) == ToyConfig(vocab_size=400, wobble=1.0)
        with pytest.raises(UsageError, match="wobble is 'x': it must be a number"):
            Settings(None, [("model", "kind", "toy", "--set"), ("model", "wobble", "x", "--set")])
        with pytest.raises(UsageError, match="kind is 'toi': did you mean 'toy'"):
            Settings(None, [("model", "kind", "toi", "--set")])
        with pytest.raises(UsageError, match='wobble is not known: it goes with kind = "toy"'):
            Settings(None, [("model", "wobble", 1, "--set")])
    finally:
        families._FAMILIES.pop("ToyOfTheCommand")

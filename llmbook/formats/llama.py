"""Llama and its relatives in other people's files: Llama, Mistral, Qwen2, Qwen3 and SmolLM3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from ..llama import LlamaConfig
from ..rotary_scaling import scale_frequencies
from .configs import Fraction, RotarySettings, Settings, Size, read_settings
from .gguf import GGUFCheckpoint
from .layouts import GGUFHeader, Layout, TensorNames

__all__ = ["ATTENTION_NAMES", "LAYOUT", "part_rows", "rope_in_gguf"]

Base = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Activation = Literal["silu", "swish"]  # two names of one function
_BLOCK, _THEIRS = "blocks.{}.", "model.layers.{}."

ATTENTION_NAMES = {  # our name: the name, or the names of the parts, in a Hugging Face Llama
    _BLOCK + "attention.qkv.weight": tuple(f"{_THEIRS}self_attn.{x}_proj.weight" for x in "qkv"),
    _BLOCK + "attention.qkv.bias": tuple(f"{_THEIRS}self_attn.{x}_proj.bias" for x in "qkv"),
    _BLOCK + "attention.query_norm.weight": _THEIRS + "self_attn.q_norm.weight",
    _BLOCK + "attention.key_norm.weight": _THEIRS + "self_attn.k_norm.weight",
    _BLOCK + "attention.out.weight": _THEIRS + "self_attn.o_proj.weight",
    _BLOCK + "attention.out.bias": _THEIRS + "self_attn.o_proj.bias",
    _BLOCK + "feed_forward.expand.weight": (_THEIRS + "mlp.gate_proj.weight", _THEIRS + "mlp.up_proj.weight"),
    _BLOCK + "feed_forward.contract.weight": _THEIRS + "mlp.down_proj.weight",
}
_NAMES = {
    "token_embedding.weight": "model.embed_tokens.weight",
    _BLOCK + "attention_norm.weight": _THEIRS + "input_layernorm.weight",
    **ATTENTION_NAMES,
    _BLOCK + "feed_forward_norm.weight": _THEIRS + "post_attention_layernorm.weight",
    "final_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def part_rows(name: str, config: Any) -> list[int]:
    """Rows of each part of our tensor `name`: query, key and value may differ."""
    if ".qkv." in name:
        return [heads * config.d_head for heads in (config.n_heads, config.n_kv_heads, config.n_kv_heads)]
    return [config.d_hidden, config.d_hidden]  # gate and content


# --- Hugging Face ---

class LlamaSettings(Settings):
    """config.json of a Hugging Face Llama. The defaults are the library's; sizes have none, so that one that is missing
    is an error."""

    model_type: str
    vocab_size: Size
    max_position_embeddings: Size
    hidden_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    num_hidden_layers: Size
    intermediate_size: Size
    head_dim: Size | None = None
    hidden_act: Activation = "silu"
    rms_norm_eps: Fraction = 1e-6
    attention_bias: bool = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: bool = False
    rope_theta: Base | None = None
    rope_scaling: RotarySettings | None = None
    rope_parameters: RotarySettings | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] | None = None
    original_max_position_embeddings: Size | None = None
    sliding_window: Size | None = None

    default_base: ClassVar[float] = 10000.0  # without rope_theta

    def windows(self) -> dict[str, Any]:
        """The settings of our configuration that say what each layer sees."""
        if self.sliding_window is not None:  # the library's Llama computes without one, and generates with one
            raise ValueError(f"sliding_window = {self.sliding_window} is not supported for {self.model_type} (only "
                             "None): take it out")
        return {}


class MistralSettings(LlamaSettings):
    """Mistral: a window in all layers, unless it is null. The library reads no `use_sliding_window` here."""

    num_key_value_heads: Size | None = 8
    mlp_bias: Any = None  # neither does it read this one and the next
    attention_bias: Any = None
    sliding_window: Size | None = 4096

    def windows(self) -> dict[str, Any]:
        return {"window": self.sliding_window}


class Qwen2Settings(LlamaSettings):
    """Qwen2: biases of queries, keys and values in any case; a window in some layers, if it is switched on."""

    num_key_value_heads: Size | None = 32
    mlp_bias: Any = None
    attention_bias: Any = None
    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None

    def windows(self) -> dict[str, Any]:
        window = self.sliding_window if self.use_sliding_window else None
        layers = list(range(self.max_window_layers, self.num_hidden_layers)) if window is not None else []
        return window_of_layers(self.layer_types, layers, window, self.num_hidden_layers)


class Qwen3Settings(Qwen2Settings):
    """Qwen3: norms of queries and keys instead of biases."""

    head_dim: Size | None = 128
    attention_bias: bool = False


class SmolLM3Settings(LlamaSettings):
    """SmolLM3: every fourth layer has no positions; those may have a window."""

    num_key_value_heads: Size | None = 4
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    sliding_window: Size | None = None
    no_rope_layers: list[Annotated[int, Field(ge=0, le=1)]] | None = None  # 1 for a layer that has positions
    no_rope_layer_interval: Size = 4
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    default_base: ClassVar[float] = 2000000.0

    def windows(self) -> dict[str, Any]:
        count, every = self.num_hidden_layers, self.no_rope_layer_interval
        given = self.no_rope_layers
        if given is not None and len(given) < count:
            raise ValueError(f"no_rope_layers has {len(given)} numbers for {count} layers: give one for each")
        plain = [layer for layer in range(count) if not (given[layer] if given is not None else (layer + 1) % every)]
        window = self.sliding_window if self.use_sliding_window else None
        layers = plain if window is not None else []
        return {**window_of_layers(self.layer_types, layers, window, count), "no_rope_layers": plain}


def window_of_layers(kinds: list[str] | None, layers: list[int], window: int | None, count: int) -> dict[str, Any]:
    """`window` and `window_layers` of our configuration, from `layer_types` if there are any, else from `layers`."""
    if kinds is not None:
        if len(kinds) < count:
            raise ValueError(f"layer_types has {len(kinds)} names for {count} layers: give one for each")
        layers = [layer for layer in range(count) if kinds[layer] == "sliding_attention"]
    if layers and window is None:
        raise ValueError(f"layer_types has a sliding_attention in layer {layers[0]}, and there is no window: give "
                         "sliding_window, and use_sliding_window = true")
    return {"window": window, "window_layers": layers} if layers else {}


_SETTINGS: dict[str, type[LlamaSettings]] = {
    "llama": LlamaSettings, "mistral": MistralSettings, "qwen2": Qwen2Settings, "qwen3": Qwen3Settings,
    "smollm3": SmolLM3Settings}


def _from_hugging_face(settings: Mapping[str, Any]) -> LlamaConfig:
    kind = settings["model_type"]
    found = read_settings(_SETTINGS[kind], settings)
    rope = found.rope_scaling or found.rope_parameters or RotarySettings()  # in the library's order
    context = found.max_position_embeddings
    windows = found.windows()
    if windows.get("window") is not None and windows["window"] >= context:  # it hides nothing
        windows = {name: value for name, value in windows.items() if not name.startswith("window")}
    bias = {"qwen2": (True, False), "mistral": (False, False)}.get(kind, (found.attention_bias,) * 2)
    heads = found.num_attention_heads
    return LlamaConfig(
        found.vocab_size, context, found.hidden_size, heads, found.num_key_value_heads or heads,
        found.num_hidden_layers, found.intermediate_size, found.head_dim,
        float(rope.rope_theta or found.rope_theta or found.default_base),
        rope.scaling(found.original_max_position_embeddings, context), found.rms_norm_eps,
        qkv_bias=bias[0], out_bias=bias[1], tie_embeddings=found.tie_word_embeddings, qk_norm=kind == "qwen3",
        **windows)


def _to_hugging_face(config: LlamaConfig) -> dict[str, Any]:
    """The config.json of the Hugging Face family that computes what a model of ours computes."""
    kind, more = _family_for(config)
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling.get("rope_type") == "factors":
        raise ValueError("rotary scaling by a list of factors: no Hugging Face setting says that; give the scaling by "
                         "its name")
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3"}
    return {"model_type": kind, "architectures": [f"{names[kind]}ForCausalLM"],
            "vocab_size": config.vocab_size, "max_position_embeddings": config.context_length,
            "hidden_size": config.d_model, "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads, "num_hidden_layers": config.n_layers,
            "intermediate_size": config.d_hidden, "head_dim": config.d_head,
            "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tie_embeddings,
            "rope_theta": config.rope_base, "rope_scaling": config.rope_scaling,
            "rope_parameters": {**scaling, "rope_theta": config.rope_base}, **more}


def _family_for(config: LlamaConfig) -> tuple[str, dict[str, Any]]:
    """`model_type` of the family that computes what a configuration says, and the settings that only it has."""
    bias, layers = (config.qkv_bias, config.out_bias), range(config.n_layers)
    windows = [layer for layer in layers if config.window_of(layer) is not None]
    kinds = {"use_sliding_window": bool(windows), "sliding_window": config.window,
             "layer_types": ["sliding_attention" if layer in windows else "full_attention" for layer in layers]}
    families = {
        "llama": (bias[0] == bias[1] and not windows and not config.qk_norm and not config.no_rope_layers,
                  {"attention_bias": config.qkv_bias}),
        "mistral": (bias == (False, False) and len(windows) == len(layers) and not config.qk_norm
                    and not config.no_rope_layers, {"sliding_window": config.window}),
        "qwen2": (bias == (True, False) and not config.qk_norm and not config.no_rope_layers,
                  {**kinds, "max_window_layers": config.n_layers}),
        "qwen3": (config.qk_norm and bias[0] == bias[1] and not config.no_rope_layers,
                  {**kinds, "max_window_layers": config.n_layers, "attention_bias": config.qkv_bias}),
        "smollm3": (bias[0] == bias[1] and not config.qk_norm and config.d_head * config.n_heads == config.d_model,
                    {**kinds, "attention_bias": config.qkv_bias,
                     "no_rope_layers": [int(layer not in config.no_rope_layers) for layer in layers]}),
    }
    for kind, (fits, more) in families.items():
        if fits:
            return kind, more
    special = {"qkv_bias": config.qkv_bias, "out_bias": config.out_bias, "qk_norm": config.qk_norm,
               "window": config.window, "no_rope_layers": bool(config.no_rope_layers)}
    said = ", ".join(f"{name} = {value}" for name, value in special.items())
    raise ValueError(f"{said}: no Hugging Face family has that together; save it with layout='llmbook'")


# --- GGUF ---

class LlamaMetadata(Settings):
    """The settings of a GGUF file, without the family's name before them. Others might change what is computed, so
    they are refused."""

    model_config = ConfigDict(extra="forbid")

    context_length: Size
    embedding_length: Size
    block_count: Size
    feed_forward_length: Size
    vocab_size: Size | None = None
    heads: Size = Field(alias="attention.head_count")
    kv_heads: Size | None = Field(None, alias="attention.head_count_kv")
    key_length: Size | None = Field(None, alias="attention.key_length")
    value_length: Size | None = Field(None, alias="attention.value_length")
    norm_eps: Fraction = Field(alias="attention.layer_norm_rms_epsilon")
    window: int | None = Field(None, alias="attention.sliding_window", ge=0)
    causal: Literal[True] = Field(True, alias="attention.causal")
    rope_size: Size | None = Field(None, alias="rope.dimension_count")
    rope_base: Base = Field(10000.0, alias="rope.freq_base")
    scaling: Literal["none", "linear"] = Field("none", alias="rope.scaling.type")
    factor: float | None = Field(None, alias="rope.scaling.factor")
    original_context: Size | None = Field(None, alias="rope.scaling.original_context_length")
    finetuned: bool | None = Field(None, alias="rope.scaling.finetuned")
    experts: Literal[0] = Field(0, alias="expert_count")
    used_experts: Literal[0] = Field(0, alias="expert_used_count")

    @property
    def d_head(self) -> int:
        return self.key_length or self.embedding_length // self.heads

    def rope_scaling(self, checkpoint: GGUFCheckpoint) -> dict[str, Any] | None:
        """Our setting: linear, or the list of factors that such a file holds as a tensor."""
        if "rope_freqs.weight" in checkpoint.shapes:
            factors = torch.empty(checkpoint.shapes["rope_freqs.weight"])
            checkpoint.copy("rope_freqs.weight", factors)
            return {"rope_type": "factors", "factors": factors.flatten().tolist()}
        return {"rope_type": "linear", "factor": self.factor} if self.scaling == "linear" else None


def read_metadata(kind: type[LlamaMetadata], checkpoint: GGUFCheckpoint, architecture: str) -> Any:
    """The settings of a GGUF file as an object of the class `kind`, compared with its tensors where these say more."""
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in checkpoint.metadata.items() if key.startswith(prefix)}
    for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor"):
        if isinstance(own.get(name), int):  # the file says whether a number is whole, and these never are
            raise ValueError(f"{name} = {own[name]!r} is not supported (it must be a float): download the file again")
    found = read_settings(kind, own)
    if "token_embd.weight" not in checkpoint.shapes:
        raise ValueError("the tensor token_embd.weight is missing: download the file again")
    for name, value, wanted in (("rope.dimension_count", found.rope_size, found.d_head),
                                ("attention.value_length", found.value_length, found.d_head),
                                ("vocab_size", found.vocab_size, checkpoint.shapes["token_embd.weight"][0])):
        if value not in (None, wanted):
            raise ValueError(f"{name} = {value} is not supported (only {wanted})")
    return found


def _from_gguf(checkpoint: GGUFCheckpoint, architecture: str) -> LlamaConfig:
    found = read_metadata(LlamaMetadata, checkpoint, architecture)
    if found.window and found.window < found.context_length:
        raise ValueError(f"attention.sliding_window = {found.window} is not supported for {architecture} (only 0): the "
                         "file does not say in which layers; load the model's Hugging Face folder instead")
    # llama.cpp knows by heart which layers of a SmolLM3 have no positions: every fourth
    plain = range(3, found.block_count, 4) if architecture == "smollm3" else ()
    return LlamaConfig(
        checkpoint.shapes["token_embd.weight"][0], found.context_length, found.embedding_length, found.heads,
        found.kv_heads or found.heads, found.block_count, found.feed_forward_length, found.d_head, found.rope_base,
        found.rope_scaling(checkpoint), found.norm_eps,
        qkv_bias="blk.0.attn_q.bias" in checkpoint.shapes, out_bias="blk.0.attn_output.bias" in checkpoint.shapes,
        tie_embeddings="output.weight" not in checkpoint.shapes, qk_norm=architecture == "qwen3",
        no_rope_layers=plain)


def _untangle(name: str, part: int, rows: Tensor, config: LlamaConfig) -> None:
    """Rows of queries and keys, whose rotary pairs stand side by side in some files: ours are half a head apart."""
    if ".qkv." in name and part < 2:
        pairs = rows.view(-1, config.d_head // 2, 2, *rows.shape[1:])  # (heads, pairs, 2, ...)
        rows.copy_(pairs.transpose(1, 2).reshape(rows.shape))


def _tangle(name: str, part: int, rows: Tensor, config: LlamaConfig) -> None:
    """The way back."""
    if ".qkv." in name and part < 2:
        halves = rows.view(-1, 2, config.d_head // 2, *rows.shape[1:])
        rows.copy_(halves.transpose(1, 2).reshape(rows.shape))


def _gguf_names(config: LlamaConfig, architecture: str) -> TensorNames:
    tangled = architecture in ("llama", "smollm3")
    both = {"adjust": _untangle, "adjust_back": _tangle} if tangled else {}
    return _TENSORS.in_gguf(architecture, config.n_layers, **both)


def _to_gguf(config: LlamaConfig) -> GGUFHeader:
    """The architecture of llama.cpp that computes what a configuration says, and its settings."""
    layers = range(config.n_layers)
    if any((window := config.window_of(layer)) is not None and window < config.context_length for layer in layers):
        raise ValueError(f"window = {config.window}: llama.cpp computes no window in a Llama; give window=None, or "
                         "export to='huggingface'")
    biases, plain = (config.qkv_bias, config.out_bias), tuple(config.no_rope_layers)
    fourth = tuple(range(3, config.n_layers, 4))
    kind = None
    if not plain:
        kind = "qwen3" if config.qk_norm else "qwen2" if biases == (True, False) else "llama"
    elif plain == fourth and not config.qk_norm:
        kind = "smollm3"
    if kind is None or kind in ("qwen3", "smollm3") and any(biases) or biases == (False, True):
        said = {"qkv_bias": biases[0], "out_bias": biases[1], "qk_norm": config.qk_norm, "no_rope_layers": plain}
        raise ValueError(", ".join(f"{name} = {value}" for name, value in said.items()) + ": no architecture of "
                         "llama.cpp has that together; save it with layout='llmbook'")
    rope, factors = rope_in_gguf(config)
    if factors and kind != "llama":
        raise ValueError(f"rope_scaling = {config.rope_scaling!r:.60}: llama.cpp's {kind} has only linear scaling; "
                         "export to='huggingface'")
    return GGUFHeader(kind, {
        "context_length": config.context_length, "embedding_length": config.d_model, "block_count": config.n_layers,
        "feed_forward_length": config.d_hidden, "vocab_size": config.vocab_size,
        "attention.head_count": config.n_heads, "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head, "attention.value_length": config.d_head,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps), **rope}, factors)


def rope_in_gguf(config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How positions turn, as settings of a GGUF file, and the factors of the frequencies if they take a tensor."""
    scaling = dict(config.rope_scaling or {})
    settings = {"rope.dimension_count": config.d_head, "rope.freq_base": float(config.rope_base)}
    kind = scaling.get("rope_type", "default")
    if kind == "linear":
        return {**settings, "rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}, {}
    if kind == "default":
        return settings, {}
    if kind == "factors":
        factors = torch.tensor(scaling["factors"], dtype=torch.float32)
    else:  # by their names, llama.cpp would compute some of them otherwise
        angles = config.rope_base ** (-torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head)
        factors = (angles / scale_frequencies(angles, scaling)).float()
    return settings, {"rope_freqs.weight": factors}


_TENSORS = TensorNames(_NAMES, part_rows)
LAYOUT = Layout(_TENSORS, _from_hugging_face, _to_hugging_face, _gguf_names, _from_gguf,
                config_to_gguf=_to_gguf)
"""Where everything of a Llama is in other people's files."""

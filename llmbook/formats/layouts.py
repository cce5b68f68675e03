"""How other programs store the models of one family, and filling a model from such a file or writing one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..devices import whole_state
from ..files import is_first, replace_file
from .weight_files import WeightFile

__all__ = ["GGUFHeader", "Layout", "TensorNames", "load_state"]

# Tensors that older files hold beside the weights: attention masks and rotary frequencies.
_NO_WEIGHTS = re.compile(r"(?:^|\.)attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$|^rope_freqs\.weight$")


@dataclass(frozen=True)
class TensorNames:
    """Which of our tensors is which in somebody else's file.

    Args:
        names: our name -> theirs, or the names of the parts, top to bottom, that we keep as one. "{}" stands for the
            number of the block. The table may name tensors that a model has only with some settings.
        part_rows: `part_rows(our name, config)` gives the rows of each part; None: parts of equal size.
        transposed: our names, with "{}", of matrices that lie the other way round there, (in, out).
        output: their name of the output layer. If it is stored though our model uses the embedding, it must equal it.
        adjust: `adjust(our name, number of the part, its rows, config)` changes rows in place, once they are read.
        adjust_back: the way back, in place on a copy, before rows are written.
        rename: turns a name of the table into the one in the file.
    """

    names: Mapping[str, str | tuple[str, ...]]
    part_rows: Callable[[str, Any], Sequence[int]] | None = None
    transposed: frozenset[str] = frozenset()
    output: str = "lm_head.weight"
    adjust: Callable[[str, int, Tensor, Any], None] | None = None
    adjust_back: Callable[[str, int, Tensor, Any], None] | None = None
    rename: Callable[[str], str] | None = None

    def in_gguf(self, architecture: str, n_layers: int, **changes: Any) -> TensorNames:
        """The same tensors as GGUF files name them, by the table of the package `gguf`, with `changes`."""
        rename = _gguf_names(architecture, n_layers)
        return replace(self, rename=rename, output=rename(self.output), **{"transposed": frozenset(), **changes})

    def parts(self, name: str, shape: Sequence[int], config: Any) -> list[tuple[str, int]]:
        """Their tensors that make up our tensor `name`, (rows, ...): the name of each and its rows, top to bottom."""
        pattern, layer = _pattern(name)
        theirs = self.names[pattern]
        sources = [part.format(layer) for part in ([theirs] if isinstance(theirs, str) else theirs)]
        if self.rename is not None:
            sources = [self.rename(source) for source in sources]
        if len(sources) == 1:
            return [(sources[0], shape[0])]
        if self.part_rows is None:
            return [(source, shape[0] // len(sources)) for source in sources]
        return list(zip(sources, self.part_rows(pattern, config), strict=True))

    def lies_turned(self, name: str) -> bool:
        """Whether our matrix `name` is stored as (in, out)."""
        return _pattern(name)[0] in self.transposed

    def written(self, state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Our tensors under their names, cut into their parts, as they are to be written. Most share our memory."""
        found: dict[str, Tensor] = {}
        for name, tensor in state.items():
            sources = self.parts(name, tensor.shape, config)
            rows = tensor.split([count for _, count in sources])
            for place, ((source, _), part) in enumerate(zip(sources, rows, strict=True)):
                if self.adjust_back is not None:
                    self.adjust_back(_pattern(name)[0], place, part := part.clone(), config)
                found[source] = (part.T if self.lies_turned(name) else part).contiguous()
        return found


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of a model beside its weights.

    Args:
        architecture: `general.architecture`, the program that llama.cpp computes it with.
        settings: name without the architecture's -> value; its type is the type in the file.
        tensors: what stands beside the model's own, such as factors of the rotary frequencies.
    """

    architecture: str
    settings: Mapping[str, int | float | str | bool]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How other programs store the models of one family: what its entry in `llmbook.families` points to.

    Args:
        hugging_face: names of the tensors in a Hugging Face folder.
        config_from_hugging_face: turns the settings of a config.json into our configuration.
        config_to_hugging_face: the way back; "model_type" and "architectures" are among the settings. Both raise
            ValueError for what the other side does not compute.
        gguf: `gguf(config, architecture)` gives the names in a GGUF file; None if no such files are read.
        config_from_gguf: turns a `GGUFCheckpoint` and its architecture into our configuration.
        complete: changes the tensors that are about to be written for Hugging Face, such as adding biases of zero.
        config_to_gguf: turns our configuration into a `GGUFHeader`; raises ValueError for what llama.cpp does not
            compute. None if no such files are written.
    """

    hugging_face: TensorNames
    config_from_hugging_face: Callable[[Mapping[str, Any]], Any]
    config_to_hugging_face: Callable[[Any], dict[str, Any]]
    gguf: Callable[[Any, str], TensorNames] | None = None
    config_from_gguf: Callable[[Any, str], Any] | None = None
    complete: Callable[[dict[str, Tensor], Any], None] | None = None
    config_to_gguf: Callable[[Any], GGUFHeader] | None = None

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Save a model so that the transformers library loads it: config.json and model.safetensors.

        All processes of a team must call it; the first one writes. Raises FileExistsError if the folder holds a model
        already, ValueError for a model that no Hugging Face family computes; nothing is written then.
        """
        folder = Path(folder)
        settings = self.config_to_hugging_face(model.config)
        for name in ("config.json", "model.safetensors"):
            if is_first() and (folder / name).exists():  # another process may come here after the first has written
                raise FileExistsError(f"{folder / name} exists: give an empty folder")
        state = self.hugging_face.written(whole_state(model), model.config)
        if self.complete is not None:
            self.complete(state, model.config)
        if not is_first():
            return
        dtype = next(model.parameters()).dtype
        # The library's defaults for these are ids of its own models, which may end a text of ours or lie outside it.
        ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        settings = {**ends, **settings, "dtype": str(dtype).removeprefix("torch.")}
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
        replace_file(folder / "config.json", (json.dumps(settings, indent=2) + "\n").encode())


def load_state(model: nn.Module, checkpoint: WeightFile, names: TensorNames, dtype: torch.dtype) -> None:
    """Fill a model that was built `without_weights` from a checkpoint. Every tensor in it is used exactly once.

    Raises ValueError, before anything is read, that names tensors which are missing, left over or of another shape.
    """
    names = _without_missing_prefix(names, checkpoint)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    plan = {name: names.parts(name, shape, model.config) for name, shape in expected.items()}
    left = {name for name in checkpoint.shapes if not _NO_WEIGHTS.search(name)}
    problems = []
    for name, shape in expected.items():
        for source, rows in plan[name]:
            wanted = (rows, *shape[1:])
            wanted = wanted[::-1] if names.lies_turned(name) else wanted
            if source not in left:
                problems.append(f"missing {source}")
            elif checkpoint.shapes[source] != wanted:
                problems.append(f"{source} has shape {checkpoint.shapes[source]} instead of {wanted}")
            left.discard(source)
    stored_output = names.output if names.output in left else None
    problems += [f"unknown {name}" for name in sorted(left - {stored_output})]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{checkpoint.path} does not fit its configuration: {'; '.join(problems[:5])}{more}")
    state = {name: _read(name, shape, plan[name], model.config, checkpoint, names, dtype)
             for name, shape in expected.items()}
    if stored_output is not None:
        embedding = "token_embedding.weight"
        _check_output(state[embedding], plan[embedding][0][0], stored_output, checkpoint)
    model.load_state_dict(state, assign=True)


def _read(name: str, shape: Sequence[int], parts: Sequence[tuple[str, int]], config: Any, checkpoint: WeightFile,
          names: TensorNames, dtype: torch.dtype) -> Tensor:
    """One of our tensors, (rows, ...), put together from its parts."""
    result, start = torch.empty(shape, dtype=dtype), 0
    for place, (source, rows) in enumerate(parts):
        part = result[start : start + rows]
        checkpoint.copy(source, part.T if names.lies_turned(name) else part)
        if names.adjust is not None:
            names.adjust(_pattern(name)[0], place, part, config)
        start += rows
    return result


def _check_output(embedding: Tensor, stored_as: str, output: str, checkpoint: WeightFile) -> None:
    """ValueError unless the stored output layer is the embedding: to the last bit, or, where one of the two has fewer
    bits in the file, to what those bits can say."""
    if checkpoint.shapes[output] == tuple(embedding.shape):
        found = torch.empty_like(embedding)
        checkpoint.copy(output, found)
        if checkpoint.formats[output] == checkpoint.formats[stored_as]:
            same = torch.equal(found, embedding)
        else:  # 2 bits a weight leave an error of about a third; another matrix differs by more than its own size
            same = bool((found.float() - embedding.float()).norm() < 0.4 * embedding.float().norm())
        if same:
            return
    raise ValueError(f"{checkpoint.path}: {output} differs from the token embedding, but the configuration says that "
                     "they are one tensor: the file is damaged, or made by a program that does not tie them")


def _pattern(name: str) -> tuple[str, str]:
    """Our name with "{}" for the block's number, and that number."""
    number = re.search(r"\.(\d+)\.", name)
    layer = number.group(1) if number else ""
    return (name.replace(f".{layer}.", ".{}.", 1) if number else name), layer


def _without_missing_prefix(names: TensorNames, checkpoint: WeightFile) -> TensorNames:
    """Files of a model without its output layer lack the first word of all names: "wte.weight"."""
    first = names.names["token_embedding.weight"]
    prefix = first.split(".")[0] + "." if isinstance(first, str) else ""
    if names.rename is not None or not prefix or first.removeprefix(prefix) not in checkpoint.shapes:
        return names
    return replace(names, rename=lambda name: name.removeprefix(prefix))


@cache
def _gguf_names(architecture: str, n_layers: int) -> Callable[[str], str]:
    """From a name on Hugging Face to the one in a GGUF file."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], n_layers)

    def rename(name: str) -> str:
        return table.get_name(name, (".weight", ".bias")) or name

    return rename

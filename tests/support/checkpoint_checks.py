"""What the tests of checkpoints ask of a folder, and how they end a run."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


def names(folder: Path) -> list[str]:
    """All but the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def steps_kept(folder: Path) -> list[int]:
    assert all(name.startswith("step-") for name in names(folder)), f"leftovers: {names(folder)}"
    return [int(name[5:]) for name in names(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_whole(checkpoint: Path) -> bool:
    """By reading it all, and not by the package's own judgement."""
    about = json.loads((checkpoint / "checkpoint.json").read_text())
    with safe_open(checkpoint / "part-0-of-1.safetensors", "pt") as part:
        step = {float(part.get_tensor(name)) for name in part.keys() if name.startswith("optimizer.step.")}
        recorded = part.get_tensor("history.step").tolist()
    number = int(checkpoint.name[5:])
    return about["step"] == number and step == {number} and recorded == list(range(1, number + 1))


def damage(path: Path, place: float = 0.5) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


class Stop(Exception):
    pass


def stop_at(step: int):
    def on_step(record):
        if record["step"] == step:
            raise Stop
    return on_step


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

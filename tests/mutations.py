"""Break the package on purpose, one line at a time, and name the tests that notice: `python -m tests.mutations`.

Each mutation is applied to a copy of `llmbook/`; the unit tests then run against the copy. A mutation that no
test notices makes the command fail: that line could break without anyone knowing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.repository import ROOT

# name: (module, the code as it is, the code broken, the test files that should notice)
MUTATIONS = {
    "causal mask left out": (
        "attention", "is_causal=past == 0 and tokens > 1", "is_causal=False", ["attention", "gpt"]),
    "scale left out": (
        "attention", "dropout_p=dropout,", "dropout_p=dropout, scale=1.0,", ["attention", "gpt"]),
    "mask after a cached past not shifted": (
        "attention", ".tril(past)", ".tril()", ["attention", "gpt"]),
    "cache offset: new tokens stored one place early": (
        "attention", "self.keys[layer, :, :, start:end] = keys",
        "self.keys[layer, :, :, max(start - 1, 0) : max(start - 1, 0) + end - start] = keys", ["attention", "gpt"]),
    "positions ignore the cache": (
        "gpt", "torch.arange(past, past + token_ids.shape[1]", "torch.arange(0, token_ids.shape[1]", ["gpt"]),
    "target shift: targets are the inputs": (
        "text", "return window[:-1], window[1:]", "return window[:-1], window[:-1]", ["text"]),
    "weight tying: the output layer gets its own matrix": (
        "gpt", "return F.linear(hidden, self.token_embedding.weight)",
        "return F.linear(hidden, self.token_embedding.weight.detach().clone())", ["gpt"]),
    "residual around attention left out": (
        "gpt", "x = x + self.dropout(self.attention(", "x = self.dropout(self.attention(", ["gpt"]),
    "residual around feed-forward left out": (
        "gpt", "return x + self.feed_forward(", "return self.feed_forward(", ["gpt"]),
    "decay groups: biases and norms decay too": (
        "training", '"weight_decay": 0.0', '"weight_decay": weight_decay', ["training"]),
    "top-p cut: one token too few": (
        "generation", "cumsum(dim=-1) - probabilities", "cumsum(dim=-1)", ["generation"]),
    "top-p cut: nothing is cut": (
        "generation", "before >= top_p", "before > 1", ["generation"]),
    "temperature ignored": (
        "generation", "logits.float() / temperature", "logits.float()", ["generation"]),
}


def red_tests(module: str, before: str, after: str, files: list[str]) -> list[str]:
    """The tests that fail once `before` reads `after` in one module."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "llmbook", Path(folder, "llmbook"))
        path = Path(folder, "llmbook", f"{module}.py")
        source = path.read_text(encoding="utf-8")
        if source.count(before) != 1:
            sys.exit(f"llmbook/{module}.py holds {before!r} {source.count(before)} times, not once: mend MUTATIONS")
        path.write_text(source.replace(before, after), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider",
                   *[f"tests/test_{name}.py" for name in files]]
        # PYTHONPATH comes before the editable installation, so the copy is what the tests import.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "PYTHONSAFEPATH": "1",
                       "PYTHONDONTWRITEBYTECODE": "1"}
        check = [sys.executable, "-c", "import llmbook; print(llmbook.__file__)"]
        used = subprocess.run(check, env=environment, cwd=ROOT, capture_output=True, text=True).stdout
        if folder not in used:
            sys.exit(f"the tests would import {used.strip()}, not the broken copy")
        printed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True).stdout
    return re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", printed, re.MULTILINE)


def main() -> int:
    unnoticed = 0
    for name, mutation in MUTATIONS.items():
        red = red_tests(*mutation)
        unnoticed += not red
        print(f"{name}: {len(red)} red{''.join(f'{chr(10)}    {test}' for test in red[:4])}", flush=True)
    print(f"\n{len(MUTATIONS)} mutations, {unnoticed} unnoticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())

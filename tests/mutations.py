"""Break the package on purpose, one line at a time, and name the tests that notice: `python -m tests.mutations`.

Each mutation is applied to a copy of the repository, and the unit tests run there. A mutation that no
test notices makes the command fail: that line could break without anyone knowing.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.repository import ROOT

# name: (module, the code as it is, the code broken, the test files that should notice)
MUTATIONS = {
    "causal mask left out": (
        "attention", "is_causal=past == 0 and tokens > 1", "is_causal=False", ["attention"]),
    "scale left out": (
        "attention", "dropout_p=dropout,", "dropout_p=dropout, scale=1.0,", ["attention"]),
    "mask after a cached past not shifted": (
        "attention", ".tril(past)", ".tril()", ["attention"]),
    "cache offset: new tokens stored one place early": (
        "attention", "self.keys[layer, :, :, start:end] = keys",
        "self.keys[layer, :, :, max(start - 1, 0) : max(start - 1, 0) + end - start] = keys", ["attention"]),
    "positions ignore the cache": (
        "gpt", "weight[past : past + token_ids.shape[1]]", "weight[: token_ids.shape[1]]", ["gpt"]),
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
    "unequal prompts: a longer one's own tokens ignored": (
        "generation", "torch.where(position < lengths, prompts[:, position], new)", "new", ["generation"]),
    "rotation: turned the other way": (
        "llama", "torch.cat([-sine, sine], dim=-1)", "torch.cat([sine, -sine], dim=-1)", ["llama"]),
    "rotation ignores the past": (
        "llama", "rotary_table(past, tokens,", "rotary_table(0, tokens,", ["llama"]),
    "llama3 scaling: factor for the fast pairs": (
        "llama", "((turns - low) / (high - low)).clamp(0, 1)", "((high - turns) / (high - low)).clamp(0, 1)",
        ["llama"]),
    "gate and content swapped": (
        "llama", "gate, content = self.expand", "content, gate = self.expand", ["llama"]),
    "queries and keys of a GGUF file left in its order": (
        "open_weights", "if family.turned and", "if False and", ["open_weights"]),
    "tensors of a checkpoint may be left over": (
        "open_weights", 'problems += [f"unknown {name}" for name in left]', "", ["open_weights"]),
    "4-bit codes: low and high halves swapped": (
        "open_weights", "[blocks[:, 4:] & 15, blocks[:, 4:] >> 4]", "[blocks[:, 4:] >> 4, blocks[:, 4:] & 15]",
        ["open_weights"]),
    "the chat forgets nothing": (
        "open_weights", "del messages[len(system) : len(system) + 2]", "raise ValueError('full')", ["open_weights"]),
    "int8: the scale of a row left out": (
        "open_weights", "(self.weight * self.scale[:, None])", "self.weight", ["open_weights"]),
    "the last token but one is read": (
        "classification", "lengths.to(x.device) - 1]", "(lengths.to(x.device) - 2).clamp(0)]", ["classification"]),
    "texts are split by their spelling": (
        "classification", 'f"{seed}:{text_key(text)}"', 'f"{seed}:{text}"', ["classification"]),
    "features of the wrong block": (
        "classification", "model.blocks[-blocks].attention", "model.blocks[1 - blocks].attention", ["classification"]),
    "the final norm is not trained": (
        "classification", "        classifier.model.final_norm.requires_grad_(True)\n", "", ["classification"]),
    "accuracy ignores accumulation": (
        "classification", "loss.training[step * batches : (step + 1) * batches]", "loss.training[step : step + 1]",
        ["classification"]),
    "probabilities in the order of lengths": (
        "classification", "result[places] = logits", "result[len(places) * 0 : len(places)] = logits",
        ["classification"]),
    "4 bits: the value of code 0 given as that of code 8": (
        "open_weights", "(minimum + 8 * step).T", "minimum.T", ["open_weights"]),
    "keys are not turned": (
        "attention", "return *rotate(turned).split(sizes[:2], dim=1), value",
        "query, key = turned.split(sizes[:2], dim=1)\n    return rotate(query), key, value", ["attention", "llama"]),
    "a shared product: every thread takes the first rows": (
        "devices", "return result if bias is None else result + bias",
        "result = result.flatten()[: len(weight) // parts].repeat(parts).view(result.shape)\n"
        "    return result if bias is None else result + bias", ["devices"]),
    "the prompt is learned too": (
        "instructions", "prompt_tokens - 1 if mask_prompt", "0 if mask_prompt", ["instructions"]),
    "the response's first token is not learned": (
        "instructions", "prompt_tokens - 1 if mask_prompt", "prompt_tokens if mask_prompt", ["instructions"]),
    "padding is learned": (
        "instructions", "torch.full((len(items), longest), -100)", "torch.zeros(len(items), longest, dtype=torch.long)",
        ["instructions"]),
    "targets are the inputs": (
        "instructions", "= ids[first + 1 :]", "= ids[first:-1]", ["instructions"]),
    "a response has no end": (
        "instructions", "prompt + response + [end_token(tokenizer, style)]", "prompt + response", ["instructions"]),
    "the validation set is not read": (
        "instructions", "return train(model, loader, response_loss, config, held_out)",
        "return train(model, loader, response_loss, config)", ["instructions"]),
    "a changed model is saved": (
        "training", "if misfits := _misfits(empty.state_dict(), model.state_dict()):",
        "if misfits := '':", ["open_weights"]),
    "checkpoint: what AdamW remembers is not restored": (
        "checkpoints", 'if p in of_group and f"optimizer.exp_avg.{name}" in names:', "if False:", ["checkpoints"]),
    "checkpoint: the place in the data is not restored": (
        "checkpoints", 'self.loader.restore(about["place"])', "pass", ["checkpoints"]),
    "checkpoint: random states are not restored": (
        "checkpoints", 'self.loader.restore(about["place"])\n        set_random_states(about["random"])',
        'self.loader.restore(about["place"])', ["checkpoints"]),
    "checkpoint: a changed setting is let through": (
        "checkpoints", "if changed := changed_settings(", "if changed := (lambda *_: [])(", ["checkpoints"]),
    "checkpoint: damage is not looked for": (
        "checkpoints", "if _checksum(checkpoint / name) != checksum:", "if False:", ["checkpoints"]),
    "checkpoint: a failed write ends the run": (
        "checkpoints", "if writing is not None and (error := writing.exception()):",
        "if writing is not None and (error := writing.result()):", ["checkpoints"]),
    "team: a process with more rows weighs no more": (
        "parallel", " * (len(mine[0]) * self.size / rows)", "", ["parallel"]),
    "team: each begins with its own weights": (
        "parallel", "dist.broadcast(tensor.detach(), src=0)", "pass", ["parallel"]),
    "windows: targets are the inputs": (
        "token_files", "ids[:, 1:].contiguous()", "ids[:, :-1].contiguous()", ["token_files"]),
    "windows: shares ignored": (
        "token_files", "random.choice(len(files), batch_size, p=shares)", "random.choice(len(files), batch_size)",
        ["token_files"]),
}


def red_tests(module: str, before: str, after: str, files: list[str]) -> list[str]:
    """The tests that fail once `before` reads `after` in one module."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("llmbook", "tests", "tools", "data", "conftest.py", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        path = Path(folder, "llmbook", f"{module}.py")
        source = path.read_text(encoding="utf-8")
        if source.count(before) != 1:
            sys.exit(f"llmbook/{module}.py holds {before!r} {source.count(before)} times, not once: mend MUTATIONS")
        path.write_text(source.replace(before, after), encoding="utf-8")
        # In the copy, pytest puts the copy's own folder first on the path, before the editable installation.
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "--maxfail=4",
                   "-p", "no:cacheprovider", *[f"tests/test_{name}.py" for name in files]]
        check = [sys.executable, "-c", "import llmbook; print(llmbook.__file__)"]
        used = subprocess.run(check, cwd=folder, capture_output=True, text=True).stdout
        if Path(folder).name not in used:
            sys.exit(f"the tests would import {used.strip()}, not the broken copy")
        printed = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    return re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", printed, re.MULTILINE)


def main() -> int:
    unnoticed, modules = 0, sys.argv[1:]  # `python -m tests.mutations gpt text` for some modules only
    for name, mutation in MUTATIONS.items():
        if modules and mutation[0] not in modules:
            continue
        red = red_tests(*mutation)
        unnoticed += not red
        print(f"{name}:", *(f"    {test}" for test in red or ["noticed by no test"]), sep="\n", flush=True)
    print(f"\n{unnoticed} unnoticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())

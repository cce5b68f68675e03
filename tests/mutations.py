"""Break the package on purpose, one line at a time, and name the tests that notice: `python -m tests.mutations`.

Each mutation is applied to a copy of the repository, and the tests named beside it run there until the first is red. A
mutation that no test notices makes the command fail: that line could break without anyone knowing. So do a pattern that
is stale and a pytest that did not get as far as running tests: neither says anything about the line.

`python -m tests.mutations training cli` runs those of some modules only; `--jobs 2` two at a time.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT, module_path

COPIED = ("llmbook", "tests", "tools", "data", "notebooks", "conftest.py", "pyproject.toml")

# name: (module, the code as it is, the code broken, the test files that should notice)
MUTATIONS = {
    # attention and models
    "causal mask left out": (
        "attention", "is_causal=mask is None and tokens > 1", "is_causal=False", ["attention"]),
    "scale left out": (
        "attention", "tokens > 1, scale=scale", "tokens > 1, scale=1.0", ["attention"]),
    "mask after a cached past not shifted": (
        "attention", ".tril(past)", ".tril()", ["attention"]),
    "cache offset: new tokens stored one place early": (
        "caching", "self.keys[layer, :, :, start:end] = keys",
        "self.keys[layer, :, :, max(start - 1, 0) : max(start - 1, 0) + end - start] = keys", ["attention"]),
    "a window one token too wide": (
        "attention", ".triu(past - window + 1)", ".triu(past - window)", ["attention"]),
    "one new token sees past its window": (
        "attention", "key[:, :, -window:], value[:, :, -window:]", "key, value", ["attention"]),
    "padding is looked at": (
        "caching", "filled = places >= self.padding[:, None]", "filled = places >= 0 * self.padding[:, None]",
        ["attention", "generation"]),
    "padding is counted in positions": (
        "caching", "return (places - self.padding[:, None]).clamp(min=0)",
        "return (places - 0 * self.padding[:, None])", ["attention", "generation"]),
    "rows are chosen, their padding is not": (
        "caching", "self.padding = None if self.padding is None else self.padding[rows]", "pass", ["attention"]),
    "going back forgets nothing": (
        "caching", "self._lengths = [length] * len(self._lengths)", "pass", ["attention"]),
    "keys are not normed": (
        "attention", "self.query_norm(query), self.key_norm(key)", "self.query_norm(query), key", ["attention"]),
    "nothing is turned": (
        "attention", "query, key = rotate(query), rotate(key)", "rotate(query), rotate(key)", ["attention", "llama"]),
    "positions ignore the cache": (
        "gpt", "self.position_embedding(cache.positions(tokens))", "self.position_embedding.weight[:tokens]", ["gpt"]),
    "weight tying: the output layer gets its own matrix": (
        "gpt", "return linear(hidden, self.token_embedding.weight)",
        "return linear(hidden, self.token_embedding.weight.detach().clone())", ["gpt"]),
    "residual around attention left out": (
        "gpt", "return x + self.dropout(self.attention(", "return self.dropout(self.attention(", ["gpt"]),
    "in training, the last block's residual left out": (
        "classification", "x = x + blocks[-1].feed_forward(", "x = blocks[-1].feed_forward(", ["classification"]),
    "residual around feed-forward left out": (
        "gpt", "return x + self.feed_forward(", "return self.feed_forward(", ["gpt"]),
    "blocks before the first asked for run too": (
        "gpt", "for layer in range(first, len(self.blocks)):", "for layer in range(len(self.blocks)):", ["gpt"]),
    "rotation: turned the other way": (
        "llama", "torch.cat([-sine, sine], dim=-1)", "torch.cat([sine, -sine], dim=-1)", ["llama"]),
    "rotation ignores the past": (
        "llama", "cache.positions(tokens)", "torch.arange(tokens, device=x.device)", ["llama"]),
    "llama3 scaling: factor for the fast pairs": (
        "rotary_scaling", "((turns - low) / (high - low)).clamp(0, 1)", "((high - turns) / (high - low)).clamp(0, 1)",
        ["llama"]),
    "gate and content swapped": (
        "llama", "gate, content = self.expand", "content, gate = self.expand", ["llama"]),
    "layers without positions get them": (
        "llama", "turn = turn if self.has_positions else None", "pass", ["llama", "formats/layouts"]),
    "a shared product: every thread takes the first rows": (
        "devices", "return result if bias is None else result + bias",
        "result = result.flatten()[: len(weight) // parts].repeat(parts).view(result.shape)\n"
        "    return result if bias is None else result + bias", ["devices"]),
    "dropout of attention stays on where it should be off": (
        "devices", 'kwargs["dropout_p"] = 0.0', "pass", ["devices", "generation"]),

    # text and tokens
    "target shift: targets are the inputs": (
        "text", "return window[:-1], window[1:]", "return window[:-1], window[:-1]", ["text"]),
    "a special token in a text is taken for one": (
        "tokenizing", "return tokenizer.encode(text, disallowed_special=())",
        'return tokenizer.encode(text, allowed_special="all")', ["tokenizing", "scale/token_files"]),
    "pairs that a merge made are never merged": (
        "pair_counts", "for other in new_pairs:", "for other in ():", ["pair_counts"]),
    "a pair that became rarer counts as before": (
        "pair_counts", "if -count == self.counts[pair]:", "if True:", ["pair_counts"]),
    "special tokens in a text become tokens, in bulk": (
        "tokenizing", "return tokenizer.encode_to_numpy(text, disallowed_special=())",
        'return tokenizer.encode_to_numpy(text, allowed_special="all")', ["tokenizing"]),
    "half of a pair becomes another character, in bulk": (
        "tokenizing", "    utf8(text)\n    if isinstance(tokenizer, tiktoken.Encoding) and not",
        "    if isinstance(tokenizer, tiktoken.Encoding) and not", ["tokenizing"]),
    "texts that come one by one do not end": (
        "tokenizing", "yield np.array(ids + end, np.int64)", "yield np.array(ids, np.int64)", ["tokenizing"]),
    "merges in any order": (
        "tokenizing", "if left not in ranks or right not in ranks or left + right in ranks:", "if False:",
        ["tokenizing"]),

    # training and generation
    "decay groups: biases and norms decay too": (
        "training", '"weight_decay": 0.0', '"weight_decay": weight_decay', ["training"]),
    "a part with few targets weighs as much as one with many": (
        "training_run", "/ total\n", "/ max(1, count) / len(parts)\n", ["training"]),
    "evaluation: every batch weighs the same": (
        "training", "return sum(loss * count for loss, count in zip(values, counts) if count) / sum(counts)",
        "return sum(values) / len(values)", ["training"]),
    "targets that do not count are counted": (
        "training_run", "return int((targets != -100).sum())", "return targets.numel()", ["training"]),
    "gradients are averaged over the team once too often": (
        "training_run", "(weighed * team.size).backward()", "weighed.backward()", ["team:scale/team"]),
    "gradients are not cleared": (
        "training_run", "optimizer.step()\n    optimizer.zero_grad(set_to_none=True)", "optimizer.step()",
        ["training"]),
    "loss that is no number is trained on": (
        "training_run", "if not math.isfinite(loss + norm):", "if False:", ["training"]),
    "a changed model is saved": (
        "model_files", "if misfits := describe_misfits(described, model.state_dict()):", "if misfits := '':",
        ["training", "open_weights", "formats/quantized"]),
    "somebody else's folder is written into": (
        "model_files", "        check_own_folder(folder)\n", "        pass\n", ["training"]),
    "damaged weights are loaded": (
        "model_files", "if found != (named := WEIGHTS_NAME.fullmatch(path.name).group(1)):",
        "if (named := '') is None:", ["training"]),
    "weights stay mapped from the file": (
        "model_files", "_copied(file.get_tensor(name), dtype)", "file.get_tensor(name)", ["training"]),
    "a setting that an older file lacks is an error": (
        "model_files", "if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING}",
        "}", ["training"]),
    "top-p cut: one token too few": (
        "generation", "cumsum(dim=-1) - probabilities", "cumsum(dim=-1)", ["generation"]),
    "top-p cut: nothing is cut": (
        "generation", "before >= top_p", "before > 1", ["generation"]),
    "spare ids can be chosen": (
        "generation", "logits = logits[:, : self.vocab_size]", "logits = logits", ["generation"]),
    "logits that are no numbers choose a token": (
        "text_batch", "if done < 0:", "if False:", ["generation"]),
    "shorter prompts are padded at the right": (
        "text_batch", 'padding_side="left"', 'padding_side="right"', ["generation"]),
    "what the cache holds is read again": (
        "text_batch", "self.ids[:, self.cache.length : self.length]", "self.ids[:, : self.length]", ["generation"]),
    "ended rows are dropped and the wrong ones go on": (
        "text_batch", "ended.int().argsort(stable=True)", "(~ended).int().argsort(stable=True)", ["generation"]),
    "tokens beyond the end stay in the cache": (
        "text_batch", "return texts.cache.rewind(read)", "return", ["generation"]),
    "texts go on with their halves before anybody looked": (
        "text_batch", "count < max_new_tokens and not texts.is_full()", "count < max_new_tokens", ["generation"]),
    "equal prompts are told apart by their ids alone": (
        "text_batch", "torch.cat([self.padding[:, None], self", "torch.cat([0 * self.padding[:, None], self",
        ["generation"]),
    "each token is waited for": (
        "text_batch", "count % every", "count % 1", ["generation"]),
    "a new token is not remembered": (
        "text_batch", "self.seen.scatter_(1, new[:, None], True)", "pass", ["generation"]),
    "padding counts as token 0": (
        "text_batch", "ids.masked_fill(is_padding, vocab_size)", "ids", ["generation"]),
    "what a row has had is taken for another's": (
        "text_batch", "else self.seen[rows]", "else self.seen[: len(rows)]", ["generation"]),
    "the penalty makes logits below 0 likelier": (
        "repetition", "logits * penalty)", "logits / penalty)", ["generation"]),
    "a compiled pass sees places that are not filled": (
        "compiled", "(self.places < position)", "(self.places <= position)", ["compiled"]),
    "a compiled pass sees padding": (
        "compiled", "(self.places >= padding[:, None])", "(self.places >= 0 * padding[:, None])", ["compiled"]),
    "a compiled pass sees past its window": (
        "compiled", "self.places > self.position - window", "self.places >= self.position - window", ["compiled"]),
    "each length is compiled": (
        "compiled", "torch._dynamo.maybe_mark_dynamic(tensor, 3)", "pass", ["compiled"]),
    "what a step returned is written over": (
        "compiled", "hidden[: len(token_ids)].clone()", "hidden[: len(token_ids)]", ["compiled"]),
    "exchanged layers are not seen": (
        "compiled", "        self._prepare()\n        plain", "        plain", ["compiled"]),

    # other people's files
    "tensors of a checkpoint may be left over": (
        "formats.layouts", 'problems += [f"unknown {name}" for name in sorted(left - {stored_output})]', "",
        ["open_weights", "formats/layouts", "formats/weight_files", "formats/gguf"]),
    "an output layer that is not the embedding is passed over": (
        "formats.layouts", "same = torch.equal(found, embedding)", "same = True",
        ["open_weights", "formats/layouts", "formats/weight_files", "formats/gguf"]),
    "matrices of GPT-2 are written as they lie here": (
        "formats.layouts", "(part.T if self.lies_turned(name) else part).contiguous()", "part.contiguous()",
        ["formats/export", "formats/layouts"]),
    "4 bits: the value of code 0 given as that of code 8": (
        "formats.quantized", "(minimum + 8 * step).T", "minimum.T", ["formats/quantized"]),
    "a token's short way: a window left out": (
        "formats.quick_blocks", "keys[:, :, -window:], values[:, :, -window:]", "keys, values",
        ["formats/quick_blocks"]),
    "a token's short way: the norm's epsilon left out": (
        "formats.quick_blocks", "(d_model * config.norm_eps) ** 0.5", "0.0", ["formats/quick_blocks"]),
    "a token's short way: what a hook changed is passed over": (
        "formats.quick_blocks", "if x is not token.x:", "if layer == 0:", ["formats/quick_blocks"]),
    "a token's short way is taken with padding": (
        "formats.quick_blocks", " and cache.padding is None", "", ["formats/quick_blocks"]),
    "int8: the scale of a row left out": (
        "formats.quantized", "(self.weight * self.scale[:, None])", "self.weight", ["formats/quantized"]),
    "Mistral without a window where its file names none": (
        "formats.llama", "sliding_window: Size | None = 4096\n\n    def windows(self) -> dict[str, Any]:\n"
        '        return {"window": self.sliding_window}',
        "sliding_window: Size | None = None\n\n    def windows(self) -> dict[str, Any]:\n"
        '        return {"window": self.sliding_window}', ["formats/variants"]),
    "SmolLM3: the layers without positions are the others": (
        "formats.llama", "(layer + 1) % every)]", "layer % every)]", ["formats/variants"]),
    "a setting of the rotation that is not known is passed over": (
        "formats.configs", "for name, value in (self.model_extra or {}).items():", "for name, value in ():",
        ["formats/variants", "formats/weight_files"]),
    "a tokenizer of another model": (
        "formats.pretrained_tokenizer", "if not vocab_size - spare <= tokenizer.n_vocab <= vocab_size:", "if False:",
        ["formats/tokenizers"]),
    "a special token in a message is one": (
        "formats.chat_templates", "if not tokenizer.special_tokens_set:", "if True:", ["formats/tokenizers", "chat"]),
    "an answer that was spelled in another way is read again": (
        "formats.conversations", "if new != old and _text(new, special, known) != _text(old, special, known):",
        "if new != old:", ["formats/conversations"]),
    "a special token and its letters are the same text": (
        "formats.conversations", "opening = [token for token in part[:1] if token in special]", "opening = []",
        ["formats/conversations"]),
    "a full context makes room for one turn": (
        "formats.conversations", "<= room // 2)", "<= room)", ["formats/conversations", "chat"]),
    "a full context loses the latest turn too": (
        "formats.conversations", "without(min(gone, max(0, turns - 1)))", "without(gone)", ["formats/conversations"]),
    "a full context loses the system message": (
        "formats.conversations", "[*messages[:first], *messages[first + 2 * gone :]]", "[*messages[2 * gone :]]",
        ["formats/conversations", "chat"]),
    "what fits is looked for turn by turn": (
        "formats.conversations", "bisect_left(range(turns), True, key=lambda gone: len(without(gone)[1]) <= room // 2)",
        "next((g for g in range(turns) if len(without(g)[1]) <= room // 2), turns)", ["formats/conversations"]),
    "what old weights made of a text is kept": (
        "formats.conversations", "if (weights := self._state_of_weights()) != self._weights:", "if False:", ["chat"]),
    "a larger cache forgets what the smaller one held": (
        "formats.conversations", "same = 0 if self.cache is None else", "same = 0 if getattr(self.cache, 'max_tokens', "
        "needed) < needed or self.cache is None else", ["chat"]),
    "a cache grows by a little at a time": (
        "formats.conversations", "room *= 2", "room += 64", ["formats/conversations"]),
    "a chat does not note what it said": (
        "formats.chats", "self.read_so_far.add(token)", "pass", ["formats/conversations", "chat"]),
    "a text that ends in U+FFFD is never shown": (
        "formats.decoding", 'if len(self._window) > _LONGEST else ""', 'if False else ""', ["formats/decoding"]),
    "a token is decoded without the one before": (
        "formats.decoding", "text[self._shown :], self._window[-1:]", "text[self._shown :], []", ["formats/decoding"]),
    "a continuation loses its first space": (
        "formats.decoding", "and not continues", "", ["formats/decoding"]),
    "a local folder with the name of a model is passed over": (
        "formats.shipped", "    if Path(name).exists():\n        raise ValueError",
        "    if False:\n        raise ValueError",
        ["open_weights"]),

    # classification and instructions
    "the last token but one is read": (
        "classification", "lengths.to(x.device) - 1]", "(lengths.to(x.device) - 2).clamp(0)]", ["classification"]),
    "texts are split by their spelling": (
        "classification", 'f"{seed}:{text_key(text)}"', 'f"{seed}:{text}"', ["classification"]),
    "probabilities in the order of lengths": (
        "classification", "result[places] = logits", "result[len(places) * 0 : len(places)] = logits",
        ["classification"]),
    "the prompt is learned too": (
        "instructions", "own[1:] if mask_prompt", "own[1:] | True if mask_prompt", ["instructions"]),
    "the response's first token is not learned": (
        "instructions", "torch.arange(len(ids)) >= prompt", "torch.arange(len(ids)) > prompt", ["instructions"]),
    "padding is learned": (
        "instructions", "torch.full((len(items), longest), -100)", "torch.zeros(len(items), longest, dtype=torch.long)",
        ["instructions"]),
    "targets of a response are its inputs": (
        "instructions", "= ids[1:].masked_fill", "= ids[:-1].masked_fill", ["instructions"]),
    "accuracy of all steps so far": (
        "classification", "count[:] = 0, 0", "pass", ["classification"]),
    "the end token in the response": (
        "instructions", "row[len(ids) :].tolist() if token not in stops]", "row[len(ids) :].tolist()]",
        ["instructions"]),
    "a response's loss is a mean of means": (
        "instructions", "return total / counts.sum().clamp(min=1)", "return total / len(counts)", ["instructions"]),
    "huge powers are computed": (
        "answer_checks", "exponent >= _LARGEST_BITS", "exponent < 0", ["answer_checks"]),
    "a weekday beside another is an answer": (
        "answer_checks", "names == {wanted}", "wanted in names", ["answer_checks"]),
    "two decimals of a third are enough": (
        "answer_checks", "6 <= decimals <= 15", "2 <= decimals <= 15", ["answer_checks"]),

    # long runs
    "checkpoint: what AdamW remembers is not restored": (
        "scale.run_state", 'if p in of_group and f"optimizer.exp_avg.{name}" in names:', "if False:",
        ["scale/checkpoints"]),
    "checkpoint: the place in the data is not restored": (
        "scale.run_state", 'self.loader.restore(unpack(about["place"], of_loader))', "pass", ["scale/checkpoints"]),
    "checkpoint: random states are not restored": (
        "scale.run_state", "set_random_states(states[self.team.rank], self.team.device)", "pass",
        ["scale/checkpoints"]),
    "checkpoint: every process gets the first one's random state": (
        "scale.run_state", "set_random_states(states[self.team.rank], self.team.device)",
        "set_random_states(states[0], self.team.device)", ["team:scale/team", "team:scale/checkpoints"]),
    "checkpoint: a changed setting is let through": (
        "scale.run_state", 'if changed := self.changed(about["settings"], allow):', "if changed := []:",
        ["scale/checkpoints"]),
    "checkpoint: a setting that an older one lacks counts as changed": (
        "scale.run_state", "before.get(name, self.defaults.get(name))", "before.get(name)",
        ["scale/checkpoint_files"]),
    "a signal milliseconds after another ends the run at once": (
        "scale.signals", "elif now - self.first >= GRACE:", "else:", ["scale/signals"]),
    "a signal that was ignored when the run began is taken": (
        "scale.signals", "if handler not in (signal.SIG_IGN, None):", "if True:", ["scale/signals"]),
    "checkpoint: damage is not looked for": (
        "scale.checkpoint_folder", "if checksum_of(self.path / name) != checksum:", "if False:",
        ["scale/checkpoints"]),
    "checkpoint: one failed reading is damage": (
        "scale.checkpoint_folder", "return patiently(self._look) and patiently(self._look)",
        "return self._look()", ["scale/checkpoint_files"]),
    "checkpoint: a failed write ends the run": (
        "scale.checkpoints", "error = writing.exception()", "error = writing.result()", ["scale/checkpoints"]),
    "team: rows are shared out, each row to the first process": (
        "scale.team", "tensor[self.rank::self.size]", "tensor[0::self.size]", ["team:scale/team"]),
    "team: each begins with its own weights": (
        "scale.team", "dist.broadcast(tensor.detach(), src=0)", "pass", ["team:scale/team"]),
    "team: different batches are not noticed": (
        "scale.team", "self._seen = zlib.crc32(content.numpy(), self._seen)", "pass", ["team:scale/team"]),
    "windows: targets are the inputs": (
        "scale.token_windows", "ids[:, 1:].contiguous()", "ids[:, :-1].contiguous()", ["scale/token_files"]),
    "windows: shares ignored": (
        "scale.token_windows", "random.choice(len(self.windows), self.batch_size, p=self.shares)",
        "random.choice(len(self.windows), self.batch_size)", ["scale/token_files"]),
    "token shards: a flipped bit is not noticed": (
        "scale.token_shards", "(found := zlib.crc32(ids)) != self.crc32:", "(found := 0) != 0:",
        ["scale/token_shards"]),
    "a sample of everything leaves small files out": (
        "scale.documents", "places[index] = 1", "places[index] = 0", ["scale/token_documents"]),
    "a sample of everything ignores its seed": (
        "scale.documents", "draw = random.Random(seed)", "draw = random.Random(0)", ["scale/token_documents"]),
    "a sample of everything is the beginnings of files": (
        "scale.documents", "int(stretch * number + draw.random() * (stretch - _SPOT))", "number",
        ["scale/token_documents"]),
    "a vocabulary is learned from the first text only": (
        "cli.data", "spread_documents(texts,", "spread_documents(texts[:1],", ["cli/data"]),
    "token files: documents do not end": (
        "scale.encoding", "np.array([self.end_of_text], self.dtype)]", "np.array([], self.dtype)]",
        ["scale/token_files"]),
    "pieces of a chunk in another order": (
        "scale.encoding", 'b"".join(future.result() for future in futures)',
        'b"".join(future.result() for future in reversed(futures))', ["scale/token_files"]),
    "a piece ends before its document does": (
        "scale.encoding", "chunk.find(DOCUMENT_END, start + _PIECE) + 1 or len(chunk)",
        "min(start + _PIECE, len(chunk))", ["scale/token_files"]),
    "workers load PyTorch": (
        "scale.encoding", "if TYPE_CHECKING:  # worker", "if True:  # worker", ["repository/import"]),

    # the command
    "a damaged model counts as complete": (
        "cli.contents", "if not content_hash(weights).startswith(wanted):", "if False:", ["cli/runs", "cli/pretrain"]),
    "an answer that is stopped goes on unseen": (
        "cli.chat", "pieces.close()", "pass", ["cli/chat"]),
    "what went for want of room is not told": (
        "cli.chat", "if self.talk.notice:", "if False:", ["cli/chat"]),
    "codes are made of weights that were rounded before": (
        "cli.writers", 'dtype = "float32"', "pass", ["cli/writers"]),
    "a missing compiler is found out late": (
        "cli.writers", "_check_compiler(device)\n", "pass\n", ["cli/writers"]),
    "data that has changed counts as the same": (
        "cli.runs", 'before["content"][name].get("content") != now["content"]]', "False]",
        ["cli/runs", "cli/pretrain"]),
    "a foreign folder becomes a run": (
        "cli.runs", 'if not self.folder.is_dir() or any(path.name != ".lock" for path in self.folder.iterdir()):',
        "if False:", ["cli/runs", "cli/pretrain"]),
    "an interrupted run says that its last step is saved": (
        "cli.runs", "        if saved == step:", "        if True:", ["cli/runs", "cli/pretrain"]),
    "a finished run is finished without its model": (
        "cli.runs", 'problem = model_problem(self.folder / "model")', "problem = None", ["cli/runs", "cli/pretrain"]),

    # reinforcement
    "what did better than its group becomes less likely": (
        "reasoning", "return -((gain * counts).sum(dim=1) / tokens).mean()",
        "return ((gain * counts).sum(dim=1) / tokens).mean()", ["reasoning"]),
    "tokens that the model did not choose are learned": (
        "reasoning", "return -((gain * counts).sum(dim=1) / tokens).mean()",
        "return -(gain.sum(dim=1) / tokens).mean()", ["reasoning"]),
    "the larger of ratio and clipped ratio counts": (
        "reasoning", "gain = torch.minimum(ratio * weight,", "gain = torch.maximum(ratio * weight,", ["reasoning"]),
    "the ratio is upside down": (
        "reasoning", "ratio = (new - (new.detach() if old is None else old)).exp()",
        "ratio = ((new.detach() if old is None else old) - new).exp()", ["reasoning"]),
    "a group's baseline is that of all groups": (
        "reasoning", "rewards - rewards.mean(dim=1, keepdim=True)", "rewards - rewards.mean()", ["reasoning"]),
    "the reference is trained with the model": (
        "reasoning", "copy.deepcopy(model).eval().requires_grad_(False) if config.kl", "model if config.kl",
        ["reasoning"]),
    "the distance to the reference is rewarded": (
        "reasoning", "gain = gain - kl * kl_estimate(new, reference)", "gain = gain + kl * kl_estimate(new, reference)",
        ["reasoning"]),
    "what a tool wrote is learned": (
        "reasoning", "own[i] = F.pad(own[i], (0, len(result)))", "own[i] = F.pad(own[i], (0, len(result)), value=True)",
        ["reasoning"]),
    "a run that goes on begins with the first prompts": (
        "reasoning", 'self.drawn, self.left, self.figures = state["drawn"],',
        "self.drawn, self.left, self.figures = 0,", ["reasoning"]),
    "pass at k draws the same sample twice": (
        "reasoning", "1 - comb(n - right, k) / comb(n, k)", "1 - (1 - right / n) ** k", ["reasoning"]),
    "an answer without an end counts": (
        "problems", "if mark and end else", "if mark else", ["problems"]),
    "parts of the problems share numbers": (
        "problems", "if _part_of(numbers) == part:", "if True:", ["problems"]),
    "a countdown is solved by a power": (
        "problems", ' and "**" not in answer', "", ["problems"]),
    "a countdown uses a number twice": (
        "problems", 'sorted(re.findall(r"\\d+", answer)) != given', "False", ["problems"]),

    # two more transformers
    "a translation attends to its source's padding": (
        "encoder_decoder", "F.scaled_dot_product_attention(query, key, value, mask)",
        "F.scaled_dot_product_attention(query, key, value)", ["encoder_decoder"]),
    "an encoded token attends to padding": (
        "encoder_decoder", "            x = block(x, mask)\n        return x, mask",
        "            x = block(x)\n        return x, mask", ["encoder_decoder"]),
    "positions begin anew with each written token": (
        "encoder_decoder", "self.positions[past : past + token_ids.shape[1]]", "self.positions[: token_ids.shape[1]]",
        ["encoder_decoder"]),
    "embeddings enter the blocks as they are": (
        "encoder_decoder", "vectors = self.token_embedding(token_ids) * self.config.d_model**0.5",
        "vectors = self.token_embedding(token_ids)", ["encoder_decoder"]),
    "beams go on from the past of others": (
        "encoder_decoder", "            cache.select(rows)\n", "", ["encoder_decoder"]),
    "all beams begin alike": (
        "encoder_decoder", "scores[:, 0] = 0.0", "scores[:] = 0.0", ["encoder_decoder"]),
    "translations of any length are compared by their sums": (
        "encoder_decoder", "lengths.view(batch, beams)) / 6) ** alpha", "lengths.view(batch, beams)) / 6) ** 0",
        ["encoder_decoder"]),
    "a source is read with dropout": (
        "encoder_decoder", "with without_dropout(self):", "if True:", ["encoder_decoder"]),
    "beams are searched with dropout": (
        "encoder_decoder", "with without_dropout(model):", "if True:", ["encoder_decoder"]),
    "a translation's loss is not smoothed": (
        "encoder_decoder", "label_smoothing=smoothing", "label_smoothing=0.0", ["encoder_decoder"]),
    "rows are chosen, their sources are not": (
        "translation_parts", "self.source = [(key[rows], value[rows]) for key, value in self.source]", "pass",
        ["encoder_decoder"]),
    "a translation's inputs are its targets": (
        "translation_parts", "pad([target[:-1] for", "pad([target[1:] for", ["encoder_decoder"]),
    "a translation's padding has a loss": (
        "translation_parts", "target in items], -100)", "target in items], pad_id)", ["encoder_decoder"]),
    "a source does not end": (
        "translation_parts", "torch.tensor([*ids, end]) for ids", "torch.tensor(ids) for ids", ["encoder_decoder"]),
    "no beams at all": (
        "translation_parts", "or beams < 1:", "or beams < 0:", ["encoder_decoder"]),
    "an encoder attends to padding": (
        "encoder", "mask = (token_ids != self.config.pad_id)[:, None, None]", "mask = None", ["encoder"]),
    "padding is asked for": (
        "encoder", "asked &= token_ids != pad_id", "pass", ["encoder"]),
    "nine tenths of the asked tokens are hidden": (
        "encoder", "kind < 0.8", "kind < 0.9", ["encoder"]),
    "padding is in the mean of a text": (
        "encoder", "total = (model(ids) * real).sum(dim=1)", "total = model(ids).sum(dim=1)", ["encoder"]),
    "vectors come in the order of reading": (
        "encoder", "vectors[places] =", "vectors[sorted(places)] =", ["encoder"]),
    "texts are cut ever after": (
        "encoder", "tokenizer.no_truncation()", "pass", ["encoder"]),
    "the vector of BERT's first segment is left out": (
        "minilm", '.weight"] + first}', '.weight"]}', ["encoder"]),
    "guesses in a catalogue are translations": (
        "translations", "            if not fuzzy:\n", "            if True:\n", ["translations"]),
    "near-copies stand in two parts": (
        "translations", "leader[other] = one", "pass", ["translations"]),
    "near-copies with one rare word more are overlooked": (
        "translations", "// 1)) + 1]", "// 1))]", ["translations"]),

    # beyond attention
    "linear attention sees what comes after": (
        "sequence_mixers", "found.append((q @ k.mT).tril() @ v + q @ state)",
        "found.append((q @ k.mT) @ v + q @ state)", ["sequence_mixers"]),
    "a chunk forgets the state before it": (
        "sequence_mixers", "missing = b[..., None] * (v - faded.exp() * (k @ state))", "missing = b[..., None] * v",
        ["sequence_mixers"]),
    "the delta rule overlooks the other tokens of a chunk": (
        "sequence_mixers", "(k @ k.mT)).tril(-1)", "(k @ k.mT)).tril(-1) * 0", ["sequence_mixers"]),
    "the decay between tokens overflows": (
        "sequence_mixers", "between = (faded - faded.mT).tril().exp()", "between = (faded - faded.mT).exp().tril()",
        ["sequence_mixers"]),
    "padding writes into a state": (
        "sequence_mixers", "x = x if filled is None else x * filled", "pass", ["sequence_mixers"]),
    "padding has a weight in linear attention": (
        "sequence_mixers", "key = key * filled[:, None]", "pass", ["sequence_mixers"]),
    "the convolution begins anew with each pass": (
        "sequence_mixers", "        if before is None:\n", "        if True:\n", ["sequence_mixers"]),
    "a cache goes back to a state of a later place": (
        "state_cache", "default=0)", "default=self.length)", ["state_cache"]),
    "experts are weighed with all experts' probabilities": (
        "experts", "weights = weights.softmax(dim=1)", "weights = weights.sigmoid()", ["experts"]),
    "padding is balanced too": (
        "experts", "balance_loss(scores[counts], per_token)", "balance_loss(scores, per_token)", ["experts"]),
    "hooks on routers stay": (
        "experts", "            hook.remove()", "            pass", ["experts"]),
    "keys of the delta rule keep their lengths": (
        "sequence_mixers", "F.normalize(key, dim=3)", "key", ["sequence_mixers"]),
    "what a chunk wrote does not fade": (
        "sequence_mixers", "(between[:, :, -1:].mT * k).mT", "k.mT", ["sequence_mixers"]),
    "linear attention is not divided by its weights": (
        "sequence_mixers", "return found[..., :-1] / found[..., -1:].clamp(min=1e-6), state",
        "return found[..., :-1], state", ["sequence_mixers"]),
    "what a state says is not normed": (
        "sequence_mixers", "context = self.out_norm(context.to(", "context = (context.to(",
        ["sequence_mixers"]),
    "a state is as rough as the weights": (
        "sequence_mixers", "parts = at_least_float32(query, key, torch.cat([value, ones], dim=3))",
        "parts = query, key, torch.cat([value, ones], dim=3)", ["sequence_mixers"]),
    "earlier states keep all rows": (
        "state_cache", "self._earlier = [(length, _chosen(states, rows)) for length, states in self._earlier]", "pass",
        ["state_cache"]),
    "a window keeps a token more": (
        "state_cache", "keys.shape[2] - (self.window - 1))", "keys.shape[2] - self.window)",
        ["state_cache", "sequence_mixers"]),
    "a window takes its first place for the text's": (
        "state_cache", "places = torch.arange(self.length - kept, self.length + tokens",
        "places = torch.arange(kept + tokens", ["state_cache", "sequence_mixers"]),
    "layers go back to places of their own": (
        "state_cache", "            layer.rewind(place)", "            layer.rewind(length)",
        ["state_cache", "sequence_mixers"]),
    "a new cache can go back to another one's states": (
        "state_cache", "        cache._earlier = []\n", "", ["state_cache"]),
    "the shared expert is not asked": (
        "experts", "if self.shared is None else self.shared(tokens)", "", ["experts"]),
    "an expert that nobody chose has no gradient": (
        "experts", "for number, expert in enumerate(self.experts):",
        "for number, expert in ((n, self.experts[n]) for n in chosen.unique().tolist()):", ["experts"]),
    "routers are balanced as they are tested": (
        "experts", "self.balance and model.training and", "self.balance and", ["experts"]),
    "the families train with one loss": (
        "families", ', loss="llmbook.experts:ExpertLoss"', "", ["families"]),
    "experts that are not chosen count as computing": (
        "cli.cost", "sum((1 - share) * weight.numel()", "sum(share * weight.numel()", ["cli/cost"]),
    "a conversation that outgrows its cache is read anew": (
        "formats.conversations", "return old.beginning(same, room)", "return self.model.new_cache(1, room)",
        ["sequence_mixers"]),

    # the server
    "the last row's state does not move up": (
        "serve.rows", "kept[row] = kept[-1]", "pass", ["serve/rows"]),
    "a step's states are not kept": (
        "serve.rows", "self._states = view.states", "pass", ["serve/rows"]),
    "a window looks at what was never there": (
        "serve.rows", "if min(self.lengths) >= kept:", "if True:", ["serve/rows"]),
    "a short text's window is filled at its end": (
        "serve.rows", "(0, 0, self.empty.window - 1 - state.shape[2], 0)",
        "(0, 0, 0, self.empty.window - 1 - state.shape[2])", ["serve/rows"]),
    "a row that overflowed spoils the next one": (
        "serve.rows", "self._keys[:, last].zero_()", "pass", ["serve/rows"]),
    "rows of unequal length have no padding": (
        "serve.rows", "if min(self.lengths) < longest:", "if False:", ["serve/rows"]),
    "the only way back to a beginning goes": (
        "serve.prefixes", "if cache.reachable(len(text)) == len(text):", "if True:", ["serve/prefixes"]),
    "nothing of a known prompt is left to read": (
        "serve.prefixes", "min(common_prefix(text, ids), len(ids) - 1)", "common_prefix(text, ids)",
        ["serve/prefixes"]),
    "what was used last goes first": (
        "serve.prefixes", "self._texts.move_to_end(best)", "pass", ["serve/prefixes"]),
    "no state is kept where texts part": (
        "serve.engine", "end = min(end, job.parting)", "pass", ["serve/prefixes"]),
    "a call loses its closing mark": (
        "serve.answers", "return sum(min(found))", "return min(found)[0]", ["serve/tools"]),
    "a result is not read": (
        "serve.app", "ids += adapt(self.tokenizer).encode_ordinary(begun)", "pass", ["serve/tools"]),
    "a stream tells a call as text": (
        "serve.protocol", "if self._may_call(text):", "if False:", ["serve/tools"]),
    "a result of another call is taken": (
        "serve.tools", 'if message.get("tool_call_id") != waiting:', "if False:", ["serve/tools"]),
    "a forced call is told as text": (
        "serve.tools", 'return ("",)  # the answer goes on within a call', "pass", ["serve/tools"]),
    "a draft keeps what the text dropped": (
        "quantization", "self.cache.rewind(int(same))", "self.cache.rewind(min(self.cache.length, len(ids) - 1))",
        ["quantization"]),

    # adapters
    "an adapter's strength forgets its rank": (
        "lora", "self.scale, self.dropout = alpha / rank,", "self.scale, self.dropout = alpha,",
        ["lora", "formats/adapters"]),
    "what an adapter leaves alone is trained": (
        "lora", "    model.requires_grad_(False)\n    for layer in lora_layers(model).values():",
        "    for layer in lora_layers(model).values():", ["lora"]),
    "a merged adapter is the wrong one": (
        "lora", "base.weight += layer.adapters[name].matrix()",
        "base.weight += next(iter(layer.adapters.values())).matrix()", ["lora"]),
    "the parts of a loaded adapter lose their scales": (
        "formats.adapters", "pair.B * (pair.scale / first.scale)", "pair.B", ["formats/adapters"]),
    "an adapter's rank is taken for its layer's": (
        "formats.adapters", 'if shapes != wanted:', "if False:", ["formats/adapters"]),

    # the book
    "a forgotten return is not started": (
        "book.exercises.__init__", "if finished and _returned_nothing(verify, answers):", "if False:",
        ["book/exercises"]),
    "threads spin as they like": (
        "threads", "os.environ.setdefault(name, value)", "pass", ["repository/import"]),
    # what makes training fast
    "a target that does not count has a loss": (
        "head_loss", ".where(known, 0.0).sum()", ".sum()", ["head_loss"]),
    "a target that does not count has a gradient": (
        "head_loss", "counts = (target != -100)[:, None]", "counts = (target == target)[:, None]", ["head_loss"]),
    "the gradient of the token that came": (
        "head_loss", "right.expm1()", "right.exp()", ["head_loss"]),
    "the last piece's gradient alone": (
        "head_loss", "grad_weight.addmm_(slope.T, x * counts)", "grad_weight.copy_(slope.T @ (x * counts))",
        ["head_loss"]),
    "batches ahead count as taken": (
        "prefetching", "self.loader.hold()", "pass", ["prefetching", "scale/checkpoints"]),
    "a number that is not finite updates the weights": (
        "devices", "1 - numbers.there.isfinite().all().float()", "0 * numbers.there.isfinite().all().float()",
        ["devices", "training"]),
    # the small world
    "two in different places may talk": (
        "storyworld.rules", "        if len(places) > 1:", "        if len(places) > 9:",
        ["storyworld/words_and_grammar", "storyworld/checks"]),
    "nobody has it, and yet somebody does": (
        "storyworld.rules", 'if found == "nobody":', "if False:", ["storyworld/words_and_grammar"]),
    "needs are looked at once only": (
        "storyworld.grammar", "if len(keys) == known:", "if True:", ["storyworld/words_and_grammar"]),
    "a pronoun of the second person where both are she": (
        "storyworld.grammar", 'self.distinct = bool(pronouns - {"A"})', "self.distinct = False and bool(pronouns)",
        ["storyworld/words_and_grammar"]),
    "she after a preposition": (
        "storyworld.english", "if _AFTER_PREPOSITION.search(before):", "if False:", ["storyworld/words_and_grammar"]),
    "a sentence may begin with a small letter": (
        "storyworld.reading", "if start == MUST and not token[0].isupper():", "if False:", ["storyworld/checks"]),
    "a name may change within a sentence": (
        "storyworld.reading", "return env if bound == value else None", "return env", ["storyworld/checks"]),
    "whose pronoun it is does not matter": (
        "storyworld.checks", "if role in keys and _pronouns().get(keys[role]) != pronoun:", "if False:",
        ["storyworld/checks"]),
    "a story may go on after its end": (
        "storyworld.checks", 'if said.kind.startswith("end_") and report.ending:', "if False:", ["storyworld/checks"]),
    "asked-for things need not occur": (
        "storyworld.checks", "if wanted not in mentioned:", "if False:", ["storyworld/checks"]),
    "held-out kinds in the training stories": (
        "storyworld.corpus", 'has_held_out(story) == (split == "test")', "True", ["storyworld/stories"]),
    "stories of any length": (
        "storyworld.world", "fewest <= words <= most", "words > 0", ["storyworld/stories"]),
    # learning from preferences
    "the rejected answer wins": (
        "preferences", "return -F.logsigmoid(chosen - rejected).mean()",
        "return -F.logsigmoid(rejected - chosen).mean()", ["preferences"]),
    "votes are added up": (
        "preferences", "return -F.logsigmoid(chosen - rejected).mean()",
        "return -F.logsigmoid(chosen - rejected).sum()", ["preferences"]),
    "DPO without its reference": (
        "preferences", "rewards = beta * (log_probs - reference)", "rewards = beta * log_probs", ["preferences"]),
    "DPO's ratio upside down": (
        "preferences", "rewards = beta * (log_probs - reference)", "rewards = beta * (reference - log_probs)",
        ["preferences"]),
    "the probability of what was read, not of what comes next": (
        "preferences", "targets = labels[:, 1:]", "targets = labels[:, :-1]", ["preferences"]),
    "prompts count as answers": (
        "preference_pairs", "labels[row, prompt_tokens : len(ids)] = ids[prompt_tokens:]",
        "labels[row, : len(ids)] = ids", ["preferences"]),
    "the reward is read after the padding": (
        "preferences", "ends = ends_of_rows(labels.flatten(0, 1))", "ends = None", ["preferences"]),
    "the reference is another pair's": (
        "preference_pairs", "(*batch, reference[places])", "(*batch, reference[: len(places)])", ["preferences"]),
    "the reference is always the model": (
        "preferences", "model if reference is None else reference, training", "model, training", ["preferences"]),
    "REINFORCE's sign": (
        "preferences", "return -(advantages * sequence_log_probs", "return (advantages * sequence_log_probs",
        ["preferences"]),
    "the own reward in the baseline": (
        "preferences", "others = (rewards.sum() - rewards) / (len(rewards) - 1)", "others = rewards.mean()",
        ["preferences"]),
    "to leave the reference pays": (
        "preferences", "leave_one_out(rewards - self.beta * moved)", "leave_one_out(rewards + self.beta * moved)",
        ["preferences"]),
    "a run that goes on draws the first answers again": (
        "preferences", 'self.drawn = state["drawn"]', "pass", ["preferences"]),
    "the worst of n": (
        "preferences", "values[rewards.argsort(stable=True)]", "values[(-rewards).argsort(stable=True)]",
        ["preferences"]),
    "a trained reference passes": (
        "preference_pairs", "for weight in model.parameters() if weight.requires_grad}",
        "for weight in model.parameters() if False}", ["preferences"]),
    "what the model writes is fetched ahead": (
        "prefetching", "self.waiting is not None or samples", "self.waiting is not None", ["prefetching"]),
    "an unhappy end is liked": (
        "storyworld.tastes", "- self.left_unhappy", "+ self.left_unhappy", ["storyworld/tastes"]),
    "a reader never wavers": (
        "storyworld.tastes", "return rng.random() < chance_to_prefer", "return 0.5 < chance_to_prefer",
        ["storyworld/tastes"]),
    "nouns of one story share a word": (
        "storyworld.world", "if parts & self.nouns:", "if False:", ["storyworld/stories"]),
    "any answer is right": (
        "storyworld.task_checks", "if word not in allowed] == right", "if word in right] == right",
        ["storyworld/tasks"]),
}


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation."""

    verdict: str  # "noticed", "UNNOTICED", "STALE" or "FAILED"
    detail: str
    seconds: float = 0.0


def mutated(module: str, before: str, after: str, root: Path = ROOT) -> str:
    """A module's source with one line broken. Raises ValueError unless `before` occurs in it exactly once."""
    source = (root / module_path(module).relative_to(ROOT)).read_text(encoding="utf-8")
    if source.count(before) != 1:
        raise ValueError(f"llmbook/{module} holds {before!r} {source.count(before)} times, not once: mend MUTATIONS")
    return source.replace(before, after)


def test_files(names: list[str]) -> list[str]:
    """"gpt" -> tests/test_gpt.py, "scale/team" -> tests/scale/test_team.py; "team:" before it: with that marker."""
    paths = [Path("tests", name.removeprefix("team:")) for name in names]
    return [str(path.with_name(f"test_{path.name}.py")) for path in paths]


def run_tests(folder: Path, names: list[str], *options: str, tests: Sequence[str] = ()) -> tuple[int, str]:
    """pytest's exit status and what it printed, in a copy of the repository; of some tests only, if any are given."""
    marks = "not slow and not book and not gpu" + ("" if any(n.startswith("team:") for n in names) else " and not team")
    # Of pytest's plugins only the one that pyproject.toml has options for: loading all takes seconds each time.
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider",
               "-p", "nbval.plugin", "-m", marks, *options, *(tests or test_files(names))]
    # The copy comes first on the path, before an editable installation and whatever PYTHONPATH says.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1",
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def red(printed: str) -> list[str]:
    """The tests that pytest's summary names as failed."""
    return re.findall(r"^FAILED tests/(.+?)(?: - .*)?$", printed, re.MULTILINE)


def judge(status: int, printed: str) -> tuple[str, str]:
    """Verdict and detail from pytest's exit status: 0 all passed, 1 some failed, else it did not run them all."""
    if status == 0:
        return "UNNOTICED", "by the tests named"
    if status == 1 and red(printed):
        return "noticed", red(printed)[0]
    last = [line for line in printed.splitlines() if line.strip()]
    return "FAILED", f"pytest ended with {status}: {last[-1] if last else 'nothing printed'}"


def copy_repository(folder: Path) -> None:
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    used = subprocess.run([sys.executable, "-c", "import llmbook; print(llmbook.__file__)"], cwd=folder,
                          env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True).stdout
    if not Path(used.strip()).is_relative_to(folder.resolve()):
        raise RuntimeError(f"the tests would import {used.strip()}, not the broken copy")


def outcome(folder: Path, module: str, before: str, after: str, names: list[str]) -> Outcome:
    """Break one line in the copy in `folder`, run the tests, mend it again.

    A test that is red without the mutation too has noticed nothing, and is left out of a second run.
    """
    path = folder / module_path(module).relative_to(ROOT)
    whole, start, deselected = path.read_text(encoding="utf-8"), time.perf_counter(), []
    try:
        broken = mutated(module, before, after, folder)
        while True:
            path.write_text(broken, encoding="utf-8")
            verdict, detail = judge(*run_tests(folder, names, "--maxfail=1", *deselected))
            path.write_text(whole, encoding="utf-8")
            if verdict != "noticed" or run_tests(folder, names, tests=[f"tests/{detail}"])[0] == 0:
                break
            deselected.append(f"--deselect=tests/{detail}")
    except ValueError as problem:
        verdict, detail = "STALE", str(problem)
    finally:
        path.write_text(whole, encoding="utf-8")
    return Outcome(verdict, detail, time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", help="modules or packages to break, such as training or cli; all if none")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutations at a time")
    options = parser.parse_args()
    chosen = {name: mutation for name, mutation in MUTATIONS.items() if not options.modules
              or any(mutation[0] == part or mutation[0].startswith(f"{part}.") for part in options.modules)}
    shares = [list(chosen.items())[job :: options.jobs] for job in range(options.jobs)]
    width, results = max(map(len, chosen)), {}

    def work(share: list) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy_repository(Path(folder))
            for name, mutation in share:
                results[name] = found = outcome(Path(folder), *mutation)
                print(f"{name:{width}}  {mutation[0]:24}  {found.seconds:5.0f} s  {found.verdict:9}  {found.detail}",
                      flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, shares))
    counts = {verdict: sum(found.verdict == verdict for found in results.values())
              for verdict in ("noticed", "UNNOTICED", "STALE", "FAILED")}
    print("\n" + ", ".join(f"{number} {verdict.lower()}" for verdict, number in counts.items()))
    return int(counts["noticed"] < len(chosen))


if __name__ == "__main__":
    sys.exit(main())

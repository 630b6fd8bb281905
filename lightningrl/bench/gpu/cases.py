"""The measurements of `bench gpu`: each a function of the setting that returns figures, or raises Skipped.

On a processor, with a small setting, each can be tried but for what only a CUDA device has: that is skipped, and said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightningrl.bench import machine
from lightningrl.bench.costs import MASTER, MOMENTS
from lightningrl.bench.decode import Workload
from lightningrl.bench.gpu.parts import Setting, Skipped, command
from lightningrl.bench.model_shape import SHAPES, Shape
from lightningrl.bench.random_model import random_model
from lightningrl.bench.trajectories import drawn
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.packed_flex import FlexPacked
from lightningrl.models.packing import pack
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.rl.likelihood import behaviour_of, score_tokens, trajectory_row
from lightningrl.training.shards import PRECISIONS, shard

TPF, PROMPT, RESPONSE = 5.58, 128, 512
"""The decoded workload: the paper's TPF on GSM8K after training, and lengths around its own, in tokens."""


def _cuda(setting: Setting, why: str) -> torch.device:
    if setting.device != "cuda":
        raise Skipped(f"needs a CUDA device: {why}")
    return torch.device("cuda")


def _called(words: list[str], out: Path | None = None) -> dict[str, Any]:
    """Returns what a command wrote to `out`, or the last line that it printed. Raises RuntimeError when it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(words[1:])} ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}"
        )
    lines = done.stdout.strip().splitlines() or [""]
    return json.loads(out.read_text()) if out else {"last_line": lines[-1]}


def cumsum(setting: Setting) -> dict[str, Any]:
    """Whether sums that sampling needs run in deterministic mode."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        torch.rand(4, 151936 if not setting.small else 64, device=setting.device).double().cumsum(-1)
    except RuntimeError as error:
        return {"runs": False, "message": str(error)[:500]}
    finally:
        torch.set_deterministic_debug_mode(before)
    return {"runs": True}


def peaks(setting: Setting) -> dict[str, Any]:
    """Bandwidth and peak arithmetic of the device."""
    device = torch.device(setting.device)
    dtype = torch.bfloat16 if setting.device == "cuda" else torch.float32
    return {
        "gb_per_s": machine.bandwidth_bytes_per_s(device) / 1e9,
        "tflop_per_s": machine.peak_operations_per_s(device, dtype) / 1e12,
    }


def tests(setting: Setting) -> dict[str, Any]:
    """The tests that carry the marker gpu."""
    _cuda(setting, "the tests that carry the marker gpu")
    return _called([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0"])


def memory(setting: Setting, ranks: int) -> dict[str, Any]:
    """Peak bytes of one of several ranks, with random weights: a group without the others, whose collectives only copy.

    The limit of 80 GB is set on a larger card too; 256 rows of 832 positions fill a pool of 30 GB at 8B. Points: the
    policy's shard, the reference's, the replica, a decode, a micro-batch forward and backward, the optimiser's step.
    """
    device, found = torch.device(setting.device), {}
    if device.type == "cuda":
        free = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 80e9 / free))
        torch.cuda.empty_cache()
    size, block = setting.size, 32 if not setting.small else 4
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:

        def at(point: str) -> None:
            machine.synchronise(device)
            found[point] = machine.peak_memory_bytes(device)
            machine.reset_peak_memory(device)

        machine.reset_peak_memory(device)
        held = []
        for name in ("policy", "reference"):
            held.append(_one_shard(size, block, "bfloat16", device, is_trained=name == "policy"))
            at(f"{name} sharded")
        policy, _ = held
        replica = random_model(size, block, torch.bfloat16, device)
        at("replica")
        responses, limit = (256, 704) if not setting.small else (4, 8)
        decoder = BlockDecoder(replica, (), rows=256, memory_bytes=30_000_000_000 if not setting.small else None)
        requests = Workload(PROMPT if not setting.small else 4, limit).requests(responses, SHAPES[size]["vocab_size"])
        decoder.decode(requests, DecodePolicy(Scripted(TPF), temperature=1.0))
        at("rollout")
        decoder.release()
        count, tokens = (8, 512) if not setting.small else (2, 8)
        trajectories = drawn(
            count, prompt_tokens=PROMPT if not setting.small else 4, new_tokens=tokens, block_size=block,
            vocab=SHAPES[size]["vocab_size"] - 1,
        )  # fmt: skip
        policy.checkpoint_activations = True
        optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-6)
        (-score_tokens(policy, trajectories).logp_n.sum()).backward()
        at("backward")
        for parameter in policy.parameters():  # the collectives carry nothing, so the numbers mean nothing
            if parameter.grad is not None:
                parameter.grad.zero_()
        optimiser.step()
        at("optimiser step")
    finally:
        distributed.destroy_process_group()
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    shape = Shape.of_size(size, block)
    planned = (MASTER + MOMENTS) * shape.parameters / ranks
    return {"peak_bytes": found, "masters_and_moments_bytes": planned, "ranks": ranks}


def _one_shard(size: str, block: int, precision: str, device: torch.device, *, is_trained: bool) -> Transformer:
    """Returns a model whose parameters on this device are one rank's, random; it is made on the meta device."""
    config = ModelConfig(**SHAPES[size], block_size=block, mask_token_id=SHAPES[size]["vocab_size"] - 1)
    with torch.device("meta"):
        model = Transformer(config)
    if not is_trained:
        model = model.to(PRECISIONS[precision])
    shard(model, precision, device).to_empty(device=device).requires_grad_(is_trained)
    with torch.no_grad():
        for parameter in model.parameters():
            assert isinstance(parameter, DTensor)
            own = parameter.to_local()
            own.normal_(std=0.02) if own.ndim > 1 else own.fill_(1.0)
    return model


def bench_decode(setting: Setting, batch: int, forwards: str) -> dict[str, Any]:
    """The decoder's speed beside the official loop's (`bench decode`)."""
    out = setting.out / f"decode-{batch}-{forwards}.json"
    words = ["bench", "decode", "--size", setting.size, "--device", setting.device, "--batch", str(batch)]
    words += ["--forwards", forwards, "--out", str(out), "--overwrite"]
    if setting.small:
        words += ["--block-size", "8", "--prompt-tokens", "8", "--new-tokens", "16", "--repeats", "1"]
    else:
        words += ["--dtype", "bfloat16", "--block-size", "32", "--tpf", str(TPF), "--prompt-tokens", str(PROMPT)]
        words += ["--new-tokens", str(RESPONSE)]
    return _called(command(*words), out)


def bench_train(setting: Setting) -> dict[str, Any]:
    """Forward and backward of packed rows beside one row per step (`bench train`)."""
    out = setting.out / "train.json"
    words = ["bench", "train", "--size", setting.size, "--device", setting.device, "--recompute", "--out", str(out)]
    small = ["--new-tokens", "32", "--prompt-tokens", "8", "--repeats", "1", "--block-size", "8"]
    return _called(command(*words, "--overwrite", *(small if setting.small else ["--dtype", "bfloat16"])), out)


def stage(setting: Setting, words: list[str]) -> dict[str, Any]:
    """A stage of the experiment, made by its own command; the seconds of the line are what counts."""
    return _called(command(*words, "--config", str(setting.config)))


def _training(setting: Setting) -> Path:
    """Returns the folder of the experiment's finished training."""
    done = sorted(Path("results", setting.config.stem, "train").glob("timed-*/manifest.json"))
    if not done:
        raise Skipped("there is no finished training of it yet: ask for the part `stages` before")
    return done[-1].parent


def stage_after(setting: Setting, words: list[str]) -> dict[str, Any]:
    """A stage that reads the finished training; beside its last line the precision that its record says, if any."""
    _training(setting)
    found = stage(setting, words)
    for path in sorted(Path("results", setting.config.stem, words[0]).rglob("speed.json")):
        found |= json.loads(path.read_text())
    return found


def phases(setting: Setting) -> dict[str, Any]:
    """Where the training's seconds went (`bench phases`)."""
    out, folder = setting.out / "phases.json", str(_training(setting))
    words = ["bench", "phases", folder, "--device", setting.device, "--out", str(out), "--overwrite"]
    return _called(command(*words, *([] if setting.small else ["--dtype", "bfloat16"])), out)


def turns(setting: Setting, forwards: str, deterministic: bool, cudnn: bool) -> dict[str, Any]:
    """Kernels, copies, synchronisations and milliseconds of a turn at batch 1, by torch's profiler."""
    if forwards == "graphs":
        _cuda(setting, "CUDA graphs")
    device, is_cuda = torch.device(setting.device), setting.device == "cuda"
    before, block = torch.get_deterministic_debug_mode(), 32 if not setting.small else 8
    model = random_model(setting.size, block, torch.bfloat16 if is_cuda else torch.float32, device)
    decoder, policy = BlockDecoder(model, (), rows=1, forwards=forwards), DecodePolicy(Scripted(TPF))
    tokens = RESPONSE if not setting.small else 16
    requests = Workload(PROMPT if not setting.small else 8, tokens).requests(1, model.config.vocab_size)
    cudnn_before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    try:
        decoder.decode(requests, policy)  # warms up
        decoder.ledger.clear()
        seconds = machine.seconds_of(lambda: decoder.decode(requests, policy), device)
        count = len(decoder.ledger.forwards)
        activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * is_cuda
        short = Workload(PROMPT if not setting.small else 8, 3 * block).requests(1, model.config.vocab_size)
        decoder.ledger.clear()
        with torch.profiler.profile(activities=activities) as profile:
            decoder.decode(short, policy)
        profiled = len(decoder.ledger.forwards)
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_before)
    kinds: Counter[str] = Counter()
    for event in profile.events() or ():
        name = event.name.lower()
        if "synchronize" in name:
            kinds["synchronisations"] += 1
        elif "memcpy" in name and event.device_type.name != "CPU":
            kinds["copies"] += 1
        elif event.device_type.name != "CPU":
            kinds["kernels"] += 1
        elif name.startswith("aten::"):
            kinds["aten calls"] += 1
    counts = {f"{kind} a turn": number / max(1, profiled) for kind, number in sorted(kinds.items())}
    return {"turns": count, "ms a turn": 1e3 * seconds / max(1, count), **counts}


def flex(setting: Setting) -> dict[str, Any]:
    """Flex attention over packed rows of the paper's lengths: ms, GB and recompilations of forward and backward."""
    device = _cuda(setting, "flex attention has no backward on a processor")
    shape, block = SHAPES[setting.size], 32
    heads, kv_heads, width = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    found = []
    torch._dynamo.utils.counters.clear()
    for seed in range(4):
        rows, total = [], 0
        lengths = np.random.default_rng(seed).integers(100, 700, 200)
        for number, length in enumerate(lengths.tolist()):
            [one] = drawn(
                1, prompt_tokens=PROMPT, new_tokens=length, block_size=block, vocab=9, seed=1000 * seed + number
            )
            row = trajectory_row(one, 9)
            if total + row.num_tokens > 32_768:
                break
            rows.append(row)
            total += row.num_tokens
        attend, q_shape = FlexPacked(pack(rows, device).layout, device), (1, heads, total, width)
        q, *kv = (
            torch.randn(size, device=device, dtype=torch.bfloat16, requires_grad=True)
            for size in (q_shape, (1, kv_heads, total, width), (1, kv_heads, total, width))
        )

        def work(attend: FlexPacked = attend, q: torch.Tensor = q, kv: list[torch.Tensor] = kv) -> None:
            attend(0, q, *kv).sum().backward()

        work()
        machine.reset_peak_memory(device)
        seconds = min(machine.seconds_of(work, device) for _ in range(3))
        found.append({"positions": total, "ms": 1e3 * seconds, "peak_gb": machine.peak_memory_bytes(device) / 1e9})
    return {"rows": found, "graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)}


def gap(setting: Setting) -> dict[str, Any]:
    """The distribution of |decoder - trainer| over rollouts of real weights, and how many reach the length limit."""
    if setting.checkpoint is None:
        raise Skipped("needs real weights: name them with --checkpoint (CHECKPOINT=... for make)")
    from lightningrl.bench.trajectories import recorded

    limit, prompts = (8192, 64) if not setting.small else (16, 4)
    model, trajectories = recorded(
        setting.checkpoint, prompts, max_new_tokens=limit, threshold=0.9, block_size=None, device=setting.device,
        plugins=setting.plugins,
    )  # fmt: skip
    gaps = []
    with torch.no_grad():
        for one in trajectories:
            scores = score_tokens(model, [one])
            gaps.append((scores.logp_n.float().cpu() - behaviour_of([one], scores).float().cpu()).abs())
    gap_n = torch.cat(gaps).double()
    shares = {f"quantile {share}": float(gap_n.quantile(share)) for share in (0.5, 0.9, 0.99)}
    at_limit = float(np.mean([one.stop == "length" for one in trajectories]))
    return {"mean": float(gap_n.mean()), **shares, "max": float(gap_n.max()), "reach the limit": at_limit}


def two_gpus(setting: Setting) -> dict[str, Any]:
    """Training, killing and resuming over two GPUs: by hand so far, so this says what is missing."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    raise Skipped(
        f"needs two GPUs and is started by hand: found {count}. On two: torchrun --standalone --nproc-per-node 2 -m "
        f"lightningrl train --config {setting.config} --name timed, killed after a step and started again"
    )

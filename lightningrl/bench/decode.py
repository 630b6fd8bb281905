"""Decoding speed, side by side in one run: our engine by schedule and batch, and the official loop at batch 1.

All decode the same prompts greedily with the same weights. A `Scripted` selector reveals a fixed number of tokens per
step, so that tokens per forward are a parameter and random weights suffice. Each engine's forwards are run once more
alone (hidden states, and the head where it was evaluated), which gives the engine's time outside the model. Forwards of
static shape are set against those of spans, run alone: what they fuse cannot be told apart. The variants take turns,
and the figures are medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lightningrl.bench import machine
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.protocol import DecodePolicy, Request, Selector
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan, key_limits
from lightningrl.models.transformer import Transformer

Counts = tuple[int, int, int]
"""Tokens, the rows' forwards without prefill, and the engine's forwards."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The prompts and responses that are decoded."""

    prompt_tokens: int = 64
    new_tokens: int = 128
    tokens_per_step: float = 4.0
    """Positions revealed per denoise forward."""

    def requests(self, count: int, vocab: int) -> list[Request]:
        """Returns random prompts, which depend on their number alone."""
        rng = np.random.default_rng(0)
        prompts = [rng.integers(0, vocab - 1, self.prompt_tokens) for _ in range(count)]
        return [Request(f"bench/{i}", 0, prompt, self.new_tokens) for i, prompt in enumerate(prompts)]


class OfficialLoop:
    """The forwards of the official decoding loop, with our model and our cache: the yardstick of the engines.

    It decodes one request at a time, greedily. For each block it runs denoise forwards of K queries, with the head at
    all K positions, until nothing is masked, and then one more forward that stores the clean block. It ends at the
    length and knows no stop tokens. `forwards` counts all of them, prefill and stores included.
    """

    def __init__(self, model: Transformer, length: int):
        config, self.model, self.forwards = model.config, model, 0
        size = config.block_size
        self.pages_1P = np.arange(-(-length // size))[None]
        self.cache = PagedKV(
            config.num_hidden_layers, self.pages_1P.size, size, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip

    @torch.no_grad()
    def decode(self, request: Request, selector: Selector) -> np.ndarray:
        """Returns [L] the token ids of prompt and response, to the end of the last block."""
        size, mask_id = self.model.config.block_size, self.model.config.mask_token_id
        prompt_len, device = len(request.prompt_ids), self.cache.keys.device
        end = -(-(prompt_len + request.max_new_tokens) // size) * size
        ids_L = torch.full((end,), mask_id, dtype=torch.int64, device=device)
        ids_L[:prompt_len] = torch.from_numpy(request.prompt_ids).to(device)
        first = prompt_len // size * size
        if first:
            self._hidden(ids_L, 0, first)
        for start in range(first, end, size):
            block_K, step = ids_L[start : start + size], 0
            while (open_K := block_K == mask_id).any():
                logp_K, token_K = self.model.log_probs(self._hidden(ids_L, start, size)).max(dim=-1)
                confidence_1K, open_1K = logp_K.exp()[None], open_K[None]
                score_1K = confidence_1K.masked_fill(~open_1K, float("-inf"))
                step_1 = torch.tensor([step], device=device)
                seen = Proposals(open_1K, confidence_1K, torch.zeros_like(confidence_1K), score_1K, step_1)
                chosen_K = selector.select(seen)[0]
                block_K[chosen_K] = token_K[chosen_K]
                step += 1
            self._hidden(ids_L, start, size)
        return ids_L.cpu().numpy()

    def _hidden(self, ids_L: torch.Tensor, start: int, queries: int) -> torch.Tensor:
        self.forwards += 1
        at_1Q = start + np.arange(queries)[None]
        limits_1Q = key_limits(self.model.config, at_1Q, np.array([start + queries]))
        span = PagedSpan(self.pages_1P, at_1Q, limits_1Q, self.model.config.block_size)
        ids_1Q, positions_1Q = ids_L[start : start + queries][None], torch.from_numpy(at_1Q).to(ids_L.device)
        return self.model.hidden(ids_1Q, positions_1Q, PagedAttention(self.cache, [span]))[0]


@dataclass(slots=True)
class Variant:
    """One way of decoding the workload, and the forwards that it ran."""

    name: str
    batch: int
    model: Transformer
    decode: Callable[[], Counts]
    bare: Callable[[], Counts] | None = None
    """What decodes the same by plain forwards, which `record` notes; None: `decode` does."""
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    """The arguments of each forward: (ids, positions, attend) of the trunk, (hidden,) of the head."""

    def record(self) -> Counts:
        """Decodes, and keeps the arguments of every forward."""
        self.calls.clear()
        head = lambda hidden_nH, *_: self.calls.append((hidden_nH,))  # noqa: E731
        with machine.watched(self.model, hidden=lambda *call: self.calls.append(call), log_probs=head):
            found = (self.bare or self.decode)()
        return found if self.bare is None else self.decode()

    @torch.no_grad()
    def replay(self) -> None:
        """Runs the recorded forwards and nothing else."""
        for call in self.calls:
            (self.model.hidden if len(call) == 3 else self.model.logits)(*call)

    def least_seconds(self, bytes_per_s: float, operations_per_s: float) -> float:
        """Returns the least seconds of the recorded forwards: of reading the weights once in each, or of arithmetic."""
        trunk, head = sum(p.nbytes for p in self.model.model.layers.parameters()), self.model.lm_head.weight.nbytes
        forwards: list[list[int]] = []  # positions through the trunk, and through the head
        for call in self.calls:
            if len(call) == 3:
                forwards.append([call[0].numel(), 0])
            else:
                forwards[-1][1] += len(call[0])
        operations_per_byte = 2 / self.model.lm_head.weight.element_size()
        return sum(
            max(
                (trunk + head * (scored > 0)) / bytes_per_s,
                operations_per_byte * (trunk * positions + head * scored) / operations_per_s,
            )
            for positions, scored in forwards
        )


def variants_of(
    model: Transformer, workload: Workload, batches: Sequence[int], repeats_at_1: int, kinds: Sequence[str] = ("spans",)
) -> list[Variant]:
    """Returns the official loop, and our engine with each schedule, batch and kind of forwards."""
    selector = Scripted(workload.tokens_per_step)
    single = workload.requests(repeats_at_1, model.config.vocab_size)

    def official() -> Counts:
        loop = OfficialLoop(model, workload.prompt_tokens + workload.new_tokens + model.config.block_size)
        tokens = sum(len(loop.decode(request, selector)) - workload.prompt_tokens for request in single)
        prefills = len(single) * (workload.prompt_tokens >= model.config.block_size)
        return tokens, loop.forwards - prefills, loop.forwards

    def ours(schedule: Any, batch: int, kind: str) -> Callable[[], Counts]:
        requests = single if batch == 1 else workload.requests(batch, model.config.vocab_size)
        decoder = BlockDecoder(model, (), rows=batch, forwards=kind)

        def decode() -> Counts:
            decoder.ledger.clear()
            trajectories = decoder.decode(requests, DecodePolicy(selector, schedule=schedule))
            stats = [trajectory.stats for trajectory in trajectories]
            row_forwards = sum(s.denoise_forwards + s.commit_forwards for s in stats)
            return sum(s.emitted_tokens for s in stats), row_forwards, len(decoder.ledger.forwards)

        return decode

    return [Variant("official loop", 1, model, official)] + [
        Variant(
            name if kind == "spans" else f"{name}, {kind}",
            batch,
            model,
            ours(schedule, batch, kind),
            None if kind == "spans" else ours(schedule, batch, "spans"),
        )
        for batch in batches
        for name, schedule in (("ours, fused", FusedCommit()), ("ours, separate", SeparateCommit()))
        for kind in kinds
    ]


def run_benchmark(
    model: Transformer,
    workload: Workload,
    batches: Sequence[int],
    *,
    repeats: int = 3,
    repeats_at_1: int = 2,
    forwards: Sequence[str] = ("spans",),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns the machine's figures and one line for each variant; `report` receives the progress."""
    device, dtype = model.lm_head.weight.device, model.lm_head.weight.dtype
    peaks = machine.bandwidth_bytes_per_s(device), machine.peak_operations_per_s(device, dtype)
    variants, warm = variants_of(model, workload, batches, repeats_at_1, forwards), []
    for variant in variants:
        warm.append(machine.peak_of(variant.record, device))  # the first run warms up and records
        report(f"warm: {variant.name}, batch {variant.batch}")
    works = [work for variant in variants for work in (variant.decode, variant.replay)]
    seconds_RV2 = machine.take_turns(works, device, repeats, report).reshape(repeats, len(variants), 2)
    return {
        **machine.conditions(model),
        "weights_mb": sum(p.nbytes for p in model.parameters()) / 1e6,
        "bandwidth_gb_per_s": peaks[0] / 1e9,
        "peak_gflop_per_s": peaks[1] / 1e9,
        "lines": [
            _figures(variant, counts, peak_bytes, seconds_RV2[:, index], variant.least_seconds(*peaks))
            for index, (variant, (counts, peak_bytes)) in enumerate(zip(variants, warm, strict=True))
        ],
    }


def _figures(
    variant: Variant, counts: Counts, peak_bytes: int, seconds_R2: np.ndarray, least_s: float
) -> dict[str, float | str | int]:
    """Returns one line of the table."""
    tokens, row_forwards, forwards = counts
    seconds = float(np.median(seconds_R2[:, 0]))
    over_bare = float(np.median(seconds_R2[:, 0] / seconds_R2[:, 1]))  # each run has its bare forwards right behind it
    return {
        "engine": variant.name,
        "batch": variant.batch,
        "tokens_per_s": tokens / seconds,
        "over_bare": over_bare,
        "outside_pct": 100 * (1 - 1 / over_bare),
        "forwards_per_s": forwards / seconds,
        "tokens_per_true_forward": tokens / row_forwards,
        "bound_tokens_per_s": tokens / least_s,
        "of_bound_pct": 100 * least_s / seconds,
        "peak_memory_mb": peak_bytes / 1e6,
    }

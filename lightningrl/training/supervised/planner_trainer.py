"""Planner pre-training: canvases with random masks, targets by the factor rule, a weighted binary cross-entropy.

Of each sequence a stretch [b0, b1) is drawn, of which a random share is masked; all behind it is masked, all before it
known. The planner is asked about the masked positions of the stretch alone, and its target is what Fast-dLLM's factor
rule reveals of them by the frozen model's confidences. Revealed and kept positions weigh equally over the whole batch.
All draws are keyed by (seed, step). Processes share the sequences of a step; each has the whole model, whose forwards
need no gradient, and the planner's gradients are summed.

Shapes: B sequences; L positions of a canvas; V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.models.canvas import CanvasAttention, CanvasLayout
from lightningrl.models.transformer import Transformer
from lightningrl.rl.selection import Selection
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.update import step
from lightningrl.training.budgeted import BudgetedTrainer
from lightningrl.training.loop import StepResult
from lightningrl.training.supervised.corpus import TrainingSequence, build_corpus

if TYPE_CHECKING:
    from lightningrl.training.supervised.planner_pretraining import PlannerPretraining

FEWEST = 2
"""Positions behind the prompt of which a canvas is left as it is."""


class PlannerCanvas(NamedTuple):
    """One training canvas."""

    ids_L: np.ndarray
    """int64, masks included."""
    asked_L: np.ndarray
    """bool: the masked positions that the planner is asked about."""


def planner_canvas(
    sequence: TrainingSequence, length: int, block: int, mask_id: int, pad_id: int, rng: np.random.Generator,
    compat: bool = False,
) -> PlannerCanvas:  # fmt: skip
    """Draws the masks of one sequence. compat: a stretch may begin in a prompt longer than `length` minus `block`."""
    ids_L = np.full(length, pad_id, dtype=np.int64)
    known = np.concatenate([sequence.prompt_ids, sequence.response_ids])[:length]
    ids_L[: len(known)] = known
    asked_L, prompt = np.zeros(length, dtype=bool), len(sequence.prompt_ids)
    if length - prompt <= FEWEST:
        return PlannerCanvas(ids_L, asked_L)
    low, high = sorted((prompt + rng.choice(length - 1 - prompt, 2, replace=False)).tolist())
    low = min(low, max(0, length - block))
    low = low if compat else max(low, prompt)
    high = min(max(high, low + block), length)
    count = max(1, math.ceil((high - low) * rng.random()))
    asked_L[low + rng.choice(high - low, count, replace=False)] = True
    ids_L[asked_L | (np.arange(length) >= high)] = mask_id
    return PlannerCanvas(ids_L, asked_L)


@torch.no_grad()
def planner_targets(
    model: Transformer, hidden_BLH: Tensor, asked_BL: Tensor, factor: float = 1.0, compat: bool = False
) -> Tensor:
    """(B, L) bool: what the factor rule reveals of the positions that are asked about, by the model's confidences.

    compat: confidences in which the mask token has its share, and the rule's off-by-one, as in the published code.
    """
    confidence_BL = torch.zeros(asked_BL.shape, dtype=torch.float64, device=asked_BL.device)
    for row in range(len(asked_BL)):  # a table of one canvas at a time
        log_probs_nV = model.log_probs(hidden_BLH[row, asked_BL[row]], bans=not compat)
        confidence_BL[row, asked_BL[row]] = log_probs_nV.amax(dim=-1).exp().double()
    step_B = torch.zeros(len(asked_BL), dtype=torch.int64, device=asked_BL.device)
    proposals = Proposals(asked_BL, confidence_BL, torch.zeros_like(confidence_BL), confidence_BL, step_B)
    return Factor(factor, compat).select(proposals)


def positive_weight(positives: float, asked: float) -> float:
    """What a revealed position weighs, so that both classes weigh alike; 1 where one of them is empty.

    >>> positive_weight(1, 4), positive_weight(0, 4)
    (3.0, 1.0)
    """
    return (asked - positives) / positives if 0 < positives < asked else 1.0


def planner_loss(logit_BL: Tensor, target_BL: Tensor, asked_BL: Tensor, weight: float, asked: float) -> Tensor:
    """A part's share of the mean over all `asked` positions of -[w y ln s(z) + (1 - y) ln(1 - s(z))]."""
    logit_n, target_n = logit_BL[asked_BL], target_BL[asked_BL]
    heavy = torch.tensor(weight, dtype=logit_n.dtype, device=logit_n.device)
    total = F.binary_cross_entropy_with_logits(logit_n, target_n.to(logit_n.dtype), pos_weight=heavy, reduction="sum")
    return total / max(1.0, asked)


class PlannerTrainer(BudgetedTrainer):
    """Trains the planner of a run's base on the train split of its benchmark."""

    def __init__(self, setup: TrainSetup, config: PlannerPretraining.Config):
        # The decoder's is whole in every process; where nothing is sharded it is the policy itself.
        self.setup, self.config, self.model, run = setup, config, setup.decoder.model, setup.run
        setup.check(run.implementation)
        self.begin()
        self.model.requires_grad_(False)
        if self.model.planner is None:
            self.model.add_planner(torch.Generator().manual_seed(setup.seed))
        planner = self.model.planner
        assert planner is not None
        # A planner of the base's came in the precision of forwards, in which small updates would be lost.
        planner.to(torch.promote_types(planner.mask_linear.weight.dtype, torch.float32))
        self.weights = list(planner.requires_grad_(True).parameters())
        self.corpus = build_corpus(setup.tokenizer, setup.train, setup.task.render, 1)
        self.optimiser = torch.optim.AdamW(self.weights, lr=run.learning_rate, weight_decay=run.weight_decay)
        self.selection = Selection(
            "highest validation accuracy; of equals the most tokens per forward, then the last",
            lambda figures: (figures["validation_accuracy_pct"], figures["validation_tpf"]),
            setup.world.is_first,
        )

    def step(self) -> StepResult:
        start, run, setup, config = time.monotonic(), self.setup.run, self.setup, self.config
        if self.steps_done == 0:
            self.selection.start(setup.validate())
        rng = np.random.default_rng([setup.seed, self.steps_done])
        ids = self.model.config.mask_token_id, setup.tokenizer.pad_token_id
        canvases = [
            planner_canvas(self.corpus[index], config.length, config.block, *ids, rng, config.compat)
            for index in rng.integers(0, len(self.corpus), run.sequences)
        ]
        floor = min(config.min_learning_rate, run.learning_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = floor + (run.learning_rate - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent)))
        metrics = self._update(canvases)
        self.token_forwards += run.sequences * config.length
        self.steps_done += 1
        self.note_update(metrics["skipped"] == 1.0)
        metrics = {"step": self.steps_done} | metrics | {"token_forwards": self.token_forwards}
        if self.steps_done % run.validate_every == 0 or self.done:
            metrics |= self.selection.offer(self.steps_done, setup.validate(), self.model)
        return StepResult(metrics, {"update_s": time.monotonic() - start})

    def _update(self, canvases: Sequence[PlannerCanvas]) -> dict[str, Any]:
        """One step of the planner; a loss or gradient that is not finite changes nothing (`skipped` is 1)."""
        setup, world, device = self.setup, self.setup.world, self.model.device
        mine = world.share(canvases)
        parts = []
        for first in range(0, len(mine), setup.run.microbatch):
            part = mine[first : first + setup.run.microbatch]
            ids_BL, asked_BL = (torch.from_numpy(np.stack(each)).to(device) for each in zip(*part, strict=True))
            hidden_BLH = self._hidden(ids_BL)
            target_BL = planner_targets(self.model, hidden_BLH, asked_BL, self.config.factor, self.config.compat)
            masked_B = (ids_BL == self.model.config.mask_token_id).sum(dim=1)
            parts.append((hidden_BLH, 1.0 - masked_B.double() / ids_BL.shape[1], asked_BL, target_BL))
        counts = {
            "positives": float(sum(int(p[3].sum()) for p in parts)),
            "asked": float(sum(int(p[2].sum()) for p in parts)),
        }
        counts = world.totals(counts)
        weight, total = positive_weight(counts["positives"], counts["asked"]), 0.0
        for hidden_BLH, timestep_B, asked_BL, target_BL in parts:
            logit_BL = self.model.plan(hidden_BLH, timestep_B, asked_BL)
            loss = planner_loss(logit_BL, target_BL, asked_BL, weight, counts["asked"])
            loss.backward()
            total += float(loss.detach())
        total = world.totals({"loss": total})["loss"]
        if world.size > 1:
            for parameter in self.weights:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
        norm = step(self.optimiser, setup.run.max_grad_norm, math.isfinite(total))
        share = counts["positives"] / max(1.0, counts["asked"])
        sound = {"loss": total, "grad_norm": norm, "skipped": 0.0}
        return (sound if norm is not None else dict.fromkeys(sound) | {"skipped": 1.0}) | {"revealed_share": share}

    @torch.no_grad()
    def _hidden(self, ids_BL: Tensor) -> Tensor:
        """(B, L, H) of the frozen model."""
        rows, length = ids_BL.shape
        positions_BL = torch.arange(length, device=ids_BL.device).expand(rows, length)
        attend = CanvasAttention(CanvasLayout((length,) * rows))
        return self.model.hidden(ids_BL.reshape(1, -1), positions_BL.reshape(1, -1), attend)[0].view(rows, length, -1)

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        told = "not finite" if row["loss"] is None else f"{row['loss']:.3f}"
        return f"step {row['step']}  {100 * self.spent:.0f} % of the budget  planner's loss {told}"

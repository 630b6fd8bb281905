"""The likelihood of the trajectory that happened: each revealed token, in the state of its own denoise forward.

For every denoise forward of a response there is one noisy copy of the block it worked on: positions revealed by
earlier forwards hold their tokens, all others the mask, and the positions revealed by this very forward are the
actions. For a model whose positions see the whole canvas, the copy is of the whole canvas, and the blocks that come
later are masked in it. With the decoder's weights the result equals the decoder's `behaviour_logp`. The sum over
actions is TraceRL's surrogate of the path's probability, because it leaves out one factor: which positions per forward
reveals depends on the tokens that were drawn, too.

Tokens after the first stop token are context, never actions; the stop token is an action.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.models.packing import ALL, Packed, PackedRow, pack, token_scores
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import AS_DECODED, StateGrouping
from lightningrl.types import Trajectory

Copies = slice | Sequence[np.ndarray]
"""Which states of each of several trajectories: a range of every one's, or the numbers of each one's own, in time."""


def copies_of(copies: Copies, number: int) -> slice | np.ndarray:
    """Returns which states of the trajectory of that number."""
    return copies if isinstance(copies, slice) else copies[number]


def check_scorable(attention: str | None, policies: Iterable[DecodePolicy], accepts_inexact_caches: bool) -> None:
    """Raise ConfigError for a decoder whose trajectories have no exact likelihood here.

    With stale keys or values, `behaviour_logp` is not what the model gives for the trajectory's states. Blocks that do
    not lie on a block-causal model's grid are states that packed rows cannot hold. attention: the model's; None: not
    known yet, so whatever the schedule is for.
    """
    for policy in policies:
        schedule = policy.schedule
        if not schedule.is_exact and not accepts_inexact_caches:
            raise ConfigError(
                f"{schedule} keeps stale keys and values, so the likelihood of what it decodes is not exact. Train "
                "with another schedule, or set runs.accept_inexact_caches: true"
            )
        if not policy.logits.is_models_own:
            raise ConfigError(
                f"{policy.logits}: tokens are not drawn from the model's own distribution, so what it decodes has no "
                "likelihood to train on. Train without cfg_scale, logits_eos_inf and bans_mask"
            )
        if schedule.window != 1:
            raise ConfigError(
                f"{schedule} reveals in several blocks by one forward, and the states of a packed row have one open "
                "block. Train with another schedule: fused, separate or recompute; to evaluate with this one, give it "
                "to an entry of `systems`"
            )
        seen = attention or ("full" if schedule.fills_canvas else "block_causal")
        if (seen == "full") != schedule.fills_canvas or seen == "causal":
            raise ConfigError(
                f"{schedule} with {seen} attention: trajectories are scored in the states that the model saw; train a "
                "block-causal model with one of fused, separate, recompute, and one with full attention with "
                "full_sequence or whole_sequence"
            )
        if schedule.block_size and not schedule.fills_canvas:
            raise ConfigError(
                f"{schedule} with {seen} attention: trajectories are scored block by block on the model's own grid; "
                "leave its block_size out"
            )


def trajectory_row(trajectory: Trajectory, mask_token_id: int, states: StateGrouping = AS_DECODED) -> PackedRow:
    """Returns the states and actions of one trajectory."""
    size, prompt_len = trajectory.block_size, len(trajectory.prompt_ids)
    never = trajectory.stats.denoise_forwards + 1
    later = np.full(trajectory.later_masks, 1)
    ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids, mask_token_id * later])
    reveal = np.concatenate([np.zeros(prompt_len, dtype=np.int64), trajectory.reveal_step, never * later])
    position = np.arange(len(ids))
    is_response = (position < prompt_len + trajectory.response_len) | states.after_stop
    block = (position - trajectory.origin) // size
    block_of_step = np.zeros(never + 1, dtype=np.int64)
    block_of_step[reveal] = block
    steps = np.unique(reveal[(reveal > 0) & (reveal < never) & is_response])
    blocks = block_of_step[steps]
    if states.full_mask or states.shrink > 1:
        reveal, steps, blocks = _merged(reveal, steps, blocks, size if states.full_mask else states.shrink)
    if states.full_mask:
        # Blocks behind the last that is scored are seen on a canvas alone, and are masked there.
        last_of_block = np.full(-(-len(ids) // size), never)
        last_of_block[blocks] = steps
        reveal = np.where(position < prompt_len, 0, last_of_block[block])
    if trajectory.origin:  # the grid begins at the prompt's end: a canvas
        scored_CL = (reveal == steps[:, None]) & is_response
        state_CL = np.where(reveal >= steps[:, None], mask_token_id, ids)
        targets_CL = np.broadcast_to(ids, state_CL.shape)
        return PackedRow(ids[:0], np.zeros(len(steps), np.int64), state_CL, targets_CL, scored_CL, is_canvas=True)
    ids_CK, reveal_CK = ids.reshape(-1, size)[blocks], reveal.reshape(-1, size)[blocks]
    return PackedRow(
        clean_ids=ids[: blocks.max() * size],
        copy_block=blocks,
        copy_ids=np.where(reveal_CK >= steps[:, None], mask_token_id, ids_CK),
        target_ids=ids_CK,
        scored=(reveal_CK == steps[:, None]) & is_response.reshape(-1, size)[blocks],
    )


def _merged(
    reveal: np.ndarray, steps: np.ndarray, blocks: np.ndarray, shrink: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each block's distinct steps in runs of `shrink`, replaced by their run's last (TraceRL's collapse)."""
    rank = np.arange(len(steps)) - np.searchsorted(blocks, blocks)
    is_first = rank % shrink == 0
    is_last = np.r_[is_first[1:], True]
    first, last = steps[is_first], steps[is_last]
    run = np.searchsorted(first, reveal, side="right") - 1
    inside = (run >= 0) & (reveal <= last[run])
    return np.where(inside, last[run], reveal), last, blocks[is_last]


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """One value an action, over several trajectories; n actions in all."""

    logp_n: Tensor
    """Nats, differentiable."""
    entropy_n: Tensor
    """Nats, of the whole distribution at the action's state; detached."""
    row_n: Tensor
    """Index of the trajectory."""
    position_n: Tensor
    """Index into the trajectory's response."""
    step_n: Tensor | None = None
    """The denoise forward that revealed the action; None where nobody asks."""


def pack_states(
    model: Transformer, trajectories: Sequence[Trajectory], states: StateGrouping = AS_DECODED, copies: Copies = ALL
) -> Packed:
    """Returns the trajectories' states, or those of `copies`, one after another on the model's device."""
    mask_id, shift = model.config.mask_token_id, model.config.logit_shift
    rows = [trajectory_row(trajectory, mask_id, states) for trajectory in trajectories]
    return pack([row.part(copies_of(copies, number)) for number, row in enumerate(rows)], model.device, shift)


def score_tokens(
    model: Transformer, trajectories: Sequence[Trajectory], states: StateGrouping = AS_DECODED, copies: Copies = ALL
) -> TokenScores:
    """Returns log-probabilities of the trajectories' actions under `model`, of all their states or of some.

    Consecutive ranges of one trajectory's states (`copies`) give, one behind the other, what it gives whole.
    """
    temperatures = {trajectory.temperature for trajectory in trajectories}
    own_grid = {trajectory.block_size for trajectory in trajectories if not trajectory.origin}
    block_sizes = own_grid or {model.config.block_size}
    if len(temperatures) != 1 or block_sizes != {model.config.block_size}:
        raise DecodeError(
            f"trajectories of temperatures {sorted(temperatures)} and block sizes {sorted(block_sizes)}: expected one "
            f"temperature a micro-batch, and the model's block size {model.config.block_size}"
        )
    packed = pack_states(model, trajectories, states, copies)
    logp_n, entropy_n = token_scores(model, packed, trajectories[0].temperature or 1.0)
    prompt_len_B = torch.tensor([len(t.prompt_ids) for t in trajectories], device=packed.row_n.device)
    return TokenScores(logp_n, entropy_n, packed.row_n, packed.position_n - prompt_len_B[packed.row_n])


@dataclass(frozen=True, slots=True, eq=False)
class ActionIndex:
    """Which actions several trajectories have, n in all, in the order of `score_tokens`; no forward is needed."""

    row_n: Tensor
    """Index of the trajectory."""
    state_n: Tensor
    """Index of the action's state in its trajectory, growing with time."""
    position_n: Tensor
    """Index into the trajectory's response."""


def index_actions(
    trajectories: Sequence[Trajectory], states: StateGrouping = AS_DECODED, copies: Copies = ALL
) -> ActionIndex:
    """Returns the trajectories' actions in these states, or in some of them; on the CPU."""
    found = []
    for number, trajectory in enumerate(trajectories):
        whole = trajectory_row(trajectory, 0, states)
        own = copies_of(copies, number)
        row = whole.part(own)
        state, column = np.nonzero(row.scored)
        position = row.copy_block[state] * row.copy_ids.shape[1] + column - len(trajectory.prompt_ids)
        found.append((np.full(len(state), number), np.arange(len(whole.copy_block))[own][state], position))
    return ActionIndex(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True)))


def behaviour_of(trajectories: Sequence[Trajectory], actions: TokenScores | ActionIndex) -> Tensor:
    """Returns (n,) the decoder's log-probability of each action."""
    table_BS = pad_sequence([torch.from_numpy(t.behaviour_logp).float() for t in trajectories], batch_first=True)
    return table_BS.to(actions.row_n.device)[actions.row_n, actions.position_n]

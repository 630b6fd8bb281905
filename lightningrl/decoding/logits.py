"""How the logits at open positions become the distribution that a token is drawn from, and its confidence.

By default the mask token and the padding rows of the vocabulary have probability 0, and the confidence is the drawn
token's probability at the decoding temperature, as in SDAR. The options are LLaDA's (ML-GSAI/LLaDA, generate.py).

Shapes: n open positions; H hidden size; V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightningrl.errors import DecodeError
from lightningrl.models.transformer import Transformer, log_probs_of

LLADA_EOS, LLADA_EOT = 126081, 126348


@dataclass(frozen=True, slots=True)
class Logits:
    """Says how logits are changed before the softmax.

    - untempered: confidences and entropies are those at temperature 1, whatever tokens are drawn at.
    - cfg_scale: above 0, each forward has a twin whose prompt is all masks, and logits are
      twin + (cfg_scale + 1)(own - twin).
    - logits_eos_inf: `eos_id` is never drawn.
    - confidence_eos_eot_inf: `eos_id` and `eot_id` have no part in confidences. A position whose token is one of them
      has confidence 0 and comes last; the confidence of the others is relative to what is left.
    - compat: at a temperature above 0 only `eot_id` has no part in them, as in the published code.
    - filtered: at a temperature above 0, top-p, then top-k, come before confidences and entropies, which are those of
      what is left (Fast-dLLM v2), and not after them as in SDAR.
    - filtered_greedy: so they do at temperature 0 too, where they change the order of positions alone (Dream).
    - bans_mask: False leaves the mask token its probability, as the published decoders do, which may then choose it;
      for comparisons with them.
    """

    untempered: bool = False
    cfg_scale: float = 0.0
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    eos_id: int = LLADA_EOS
    eot_id: int = LLADA_EOT
    compat: bool = False
    bans_mask: bool = True
    filtered: bool = False
    filtered_greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.cfg_scale < float("inf"):
            raise DecodeError(f"logits: cfg_scale is {self.cfg_scale}, expected 0 (off) or more")
        if self.untempered and (self.filtered or self.filtered_greedy):
            raise DecodeError(
                "logits: untempered confidences are those at temperature 1, filtered ones those of what top-p and "
                "top-k leave at the temperature of the draws; take one of them"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the drawn token's log-probability is the model's own, and its exponential the confidence."""
        return not (
            self.untempered or self.cfg_scale or self.logits_eos_inf or self.confidence_eos_eot_inf
            or self.filtered or self.filtered_greedy
        ) and self.bans_mask  # fmt: skip

    @property
    def is_models_own(self) -> bool:
        """Whether tokens are drawn from the model's own distribution, whose likelihood a trainer can compute."""
        return not (self.cfg_scale or self.logits_eos_inf) and self.bans_mask

    def narrows(self, sampled_n: np.ndarray, top_k_n: np.ndarray, top_p_n: np.ndarray) -> bool:
        """Whether top-p or top-k come before confidences at some of n positions."""
        here_n = sampled_n & self.filtered | self.filtered_greedy
        return bool((here_n & ((top_k_n > 0) | (top_p_n < 1))).any())

    def of(self, model: Transformer, hidden_nH: Tensor, twin_nH: Tensor | None) -> Tensor:
        """(n, V) logits; twin: hidden states of the forward whose prompt is all masks, where cfg_scale is above 0."""
        logits_nV = model.logits(hidden_nH)
        if logits_nV.dtype in (torch.bfloat16, torch.float16):
            logits_nV = logits_nV.float()
        if self.cfg_scale:
            assert twin_nH is not None
            twin_nV = model.logits(twin_nH).to(logits_nV.dtype)
            logits_nV = twin_nV + (self.cfg_scale + 1) * (logits_nV - twin_nV)
        if self.logits_eos_inf:
            logits_nV = logits_nV.clone()
            logits_nV[:, self.eos_id] = float("-inf")
        return logits_nV

    def log_probs(self, model: Transformer, logits_nV: Tensor, temperature: float | Tensor) -> Tensor:
        """(n, V) log softmax(logits / temperature), nats."""
        mask_id = model.config.mask_token_id if self.bans_mask else None
        return log_probs_of(logits_nV, temperature, model.usable_vocab, mask_id)

    def narrowed(self, log_probs_nV: Tensor, sampled_n: Tensor, top_k_n: Tensor, top_p_n: Tensor) -> Tensor:
        """(n, V) log-probabilities of what top-p and top-k leave, which add up to 1.

        Top-p first: a token goes where those before it, equals by id, together exceed top_p. Then top-k: those as
        likely as the k-th stay. sampled: bool, drawn at a temperature above 0.
        """
        here_n1 = (sampled_n | self.filtered_greedy)[:, None]
        ordered_nV, order_nV = log_probs_nV.double().exp().sort(dim=-1, descending=True, stable=True)
        outside_nV = (ordered_nV.cumsum(dim=-1) - ordered_nV > top_p_n[:, None]) & (top_p_n[:, None] < 1)
        outside_nV[:, 0] = False
        place_n1 = torch.where(top_k_n > 0, top_k_n, log_probs_nV.shape[-1]).clamp(max=log_probs_nV.shape[-1])[:, None]
        left_nV = ordered_nV.masked_fill(outside_nV, 0.0)
        outside_nV |= left_nV < left_nV.gather(-1, place_n1 - 1)
        outside_nV = outside_nV.gather(-1, order_nV.argsort(dim=-1))
        return log_probs_nV.masked_fill(outside_nV & here_n1, float("-inf")).log_softmax(dim=-1)

    def confidence(self, log_probs_nV: Tensor, token_n: Tensor, sampled_n: Tensor) -> Tensor:
        """(n,) of the drawn tokens. log_probs: at the temperature that confidences are of; sampled: bool, drawn at a
        temperature above 0."""
        chosen_n1 = token_n[:, None]
        if not self.confidence_eos_eot_inf:
            return log_probs_nV.gather(-1, chosen_n1).squeeze(-1).exp()
        left_nV = log_probs_nV.clone()
        left_nV[:, self.eot_id] = float("-inf")
        keeps_eos_n = sampled_n if self.compat else torch.zeros_like(sampled_n)
        left_nV[:, self.eos_id] = left_nV[:, self.eos_id].masked_fill(~keeps_eos_n, float("-inf"))
        return left_nV.log_softmax(dim=-1).gather(-1, chosen_n1).squeeze(-1).exp()

    def refusal(self, vocab_size: int) -> str | None:
        """Why this cannot be done with a model of so many tokens: it lacks one of those named."""
        used = [self.eos_id] * (self.logits_eos_inf or self.confidence_eos_eot_inf)
        used += [self.eot_id] * self.confidence_eos_eot_inf
        if not used or 0 <= min(used) <= max(used) < vocab_size:
            return None
        return (
            f"logits: eos_id {self.eos_id} or eot_id {self.eot_id} lies outside the vocabulary of "
            f"{vocab_size}; give this model's own"
        )

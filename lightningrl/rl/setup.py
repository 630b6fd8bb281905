"""What every training algorithm is built from, and the answers of all processes as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lightningrl.answering import Answer, Task, answer, score
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import Policy
from lightningrl.models.sdar import SDAR
from lightningrl.training.shards import publish
from lightningrl.training.world import World
from lightningrl.types import Example

if TYPE_CHECKING:
    from lightningrl.config.train import Run


@dataclass(slots=True)
class TrainSetup:
    """Of one run, in each of its processes."""

    run: Run
    seed: int
    """Experiment and run seed together."""
    model: SDAR
    """The policy, trained in place; its weights may be sharded over the processes."""
    reference: SDAR
    """The frozen base."""
    decoder: BlockDecoder
    """Over `model`, or over a full replica of it where that is sharded."""
    policy: Policy
    """How responses are decoded; temperature and keys are set for each use."""
    tokenizer: Any
    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    compute_budget: int | None = None
    """Token-forwards to spend (`match_compute`), a backward counted as two."""
    mixture: Sequence[Policy] = ()
    """Policies of `rollout_thresholds`."""
    world: World = field(default_factory=World)
    shard: Callable[[SDAR], SDAR] | None = None
    """Shards one more model as `model` is; None where nothing is sharded."""

    def publish(self) -> None:
        """Hand the policy's weights to the decoder."""
        publish(self.model, self.decoder.model)

    def answers(
        self, asked: Sequence[tuple[Example, int]], policy: Policy, policy_of: Callable[[Example], Policy] | None = None
    ) -> list[Answer]:
        """`answering.answer`, each process decoding and judging its share; all get all answers."""
        mine = answer(self.decoder, self.tokenizer, self.task, self.world.share(asked), policy, policy_of)
        return self.world.gather(mine, len(asked))

    def rollouts(self, asked: Sequence[tuple[Example, int]], step: int) -> list[Answer]:
        """Answers at the run's temperature, drawn with the keys of a step."""
        draws = {"temperature": self.run.temperature, "seed": self.seed, "step": step}
        if not self.mixture:
            return self.answers(asked, replace(self.policy, **draws))
        policies = [replace(policy, **draws) for policy in self.mixture]

        def policy_of(example: Example) -> Policy:
            key = hashlib.blake2b(f"{self.seed}/{step}/{example.uid}/threshold".encode(), digest_size=8).digest()
            return policies[int.from_bytes(key, "little") % len(policies)]

        return self.answers(asked, policies[0], policy_of)

    def validate(self) -> dict[str, float]:
        """Greedy accuracy and TPF on the validation split, at the run's threshold."""
        policy = replace(self.policy, temperature=0.0)
        found = score(self.answers([(example, 0) for example in self.validation], policy))
        self.decoder.ledger.clear()
        return {
            "validation_accuracy_pct": found.accuracy_pct,
            "validation_tpf": found.tpf,
            "validation_forwards_per_problem": found.forwards_per_problem,
            "validation_response_tokens_mean": found.response_tokens_mean,
        }

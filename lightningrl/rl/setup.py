"""What every training algorithm is built from, and the answers of all processes as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightningrl.answering import Answer, Task, answer, score
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import Algorithm
from lightningrl.rl.rollout import Asked, RolledOut
from lightningrl.rl.rollout_stream import roll_out
from lightningrl.rl.selection import Validation
from lightningrl.training.sharded_loading import Change
from lightningrl.training.shards import publish
from lightningrl.training.world import World
from lightningrl.types import Example

if TYPE_CHECKING:
    from lightningrl.config.train import Run


@dataclass(slots=True)
class TrainSetup:
    """What one run trains with, in each of its processes."""

    run: Run
    seed: int
    """Experiment and run seed together."""
    model: Transformer
    """The policy, trained in place; its weights may be sharded over the processes."""
    reference: Transformer
    """The frozen base; where nothing is compared with it (`needs_reference`), `model` itself."""
    decoder: BlockDecoder
    """Over `model`, or over a full replica of it where that is sharded."""
    policy: DecodePolicy
    """How responses are decoded; temperature and keys are set for each use."""
    tokenizer: Any
    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    compute_budget: int | None = None
    """Token-forwards to spend (`match_compute`), a backward counted as two."""
    mixture: Sequence[DecodePolicy] = ()
    """Policies of `rollout_thresholds`."""
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    """The folders of the checkpoints that the algorithm needs beside its base, by role (`Algorithm.checkpoints`)."""
    distilled: Sequence[Mapping[str, Any]] = ()
    """The lines that the stage `distill_data` left, where the algorithm trains on answers that exist."""
    distilled_forwards: int = 0
    """The token-forwards that those answers took to decode."""
    world: World = field(default_factory=World)
    load_shards: Callable[[Change], Transformer] | None = None
    """Makes one more sharded model of the base's weights, after a change to its modules, as a value model needs; None
    where nothing is sharded."""

    def check(self, algorithm: Algorithm) -> None:
        """Raises ConfigError where an algorithm cannot train this model."""
        beside = {role: read_config(folder) for role, folder in self.checkpoints.items()}
        algorithm.check(self.model.config, f"runs.{self.run.name}", beside)

    def publish(self) -> None:
        """Hand the policy's weights to the decoder."""
        publish(self.model, self.decoder.model)

    def rollouts(self, stream: Sequence[Asked], passes: Callable[[list[Answer]], bool], step: int) -> RolledOut:
        """Returns groups of judged answers at the run's temperature, drawn with the keys of a step, until as many pass
        as the run wants. Each process decodes and judges its share; all get all."""
        draws = {"temperature": self.run.temperature, "seed": self.seed, "step": step}
        mixture = [replace(policy, **draws) for policy in self.mixture]

        def policy_of(example: Example) -> DecodePolicy | None:
            key = hashlib.blake2b(f"{self.seed}/{step}/{example.uid}/threshold".encode(), digest_size=8).digest()
            return mixture[int.from_bytes(key, "little") % len(mixture)] if mixture else None

        return roll_out(
            self.decoder, self.tokenizer, self.task, stream, replace(self.policy, **draws), policy_of,
            wanted=self.run.prompts, max_rounds=self.run.max_rounds, passes=passes, world=self.world,
        )  # fmt: skip

    def validate(self) -> Validation:
        """Returns greedy accuracy and TPF on the validation split, at the run's threshold, equal in every process. The
        decoder's memory is free afterwards."""
        policy = replace(self.policy, temperature=0.0)
        asked = [(example, 0) for example in self.validation]
        mine = answer(self.decoder, self.tokenizer, self.task, self.world.share(asked), policy)
        answers = self.world.gather(mine, len(asked))
        self.decoder.ledger.clear()
        self.decoder.release()
        figures = {f"validation_{name}": value for name, value in asdict(score(answers)).items()}
        return Validation(figures, [answer.verdict.correct for answer in answers])

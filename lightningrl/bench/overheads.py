"""What a training costs beside arithmetic: the tail of its rollouts, judging, saving, starting up.

A tail: the longest response of a step runs alone, so each of its forwards takes what launching one takes, whatever the
device could compute. Judging goes on beside decoding; the last group's is waited for. A save stops the step until it is
on disk. All figures here are assumptions but where a source is named; `lightningrl plan` prints them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from lightningrl.bench.costs import MASTER, Lengths, PhaseCost
from lightningrl.bench.disk import TrainingDisk
from lightningrl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds and rates that no data sheet has."""

    turn_s: float = 0.022
    """A forward of few rows with all that belongs to it, bound by launches and the host: 15 to 29 ms at 8B were
    estimated from counts of launches, not measured."""
    tails: float | None = None
    """Tails a step; None: one, or one a round (`rounds_of`) of those that wait for their longest response. In a stream
    a second one needs a group that has such a response and fails: the prompt in its place is as late."""
    in_rounds: bool = False
    """Whether rollouts are rounds with a barrier each, as they were: the judge works after each, alone, and a prompt is
    computed once for each response, not once for its group."""
    longest_tokens: float | None = None
    """Response tokens of a step's longest; None: the benchmark's limit, for one of thousands that repeats itself."""
    programs_per_s: float = 24.0
    """Programs a second and worker: official solutions of HumanEval on the machine of docs/benchmarks.md."""
    answers_per_s: float = 3500.0
    """Other answers per second and worker: those of MATH500 there, each through a helper process."""
    write_bytes_per_s: float = 1.3e9
    """What one process writes to a parallel file system (assumed)."""
    hash_bytes_per_s: float = 1.39e9
    """The SHA-256 rate of one process, measured with the processor's own instructions for it."""
    whole_states: bool = False
    """Whether a state holds the chosen weights again, in float32, and one process hashes all of it afterwards; if not,
    each process hashes its part while it writes, and chosen weights are written once, in the compute dtype."""
    startup_s: float = 300.0
    """Seconds from the job's start to the first step: processes, weights from disk, compilation (assumed)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name!r} of the overheads is {value}, expected 0 or more, and finite")


ON_PROCESSOR = Overheads(turn_s=0.003, startup_s=10.0)
"""The same where no kernels are launched: about what the miniature's forwards of one row and its start take."""


def rounds_of(prompts: int, kept: float, max_rounds: int) -> int:
    """Returns the rollout rounds of a step, each of which asks for the groups that are missing.

    >>> rounds_of(128, 0.65, 4), rounds_of(128, 0.65, 9), rounds_of(128, 1.0, 4)
    (4, 5, 1)
    """
    if kept >= 1:
        return 1
    return min(max_rounds, max(1, math.ceil(math.log(1 / prompts) / math.log(1 - kept))))


def tail_s(lengths: Lengths, limit: int, overheads: Overheads) -> float:
    """Returns the seconds of one tail: the longest response's forwards past those of the mean one."""
    longest = overheads.longest_tokens or float(limit)
    return max(0.0, longest / lengths.tpf - lengths.forwards) * overheads.turn_s


def tails_cost(lengths: Lengths, limit: int, overheads: Overheads, rounds: int) -> PhaseCost:
    """Returns the phase of a step's tails."""
    usual = rounds if overheads.in_rounds else 1
    count = usual if overheads.tails is None else overheads.tails
    return PhaseCost("tails", count * tail_s(lengths, limit, overheads), 0.0, 0.0, "launches")


def judging_cost(
    responses: float, workers: int, is_program: bool, overheads: Overheads, beside_s: float = 0.0, last: float = 0.0
) -> PhaseCost:
    """Returns the phase of judging a process's responses, as far as its decoder waits for it: not for what is done
    within `beside_s` of decoding, but at least for the `last` responses."""
    each_s = 1 / (workers * (overheads.programs_per_s if is_program else overheads.answers_per_s))
    return PhaseCost("judging", max(responses * each_s - beside_s, last * each_s), 0.0, 0.0, "processor")


def save_s(disk: TrainingDisk, overheads: Overheads) -> tuple[float, float]:
    """Returns the seconds of writing a state, and those of writing chosen weights that are new, both with their hashes:
    of the first process, for which the others wait."""
    own, chosen = disk.state / disk.devices, disk.chosen
    written, hashed = own, own
    if overheads.whole_states:
        again = float(MASTER * disk.shape.parameters)
        written, hashed, chosen = own + again, disk.state + again, 0.0
    a_byte = 1 / overheads.write_bytes_per_s + 1 / overheads.hash_bytes_per_s
    return written / overheads.write_bytes_per_s + hashed / overheads.hash_bytes_per_s, chosen * a_byte


def saving_cost(disk: TrainingDisk, every: tuple[int, int], overheads: Overheads) -> PhaseCost:
    """Returns the phase of saving, a step's share of it. every: steps between two states, and between two validations,
    after each of which the chosen weights may have changed."""
    state, chosen = save_s(disk, overheads)
    return PhaseCost("saving", state / every[0] + chosen / every[1], 0.0, 0.0, "disk")

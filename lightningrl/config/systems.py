"""Systems: what a row of a table is. A policy's weights, maybe quantised, with a decoder and a sweep of its parameter.

Every policy of an experiment (the base, checkpoints, runs) is a system by itself, named like the policy and decoded as
the experiment's `decoding` says. The entries of `systems` change those rows and add others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lightningrl.config.base import NAME
from lightningrl.config.decoding import Decoding, Options, Sweep, preset
from lightningrl.config.endpoint import Endpoint
from lightningrl.config.registries import near
from lightningrl.config.section import Section
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.config.experiment import Experiment
    from lightningrl.config.tasks import Benchmark

CALIBRATED = "lightningrl.quantization.registry:CALIBRATED"
"""Looked up and not imported: the settings know no quantizer."""


class Calibration(Section):
    """Which data a quantizer looks at, of train problems only; the name of a source alone stands for it."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, tree: Any) -> Any:
        return {"source": tree} if isinstance(tree, str) else tree

    source: Literal["decode", "clean", "random"] = "decode"
    """`decode`: the states that the system's own decoder visits at its primary threshold; `clean`: the worked answers
    with nothing masked, as published; `random`: the worked answers, their blocks masked at rates between 0 and 1."""
    benchmark: str = ""
    """One of the experiment's benchmarks. Default: the one that the policy was trained on, else the first one that has
    train problems."""
    problems: int = Field(128, gt=0)
    """The first so many of its train problems; all where there are fewer."""
    tokens: int = Field(2**18, gt=0)
    """About so many positions are looked at, at most; memory and time go with them (docs/quantization.md)."""


class Quantization(Section):
    """How a policy's weights are quantised before it is evaluated; a name alone stands for it with no other key."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, tree: Any) -> Any:
        """Read a name alone, and options beside the keys of this section; let those that need data look at some."""
        if isinstance(tree, str):
            tree = {"name": tree}
        if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
            return tree
        if tree.get("calibration") is None and tree["name"] in resolve(CALIBRATED):
            tree = tree | {"calibration": {}}
        options = tree.get("options") or {}
        if not isinstance(options, dict):
            raise ValueError(
                f"options: found {options!r}, expected arguments of the quantizer, like {{bits: 4, group: 32}}"
            )
        own = {"name", "options", "calibration"}
        beside = {key: value for key, value in tree.items() if key not in own}
        if twice := sorted(beside.keys() & options.keys()):
            raise ValueError(f"found {twice[0]!r} twice, beside `options` and in it; give it once")
        return {key: value for key, value in tree.items() if key in own} | {"options": options | beside}

    name: str
    """`rtn` (each weight is rounded to the nearest value of its grid), `gptq`, `awq` (weights alone), `smoothquant`,
    `quarot`, `duquant` (weights and activations), `noise` (a control: noise of the size of `rtn`'s errors), or
    `module:attribute`."""
    options: Options = Field(default_factory=dict)
    """The quantizer's arguments: `{bits: 4, group: 32}`. They may stand beside `name`, too."""
    calibration: Calibration | None = None
    """Data for a quantizer that needs some. Default: none for `rtn`, `noise` and those from outside, else `decode`."""


class SystemEntry(Section):
    """A row of the tables. With the name of a policy it changes that policy's own row, else it adds one. A run that is
    decoded or quantised otherwise than the rest of its series stands alone."""

    name: str = Field(pattern=NAME)
    """Names the row and the folders of its evaluations, `<name>/<benchmark>`."""
    policy: str = ""
    """Whose weights: `base`, or the name of a checkpoint, a run, or a series of runs, of which each then has a row.
    Default: the policy that the system is named like."""
    policies: list[str] = []
    """Several policies in place of `policy`: the entry stands for one of each, named `<policy>-<name>`."""
    endpoint: Endpoint | None = None
    """A server that answers in place of a policy of ours; nothing is decoded here, and its tables mark its word. While
    its `url` is empty the system is checked, and not run."""
    decoding: Decoding = Decoding()
    """What differs from the experiment's `decoding`."""
    quantizer: Quantization | None = None
    """Default: the weights are as they are. A name alone, `quantizer: rtn`, is `{name: rtn}`."""
    thresholds: Sweep = []
    """The selector's parameter. Default: `evaluation.thresholds`, where selector and ranking are the experiment's;
    else the value that the preset was published with. Of an endpoint: what its `parameter` is given, or 0 alone."""
    primary_threshold: float | None = None
    """The threshold of the headline numbers. Default: `evaluation.primary_threshold` where it is among the system's
    thresholds, or the only one there is."""
    max_new_tokens: int | None = Field(None, gt=0)
    """Its longest response in tokens, on every benchmark: the length of the canvas, where it decodes one. Left out:
    those of the benchmarks."""
    evaluate_on: list[str] | None = None
    """Benchmarks it is evaluated on; default: those of its policy; []: none."""
    published: str | None = None
    """The row of the published tables that it stands for. Default: its policy's where it is the policy's own row."""


def one_each(entries: list[SystemEntry]) -> list[SystemEntry]:
    """Returns the entries with one of each policy in place of those that name several.

    Raises ValueError where an entry says both `policy` and `policies`.
    """
    found = list[SystemEntry]()
    for entry in entries:
        if entry.policy and entry.policies:
            raise ValueError(f"systems.{entry.name}: found `policy` and `policies`; give one of them")
        for policy in entry.policies:
            found.append(entry.model_copy(update={"name": f"{policy}-{entry.name}", "policy": policy, "policies": []}))
        found += [] if entry.policies else [entry]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system with everything filled in."""

    name: str
    policy: str
    """Whose weights: `base`, or the name of a checkpoint or a run; empty where an endpoint answers."""
    role: str
    """Its policy's role: `before`, `after`, `rival`, `control`, `ablation` or `released`."""
    base: str
    """The system that it is compared with; itself where it is what others are compared with."""
    decoding: Decoding
    thresholds: list[float]
    primary_threshold: float
    quantizer: Quantization | None = None
    endpoint: Endpoint | None = None
    max_new_tokens: int | None = None
    """None: what each benchmark says."""
    evaluate_on: list[str] | None = None
    """None: every benchmark that has problems."""
    published: str = ""
    trained_by: str = ""
    """The algorithm of its policy; empty where nothing was trained."""
    trained_on: str | None = None
    """The benchmark that its policy was trained on."""
    series: str = ""
    """Systems of one series differ only in their policy's seed."""
    setting: str = ""
    """What its entry is called without the policy, or the series of policies, that it is about."""
    seed: int | None = None
    where: str = ""
    """The key of the config that says how it decodes, for messages."""

    def longest(self, benchmark: Benchmark) -> int:
        """Returns its longest response on a benchmark, in tokens."""
        return self.max_new_tokens or benchmark.max_new_tokens

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """Returns a benchmark with the system's own length."""
        return benchmark.model_copy(update={"max_new_tokens": self.longest(benchmark)})

    @property
    def algorithm(self) -> str:
        """What tables name it by: `endpoint` of a server, the algorithm that trained it, or its selector."""
        return "endpoint" if self.endpoint else self.trained_by or self.decoding.selector


def systems_of(experiment: Experiment) -> list[System]:
    """Returns the policies' own systems in the experiment's order, then those that `systems` adds.

    Raises ValueError for an unknown policy, two systems of one name, or a sweep that cannot be told.
    """
    policies = {system.name: system for system in _policies(experiment)}
    rows, told = dict(policies), set[str]()
    for entry in experiment.systems:
        if entry.endpoint is not None:
            system = _of_endpoint(entry, entry.endpoint, experiment)
            if system.name in rows or system.name in {each.series for each in rows.values()}:
                raise ValueError(f"systems: two systems are named {system.name!r}; found {[*rows, system.name]}")
            told.add(system.name)
            if entry.endpoint.url:
                rows[system.name] = system
            continue
        about = _of_entry(entry, policies)
        rest = {each.series for each in policies.values() if each.name not in {own.name for own in about}} - {""}
        for system in about:
            if system.name in told or (system.name in policies and system.name != system.policy):
                raise ValueError(f"systems: two systems are named {system.name!r}; found {[*rows, system.name]}")
            told.add(system.name)
            changed = _changed(system, entry, experiment)
            if system.series in rest and _measured(changed) != _measured(system):
                changed = replace(changed, series="")  # the others of its series are as they were
            rows[system.name] = changed
    return list(rows.values())


def _policies(experiment: Experiment) -> Iterator[System]:
    """Yields the system that each policy is by itself."""
    usual = System(
        name="base", policy="base", role="before", base="base", decoding=experiment.decoding, where="decoding",
        thresholds=experiment.evaluation.thresholds, primary_threshold=experiment.evaluation.primary_threshold,
        published="" if experiment.base is None else experiment.base.published,
    )  # fmt: skip
    yield usual
    for each in experiment.bases:
        yield replace(usual, name=each.name, policy=each.name, base=each.name, published="")
    for each in experiment.checkpoints:
        yield replace(
            usual, name=each.name, policy=each.name, role=each.role, base=each.base or each.name,
            published=each.published, evaluate_on=each.evaluate_on,
        )  # fmt: skip
    for run in experiment.runs:
        yield replace(
            usual, name=run.name, policy=run.name, role=run.role, base=experiment.origin(run.name),
            published=run.published,
            evaluate_on=run.evaluate_on or [run.benchmark], trained_by=run.algorithm, trained_on=run.benchmark,
            series=run.series, seed=run.seed,
        )  # fmt: skip


def _of_entry(entry: SystemEntry, policies: dict[str, System]) -> list[System]:
    """Returns the systems that an entry is about, as they would be without it: one, or one per run of a series."""
    policy = entry.policy or entry.name
    all_series = {system.series for system in policies.values() if system.series}
    about = [system for system in policies.values() if policy in (system.name, system.series)]
    if not about:
        told = "policy: found" if entry.policy else "policy: left out, and there is no policy"
        known = list(dict.fromkeys(n for system in policies.values() for n in (system.name, system.series) if n))
        raise ValueError(f"systems.{entry.name}.{told} {policy!r}, allowed: one of {known}.{near(policy, known)}")
    about = [replace(each, setting=entry.name.removeprefix(f"{policy}-")) for each in about]
    if entry.name == policy:
        return about
    if entry.name in policies or entry.name in all_series:
        raise ValueError(f"systems.{entry.name}.policy: found {policy!r}, but {entry.name!r} is a policy by itself")
    if policy in all_series:
        return [replace(each, name=f"{entry.name}-{each.seed}", series=entry.name, published="") for each in about]
    return [replace(about[0], name=entry.name, series="", published="")]


def _of_endpoint(entry: SystemEntry, endpoint: Endpoint, experiment: Experiment) -> System:
    """Returns the system of a server, which is compared with no other."""
    where = f"systems.{entry.name}"
    for key in ("policy", "decoding", "quantizer"):
        if key in entry.model_fields_set:
            raise ValueError(
                f"{where}.{key}: an endpoint answers with weights and a decoder of its own; leave {key} out"
            )
    thresholds = entry.thresholds or [0.0]
    if endpoint.parameter and not entry.thresholds:
        raise ValueError(f"{where}.thresholds: left out; say what `endpoint.parameter` ({endpoint.parameter}) is given")
    if len(thresholds) > 1 and not endpoint.parameter:
        raise ValueError(
            f"{where}.thresholds: found {thresholds}, but the server would be asked the same each time; name the field "
            "of the request that takes them in `endpoint.parameter`, or one threshold alone"
        )
    primary = thresholds[0] if len(thresholds) == 1 else entry.primary_threshold
    if primary not in thresholds or entry.primary_threshold not in (None, primary):
        raise ValueError(
            f"{where}.primary_threshold: found {entry.primary_threshold}, allowed: one of its thresholds {thresholds}"
        )
    return System(
        name=entry.name, policy="", role="released", base=entry.name, decoding=experiment.decoding,
        thresholds=thresholds, primary_threshold=primary, endpoint=endpoint, max_new_tokens=entry.max_new_tokens,
        evaluate_on=entry.evaluate_on, published=entry.published or "", where=f"{where}.endpoint",
    )  # fmt: skip


def _changed(system: System, entry: SystemEntry, experiment: Experiment) -> System:
    """Returns the system with what its entry says."""
    decoding = entry.decoding.over(experiment.decoding)
    thresholds, primary = entry.thresholds or _thresholds(entry, decoding, experiment), entry.primary_threshold
    if primary is None:
        primary = thresholds[0] if len(thresholds) == 1 else experiment.evaluation.primary_threshold
    if primary not in thresholds:
        raise ValueError(
            f"systems.{entry.name}.primary_threshold: found {primary}, allowed: one of its thresholds {thresholds}"
        )
    return replace(
        system,
        decoding=decoding,
        quantizer=_calibrated(entry.quantizer, system, f"systems.{entry.name}", experiment),
        thresholds=thresholds,
        primary_threshold=primary,
        max_new_tokens=entry.max_new_tokens,
        evaluate_on=system.evaluate_on if entry.evaluate_on is None else entry.evaluate_on,
        published=system.published if entry.published is None else entry.published,
        where=f"systems.{entry.name}.decoding",
    )


def _calibrated(
    quantizer: Quantization | None, system: System, where: str, experiment: Experiment
) -> Quantization | None:  # fmt: skip
    """Returns a quantizer with the benchmark whose train problems it looks at, where it looks at any."""
    if quantizer is None or quantizer.calibration is None or quantizer.calibration.benchmark:
        return quantizer
    trainable = [each.name for each in experiment.benchmarks if each.train != 0]
    if not trainable:
        raise ValueError(
            f"{where}.quantizer.calibration: no benchmark has train problems, and quantizers are never shown others. "
            "Give a benchmark some (`train`), or take the quantizer rtn"
        )
    benchmark = system.trained_on if system.trained_on in trainable else trainable[0]
    calibration = quantizer.calibration.model_copy(update={"benchmark": benchmark})
    return quantizer.model_copy(update={"calibration": calibration})


def _measured(system: System) -> tuple[object, ...]:
    """Returns what systems of one series have in common beside their policies."""
    return system.decoding, system.quantizer, system.thresholds, system.primary_threshold, system.max_new_tokens


def _thresholds(entry: SystemEntry, decoding: Decoding, experiment: Experiment) -> list[float]:
    """Returns the sweep of a system that says none."""
    usual = experiment.decoding
    if (decoding.selector, decoding.ranking) == (usual.selector, usual.ranking):
        return experiment.evaluation.thresholds
    parameter = preset(entry.decoding.preset).get("parameter") if entry.decoding.preset else None
    if parameter is None:
        raise ValueError(
            f"systems.{entry.name}.thresholds: left out, but evaluation.thresholds are of the selector "
            f"{usual.selector!r} by {usual.ranking!r}, not of {decoding.selector!r} by {decoding.ranking!r}; say which "
            "parameters to decode with"
        )
    return [parameter]

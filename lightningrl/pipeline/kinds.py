"""The kinds of stages: one table that says of each what everybody else needs to know of it.

The planner adds what a stage of a kind finds in its context, and the kind's module what it does with that. A package
outside adds a `Kind` of its own in a plug-in's `MEMBERS`, as `{"stage": {"histogram": "my_package.names:HISTOGRAM"}}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightningrl.config.registries import names
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.config.experiment import Experiment
    from lightningrl.config.machine import Resources
    from lightningrl.pipeline.stage import Stage

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CHECKPOINT = ("config.json", "model.safetensors", *TOKENIZER, "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class Shown:
    """A final file that Snakemake's HTML report shows."""

    file: str
    """Its name, as in `Kind.files`."""
    category: str
    labels: Mapping[str, str]
    """Column of the report's list -> text, in which `{name}` and `{number}` are the stage's and the file's."""
    caption: str | None = None
    """A reStructuredText file: a path from the repository's root, or an absolute one."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage as the `plan` of a kind from outside describes it."""

    name: str
    """Names its folder; `<system>/<benchmark>` where the kind is `per_system`."""
    config: Mapping[str, Any]
    """What the stage reads of the experiment: it finds just this in its context, and its key holds it."""
    inputs: Mapping[str, Stage]
    """Role -> stage whose files it reads."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Role -> `module:attribute` that the stage resolves."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of stage: the facts that all its stages share."""

    name: str
    """The verb of the command line, Snakemake's rule, and the folder below `results/<experiment>/`."""
    files: tuple[str, ...]
    """The final files but the manifest. `{name}` stands for the stage's name, `{number}` for 1 up to `numbered`."""
    reads: tuple[str, ...]
    """The keys of the config that the verb's help explains."""
    sure_files: tuple[str, ...] = ()
    """Those of `files` that are certain where an experiment takes a checkpoint from elsewhere, which decides how many
    files hold weights and tokenizer; the manifest lists the others. Empty: all are certain."""
    numbered: str = ""
    """The key of the config's `report` that says how many files `{number}` stands for."""
    job: str = ""
    """The entry of `resources.jobs` by which its jobs ask a cluster. Empty: it runs beside Snakemake."""
    threads: str = ""
    """The key of `resources` that says how many CPU threads it computes with. Empty: one."""
    saves: bool = False
    """It saves its state and ends when its time budget runs out, and goes on from there when it is started again."""
    launched: bool = False
    """It may run as several processes, which torchrun starts."""
    in_parts: bool = False
    """Its work may be spread over `resources.evaluate_parts` jobs; the package's own kinds only."""
    per_system: bool = False
    """It is of one system and one benchmark, so its name has two parts: `<system>/<benchmark>`."""
    collected: str = ""
    """The file that the collect stage reads; the package's own kinds only."""
    collected_in: tuple[str, ...] = ()
    """The collected tables that hold what a system did in it; the package's own kinds only."""
    released: bool = False
    """A release holds copies of its files, in a folder with this kind's name and an s, below the stage's name where the
    files' own names do not begin with that."""
    pinned_by_name: bool = False
    """`lightningrl pin` pins it only when it is named: it takes no GPU, and an edit of its code is meant to be seen."""
    shown: Shown | None = None
    outside: str = ""
    """The module of another package that has its `run(context)`. Empty: that of its name in `pipeline.stages`."""
    plan: Callable[[Experiment, tuple[Stage, ...]], Iterable[Planned]] | None = None
    """Plans a kind from outside: from the experiment and all other stages to its own. None: the planner does."""

    @property
    def module(self) -> str:
        """The module whose `run(context)` makes a stage of this kind."""
        return self.outside or f"lightningrl.pipeline.stages.{self.name}"

    def files_in(self, experiment: Experiment) -> tuple[str, ...]:
        """Returns the final files that are known before a stage of this kind runs, `{name}` still in them."""
        files = self.sure_files if self.is_open_in(experiment) else self.files
        count = getattr(experiment.report, self.numbered) if self.numbered else 1
        numbered = (file.replace("{number}", str(n)) for n in range(1, count + 1) for file in files)
        return tuple(dict.fromkeys(numbered))

    def is_open_in(self, experiment: Experiment) -> bool:
        """Returns whether stages of this kind write files that only their inputs tell."""
        return bool(self.sure_files) and (experiment.base is not None or bool(experiment.checkpoints))

    def threads_in(self, resources: Resources) -> int:
        """Returns the CPU threads that a stage of this kind computes with."""
        return getattr(resources, self.threads) if self.threads else 1


_TABLE = (
    Kind(
        "data", ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"), reads=("benchmarks",)
    ),
    Kind(
        "selfcheck", ("selfcheck.json",), reads=("benchmarks.name", "resources.judge_workers"),
        job="selfcheck", saves=True, pinned_by_name=True,
    ),
    Kind("tokenizer", TOKENIZER, reads=("tokenizer",)),
    Kind(
        "pretrain", CHECKPOINT, reads=("model", "pretrain", "bases", "decoding"),
        job="pretrain", threads="pretrain_threads", saves=True,
    ),
    Kind(
        "checkpoint", ("config.json", "tokenizer_config.json", "checkpoint.json"), reads=("base", "checkpoints"),
        sure_files=("config.json", "tokenizer_config.json", "checkpoint.json"),
    ),
    Kind(
        "distill_data", ("distilled.jsonl", "summary.json"), reads=("runs.method", "decoding"),
        job="evaluate", threads="evaluate_threads", saves=True,
    ),
    Kind(
        "train", (*CHECKPOINT, "selection.json", "samples.jsonl", "samples.md"), reads=("runs", "decoding"),
        sure_files=("config.json", "tokenizer_config.json", "metrics.jsonl", "selection.json"),
        job="train", threads="train_threads", saves=True, launched=True, collected="metrics.jsonl",
    ),
    Kind(
        "quantize", ("config.json", "model.safetensors", "quantization.json", *TOKENIZER),
        reads=("systems.quantizer",),
        sure_files=("config.json", "tokenizer_config.json", "model.safetensors", "quantization.json"),
        job="evaluate",
    ),
    Kind(
        "evaluate", ("records.jsonl", "summary.json"), reads=("evaluation", "decoding", "systems"),
        job="evaluate", threads="evaluate_threads", saves=True, in_parts=True, per_system=True,
        collected="records.jsonl", collected_in=("frontier", "headline", "pooled", "steps", "quantized"),
    ),
    Kind(
        "speed", ("speed.json",), reads=("speed", "evaluation.primary_threshold", "decoding", "systems"),
        job="evaluate", threads="speed_threads", per_system=True, collected="speed.json", collected_in=("speed",),
    ),
    Kind(
        "probe", ("probe.csv",),
        reads=(
            "report.probes", "report.probed_problems", "report.looks", "evaluation.primary_threshold", "decoding",
            "systems",
        ),
        job="evaluate", per_system=True, collected="probe.csv", collected_in=("probes",),
    ),
    Kind(
        "collect",
        (
            "frontier.csv", "headline.csv", "pooled.csv", "curves.csv", "steps.csv", "speed.csv", "probes.csv",
            "quantized.csv", "trainings.csv",
        ),
        reads=("report.bootstrap",), pinned_by_name=True,
    ),
    Kind(
        "table", ("{name}.csv", "{name}.md", "{name}.tex", "{name}.html", "{name}.sources.json"),
        reads=("report.tables",), released=True, pinned_by_name=True,
        shown=Shown("{name}.html", "Tables", {"table": "{name}"}, "workflow/report/table.rst"),
    ),
    Kind(
        "figure", ("{name}.pdf", "{name}.png", "{name}.csv"), reads=("report.figures", "report.plot"),
        released=True, pinned_by_name=True,
        shown=Shown("{name}.png", "Figures", {"figure": "{name}"}, "workflow/report/figure.rst"),
    ),
    Kind(
        "replay", ("{name}-{number}.html",),
        reads=("report.replays", "report.replayed_problems", "evaluation.primary_threshold", "decoding", "systems"),
        numbered="replayed_problems", job="evaluate", released=True,
        shown=Shown(
            "{name}-{number}.html", "Replays", {"run": "{name}", "problem": "{number}"}, "workflow/report/replay.rst"
        ),
    ),
    Kind(
        "release", ("report.html", "configuration.yaml", "provenance.csv", "provenance.html"), reads=("report",),
        pinned_by_name=True,
        shown=Shown(
            "provenance.html", "Provenance", {"what": "configuration and provenance of every stage"},
            "workflow/report/provenance.rst",
        ),
    ),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}
"""The package's own kinds by name, in the order of an experiment."""
RESERVED = (
    "all", "benchmarks", "cache", "latest", "logs", "results",
    "generate", "prompts", "score", "compare", "doctor", "chat", "plan", "pin", "stages", "explain", "diff", "redraw",
    "validate", "config-help", "trace", "bench", "decoders", "export", "harness", "serve",
)  # fmt: skip
"""What no kind from outside may be called: Snakemake's targets, folders and links of the results, and other verbs."""
OF_STAGES = re.compile(rf"(?:{'|'.join(KINDS)})(?:_.*|\d+)|release-.*")
"""What targets of the package's stages, their rules, and folders of releases are called."""


def kinds_of(plugins: Iterable[str]) -> dict[str, Kind]:
    """Returns the package's kinds and those that plug-ins add. Raises ConfigError for a kind that cannot be used."""
    found = dict(KINDS)
    for name, reference in names("stage", plugins).items():
        kind = resolve(reference, "plugins")
        if not isinstance(kind, Kind) or kind.name != name or not kind.outside or kind.plan is None:
            raise ConfigError(
                f"plugins: the stage {name!r} is {reference}, which is {kind!r}; expected a "
                f"lightningrl.pipeline.kinds.Kind with name={name!r}, outside=<the module that has its run> and plan"
            )
        if own := [each for each in ("in_parts", "collected", "collected_in") if getattr(kind, each)]:
            raise ConfigError(
                f"plugins: the stage {name!r} sets {', '.join(own)}, which work for the package's own kinds only; "
                "leave them out"
            )
        if name in found:
            raise ConfigError(f"plugins: {reference} is called {name!r}, as a kind of stage of the package; rename it")
        from lightningrl.config.base import NAME  # with pydantic, for which `--help` does not wait

        if not re.fullmatch(NAME, name) or "\n" in name or name in RESERVED or OF_STAGES.fullmatch(name):
            raise ConfigError(
                f"plugins: {reference} is called {name!r}; expected small letters, digits, _ and -, a letter or digit "
                f"first, and none of {', '.join(RESERVED)}, `<a kind of the package>_...` or `release-...`, which are "
                "verbs, targets and folders; rename it"
            )
        found[name] = kind
    return found


def measured_in(tables: Iterable[str]) -> dict[str, str]:
    """Returns the kinds of stages that say what these collected tables hold of systems -> the file that says it."""
    behind = [kind for kind in KINDS.values() if kind.per_system and set(tables) & set(kind.collected_in)]
    return {kind.name: kind.collected for kind in behind}


def jobs_of(plugins: Iterable[str]) -> tuple[str, ...]:
    """Returns the entries that `resources.jobs` may have, in the order of the kinds."""
    return tuple(dict.fromkeys(kind.job for kind in kinds_of(plugins).values() if kind.job))

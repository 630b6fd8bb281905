"""Tables and figures from a results folder alone: from the collected files, or else from records and metrics.

The manifest of a table or figure names its member, options and collected files; for one that the release lacks, today's
registry does. It takes no config, GPU, data, checkpoint or torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightningrl.config.report import Plot
from lightningrl.errors import StageError
from lightningrl.pipeline.graph import Made, read_made
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results.recollect import collect_of, recollect, settings


@dataclass
class Redraw:
    """A release, and the folder in which its tables and figures are drawn again."""

    release: Made
    out: Path
    report: Callable[[str], None]
    _collected: dict[Path, Path] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        """Returns the names of the release's tables or figures."""
        return [role.split("/", 1)[1] for role in self.release.inputs if role.split("/")[0] == kind]

    def there(self, kind: str, name: str) -> list[Path]:
        """Returns the files of one `table` or `figure` that `out` has. Raises StageError, ConfigError."""
        return sorted((self.out / f"{kind}s").glob(f"{self._config(kind, name)[0]['name']}.*"))

    def draw(self, kind: str, name: str) -> list[Path]:
        """Draws one `table` or `figure` and returns its files below `out`. Raises StageError, ConfigError."""
        from lightningrl.pipeline.stages import figure, table

        config, collect = self._config(kind, name)
        folder = self.out / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        context = SimpleNamespace(
            config=config,
            inputs={"collect": self._collect(collect)},
            folder=folder,
            state=self.out / ".state" / name,
            report=lambda line: None,
        )
        (table if kind == "table" else figure).run(context)  # type: ignore[arg-type]
        return sorted(folder.glob(f"{config['name']}.*"))

    def _config(self, kind: str, name: str) -> tuple[dict[str, Any], Path]:
        """Returns the stage's config, and the collect stage that it reads."""
        folder = self.release.inputs.get(f"{kind}/{name}")
        made = read_made(folder) if folder is not None and (folder / MANIFEST).is_file() else None
        reader = made or self.release
        source = [f for role, f in reader.inputs.items() if role.split("/")[0] == "collect"]
        if not source:
            raise StageError(f"{reader.folder / MANIFEST} names no collected results.")
        config = settings(made, kind, name)
        if kind == "figure":
            config["plot"] = Plot.model_validate(config.get("plot", {}))
            if made is None:
                policies = collect_of(source[0]).science.get("policies", [])
                config["policies"] = [policy["name"] for policy in policies]
        return config, source[0]

    def _collect(self, folder: Path) -> Path:
        """Returns the folder of the collected files, which may have to be collected again from the records."""
        if folder not in self._collected:
            self._collected[folder] = folder
            made = read_made(folder) if (folder / MANIFEST).is_file() else None
            names = [name for name in made.manifest["outputs"] if name.endswith(".csv")] if made else []
            if made is None and any(folder.glob("*.csv")):
                self.report(f"{folder} has no manifest; its files are taken as they are")
            elif not names or any(not (folder / name).is_file() for name in names):
                made = collect_of(folder)
                self._collected[folder] = recollect(made, self.out / "collected" / folder.name)
                self.report(f"collected anew from records: {self._collected[folder]}")
        return self._collected[folder]

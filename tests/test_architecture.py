"""docs/architecture.md lists every file in reading order; `python tests/test_architecture.py` writes the list."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, PAGE = ROOT / "lightningrl", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: written by tests/test_architecture.py -->\n", "<!-- end of files -->\n"
LINES = {
    "lightningrl": 650, "lightningrl/bench": 3989, "lightningrl/benchmarks": 2173, "lightningrl/cli": 3750,
    "lightningrl/config": 2400, "lightningrl/decoding": 5603, "lightningrl/evaluation": 1875,
    "lightningrl/inference": 2900, "lightningrl/judges": 4435, "lightningrl/models": 3743,
    "lightningrl/pipeline": 5550, "lightningrl/quantization": 3111, "lightningrl/report": 4000,
    "lightningrl/results": 1505, "lightningrl/rl": 3250, "lightningrl/sandbox": 2745, "lightningrl/serving": 1340,
    "lightningrl/training": 2950, "lightningrl/utils": 501, "tests": 830, "tests/bench": 1539,
    "tests/benchmarks": 1445, "tests/config": 1150, "tests/decoding": 5097, "tests/evaluation": 1700,
    "tests/fixtures": 2775, "tests/inference": 3800, "tests/judges": 5060, "tests/models": 2650,
    "tests/pipeline": 4051, "tests/quantization": 2350, "tests/report": 2000, "tests/rl": 3377, "tests/sandbox": 2090,
    "tests/serving": 760, "tests/slurm": 706, "tests/training": 2650, "tests/workflow": 2700,
}  # fmt: skip
"""The most lines that the Python files of each folder may have, those of its subfolders too. They only fall; a commit
that raises one says by how much, and why."""
MOST_PROSE = 150
"""Lines of the page besides the list of files."""
ORDER = [
    "", "utils", "config", "sandbox", "benchmarks", "judges", "judges/code", "judges/math", "models", "models/families",
    "models/kernels", "quantization", "decoding", "decoding/schedules", "decoding/selectors", "inference",
    "inference/endpoint", "serving", "training", "training/supervised", "training/supervised/objectives",
    "training/distillation", "rl", "rl/algorithms", "bench",
    "bench/estimate", "bench/gpu", "evaluation", "report", "report/figures", "report/paper", "report/published",
    "pipeline", "pipeline/stages", "results", "cli",
]  # fmt: skip
FIRST = ("errors", "types", "protocol", "canvas", "reference", "engine", "scheduler", "app", "experiment")
"""Files that are read first in their folder, in this order; the others follow by name."""


def first_sentence(path):
    """The first sentence of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<=[.!?])(?<!\(Eq\.)(?<! al\.)\s", " ".join(text.split("\n\n")[0].split()))[0]


def files():
    """Every module of the package but empty ones, by folder in reading order."""
    found = [path for path in sorted(PACKAGE.rglob("*.py")) if path.read_text().strip()]
    folders = {path.parent.relative_to(PACKAGE).as_posix().removeprefix(".") for path in found}
    assert folders == set(ORDER), f"ORDER lacks or has too much: {folders ^ set(ORDER)}"
    rank = {name: place for place, name in enumerate(FIRST)}
    folder_of = lambda path: path.parent.relative_to(PACKAGE).as_posix().removeprefix(".")  # noqa: E731
    return sorted(found, key=lambda path: (ORDER.index(folder_of(path)), rank.get(path.stem, len(rank)), path.stem))


def listing():
    lines, folder = [], None
    for path in files():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"**{folder.relative_to(ROOT).as_posix()}/**", ""]
        lines.append(f"- `{path.stem}` {first_sentence(path)}")
    return "\n".join(lines).strip() + "\n"


def test_the_page_lists_every_file_of_the_package_with_what_it_is():
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == listing(), "run: python tests/test_architecture.py"


def test_every_module_says_what_it_is_in_a_sentence():
    for path in files():
        sentence = first_sentence(path)
        assert len(sentence) > 15, (path, sentence)
        assert not sentence.startswith("Of "), (path, sentence)


def test_the_page_is_short():
    text = PAGE.read_text()
    prose = text[: text.index(BEGIN)] + text[text.index(END) + len(END) :]
    assert len(prose.splitlines()) <= MOST_PROSE


def test_no_folder_is_longer_than_its_share():
    found = {}
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        parts = path.relative_to(ROOT).parts
        folder = "/".join(parts[:2] if len(parts) > 2 else parts[:1])
        found[folder] = found.get(folder, 0) + len(path.read_text().splitlines())
    assert found.keys() == LINES.keys()
    assert {folder: (lines, LINES[folder]) for folder, lines in found.items() if lines > LINES[folder]} == {}


def test_paths_and_tests_that_the_documents_name_are_there():
    """`decoding/engine.py` and the like, of this package, in any page but the study of its own commit; and tests."""
    pages = [*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").glob("*.md") if p.stem != "study")]
    folders = "|".join(sorted({name.split("/")[0] for name in ORDER if name}))
    for page in (page for page in pages if page.name != "CHANGELOG.md"):
        text = page.read_text()
        for name in re.findall(rf"`((?:lightningrl/)?(?:{folders})/[\w/]+\.py)", text):
            assert (PACKAGE / name.removeprefix("lightningrl/")).is_file(), (page.name, name)
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text):
            assert f"\ndef {name}(" in (ROOT / path).read_text(), (page.name, path, name)


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + listing() + text[text.index(END) :])

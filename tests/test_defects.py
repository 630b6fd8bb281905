"""docs/defects.md names a test for each defect of the published code; every named test exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs" / "defects.md").read_text().splitlines() if line.startswith("| ")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_defect_names_tests_that_exist():
    rows = [row for row in ROWS if not row.startswith("| defect |")]
    assert len(rows) > 35
    for row in rows:
        found = NAMED.findall(row)
        assert found, f"no test: {row}"
        for path, name in found:
            assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"

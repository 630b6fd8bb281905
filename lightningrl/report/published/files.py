"""The files of published numbers, each checked against the hash in this module.

Modules belong to a stage's key, data files do not: whoever corrects a number changes this module too, and so everything
that shows the number is made again.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

from lightningrl.errors import StageError

POINTS, RESULTS, NOTES = "aup_leaderboard_points.csv", "published_results.csv", "inconsistencies.csv"
HARNESS, QUANTIZED = "harness_arguments.csv", "quantization_results.csv"
SHA256 = {
    POINTS: "bc51e055ef390924f47dcb3d5ac3e9fe1ad592c36c46fb6cd087c67b0516aed9",
    RESULTS: "3bf5df918f3737ae36d4ee143dc88b3e98115d6d3a80f207a4c47d388fd7b0d2",
    HARNESS: "451bd7cb45e96ad5a848f04c347035217133a7eaa3da330c258fabf533299ed4",
    QUANTIZED: "76a4536044cc612ec8dbd7657fc62107597e18abc02347b6defae34a0dcef7c1",
    NOTES: "f4bde61d8359ce3da3ec2d1690d17eaca66a2d7c36b91f8b360459e769d2ed9c",
}


def rows(name: str) -> list[dict[str, str]]:
    """Returns the rows of a file. Raises StageError when its hash is another one."""
    path = Path(__file__).parent / name
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[name]:
        raise StageError(
            f"{path} has the hash {found}, expected {SHA256[name]}. An intended change goes into files.py."
        )
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))

"""Wrong `add(a, b)` programs that try to be judged right (`cheats.toml`), and honest ones. Standard library only."""

import tomllib
from pathlib import Path

CALLS = [(2, 3), (-1, 1), (10, 5)]
EXPECTED = [5, 0, 15]

HONEST_RIGHT = "def add(a, b):\n    return a + b\n"
HONEST_WRONG = "def add(a, b):\n    return a - b\n"

FILE = Path(__file__).with_name("cheats.toml")
CHEATS = tomllib.loads(FILE.read_text())["calls"]

"""Wrong `add(a, b)` programs against a benchmark's own test code, call by call. Standard library only."""

import tomllib

from cheats import FILE

CHEATS = tomllib.loads(FILE.read_text())["tests"] | {
    "NUL in the source": "def add(a, b):\n    return a + b\n\0",
    "half a surrogate pair in the source": "def add(a, b):\n    return '\ud800'\n",
    "ten megabytes of source": "#" + "x" * 10_000_000 + "\ndef add(a, b):\n    return a + b\n",
}

r"""The worker process that does algebra for `MathJudge`: it applies the rules, which call `judges.math.algebra`.

`python algebra_worker.py FOLDER` answers each line `{"gold", "found", "question"}` with `{"equal": bool, "reasons": why
it was refused whatever its value}`, or with `{"unreadable": why, "gold": whether it is the gold answer}`. It may hang
or run out of memory on hostile input; the judge then kills it (`judges.worker`).
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

MEMORY_BYTES = 2 * 2**30
"""The address space, of which sympy and its parser take 0.3 GB."""


def main() -> None:
    from lightningrl.judges.math.algebra import Algebra
    from lightningrl.judges.math.question import read_question
    from lightningrl.judges.math.rules import equal
    from lightningrl.judges.math.text import Unreadable
    from lightningrl.judges.worker import channels

    source, sink = channels(MEMORY_BYTES)
    logging.disable(logging.CRITICAL)
    algebra = Algebra()
    sink.write(json.dumps({"ready": True}) + "\n")
    for line in source:
        request = json.loads(line)
        answer: dict[str, Any]
        algebra.is_reading_gold = False
        try:
            question = read_question(request["question"])
            reasons: list[str] = []
            answer = {
                "equal": equal(request["gold"], request["found"], algebra, question, reasons),
                "reasons": reasons[:1],
            }
        except Unreadable as error:
            answer = {"unreadable": error.args[0], "gold": algebra.is_reading_gold}
        except Exception as error:  # sympy raises any exception (a pole, a recursion, no memory)
            answer = {"unreadable": f"{type(error).__name__} in algebra", "gold": algebra.is_reading_gold}
        sink.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    # The folder of the package; -P leaves out this file's own folder, whose names may hide the standard library's.
    sys.path.insert(0, sys.argv[1])
    main()

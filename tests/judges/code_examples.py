"""Function tests in both forms, shared by the tests of the code judge."""

import cheats

from lightningrl.types import Example

TESTS = [f"assert add({a}, {b}) == {e}" for (a, b), e in zip(cheats.CALLS, cheats.EXPECTED, strict=True)]
CHECK = "def check(candidate):\n" + "".join(f"    {test.replace('add(', 'candidate(')}\n" for test in TESTS)


def example(tests, entry_point="f", setup="", time_limit_s=1, prefill=None):
    messages = ({"role": "user", "content": "?"},)
    if prefill is not None:
        messages += ({"role": "assistant", "content": prefill},)
    gold = {"entry_point": entry_point, "setup": setup, "tests": tests, "time_limit_s": time_limit_s}
    return Example("b/test/1", messages, gold)


def values(*pairs, entry_point="f"):
    tests = [{"args": list(args), "expected": expected} for args, expected in pairs]
    return Example("b/test/1", ({"role": "user", "content": "?"},), {"entry_point": entry_point, "tests": tests})


def judge_one(judge, gold, program):
    (verdict,) = judge.judge([gold], [program])
    return verdict


def passes(judge, program, *tests, entry_point="f", setup=""):
    verdict = judge_one(judge, example(list(tests), entry_point, setup), program)
    assert verdict.status in ("ok", "wrong"), verdict
    return verdict.correct

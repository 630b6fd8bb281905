"""The forms of `identities` with another meaning: none of these is right."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .gold_generators import frac, root
from .golds import Gold
from .identities import ellipse


def differences(rng: random.Random, count: int) -> Iterator[tuple[str, Gold, str]]:
    """Returns the same forms with another meaning: (kind, gold, answer)."""
    for _ in range(count):
        k, d, m = rng.randint(2, 30), rng.randint(2, 9), rng.choice([2, 3, 5, 7])
        p, q, both = d + 1, d + k + 1, rf"{d} \pm \sqrt{{{m}}}"
        for gold, *answers in (
            (frac(1, root("n")), root("n"), root(frac(1, "m")), frac(1, "n"), rf"-{frac(1, root('n'))}"),
            (r"\ln\frac{a}{b}", r"\ln a + \ln b", r"\ln\frac{b}{a}", r"\frac{\ln a}{\ln b}", r"\ln(a-b)"),
            (f"f(x) = x^2 + {k}", f"f(x) = x^2 - {k}", f"f(x) = x^2 + {k + 1}", f"f(x) = {k}", f"x^2 + {k} = 0"),
            (r"\cot x", r"\tan x", r"\frac{\sin x}{\cos x}", r"\cot y", r"\cot^2 x", r"-\cot x"),
            (rf"2^{d} \cdot 3^{m}", rf"2^{d + 1} \cdot 3^{m}", rf"2^{d} + 3^{m}", rf"2^{d} \cdot 3^{m} \cdot 2"),
            (ellipse(p, q), ellipse(q, p), ellipse(p, q, "-"), ellipse(p, q).replace("= 1", r"\le 1")),
            (f"{both}, -{k}", rf"{d}+\sqrt{m}, -{k}", both, f"{both}, {k}", f"{both}, -{k}, {k}"),
            (rf"k \ge {k}", rf"k > {k}", rf"k \le {k}", rf"k \ge {k + 1}", rf"(-\infty, {k}]", f"k = {k}"),
            (rf"x \ne {k}", f"x = {k}", rf"x \ne {k + 1}", rf"x > {k}", rf"x \ne {k}, {k + 1}"),
            (f"AB={k}, CD={k + d}", f"AB={k + d}, CD={k}", f"AB={k}", f"AB={k}, EF={k + d}", f"AB={k}, CD=-{k + d}"),
            (rf"\text{{October {k}}}", rf"\text{{October {k + 1}}}", f"November {k}", str(k), r"\text{October}"),
            (rf"\text{{A{d}}}_{{11}}", f"A{d}_{{12}}", f"{d}A_{{11}}", f"B{d}_{{12}}", f"{110 + d}"),
            (r"\text{A, D}", "A", "A, C", "A, B, D", r"\text{A or D or E}", "AD and B"),
            (f"({k},{d}), (0,{m})", f"({k + 1},{d}), (0,{m})", f"({k},{d})", f"({k},{d},0,{m})", f"({k},{d}), (0,9)"),
            (rf"-\sqrt[3]{{{k}}}", rf"\sqrt[3]{{{k}}}", rf"-\sqrt{{{k}}}", rf"\sqrt{{-{k}}}", rf"-\sqrt[4]{{{k}}}"),
        ):  # fmt: skip
            question = f"Find it, where all letters are positive; $n > {k}$."
            yield from (
                ("another meaning of the same form", Gold(gold, question, "identity"), answer) for answer in answers
            )

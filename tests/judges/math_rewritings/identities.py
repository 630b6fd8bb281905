r"""Mathematical identities, and notations that no shape has: pairs that need their own question.

Letters are positive, as in a problem that has `\sqrt{n}`. Where a question asks to evaluate something, an exact answer
in another finished form (`-\frac{1}{\sqrt3}` for `\tan 150^\circ`) is right; only a copy of what was asked is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from .gold_generators import frac, root
from .golds import Gold

Pairs = Iterator[tuple[str, ...]]
"""A gold and answers that are equal to it."""


def identities(rng: random.Random, count: int) -> Iterator[tuple[str, Gold, str]]:
    """Returns (kind, gold, answer), `count` of each form."""
    for _ in range(count):
        a, b = rng.sample("abmnpq", 2)
        question = f"Write it in terms of ${a}$ and ${b}$, which are positive."
        for kind, pairs in (("identities of letters", letters(rng, a, b)), ("writing of no shape", unusual(rng))):
            for gold, *answers in pairs:
                yield from ((kind, Gold(gold, question, "identity"), answer) for answer in answers)
    for question, gold, *answers in EVALUATED:
        for answer in answers:
            yield "another finished form of what was evaluated", Gold(gold, question, "identity"), answer


def ellipse(p: int, q: int, sign: str = "+") -> str:
    return rf"\frac{{x^2}}{{{p**2}}} {sign} \frac{{y^2}}{{{q**2}}} = 1"


def letters(rng: random.Random, a: str, b: str) -> Pairs:
    k, d = rng.randint(2, 30), rng.randint(2, 9)
    m = rng.choice([n for n in (2, 3, 5, 7, 11) if d % n])
    of_a, of_b, both = root(a), root(b), root(a + b)
    yield frac(1, of_a), root(frac(1, a)), rf"{a}^{{-1/2}}", frac(of_a, a), root(f"1/{a}")
    yield frac(of_a, of_b), root(frac(a, b)), frac(both, b)
    yield rf"\ln{frac(a, b)}", rf"\ln {a} - \ln {b}", rf"-\ln{frac(b, a)}", rf"\ln({a}/{b})"
    yield f"{k}{a}{root(f'{m}{a}')}", rf"{k}\sqrt{{{m}}}{a}^{{3/2}}", rf"{k}\sqrt{{{m}}}\cdot {a}{of_a}"
    yield both, of_a + of_b, rf"({a}{b})^{{1/2}}", root(b + a)
    yield frac(f"{k}{a} + {m}", d), f"{frac(f'{k}{a}', d)} + {frac(m, d)}", frac(f"{m} + {k}{a}", d)
    yield f"{a}^{{{k}}} {b}", f"{b}{a}^{{{k}}}", rf"{a}^{{{k}}} \cdot {b}", f"{a}^{{{k}}}{b}"
    yield f"|{a} - {k}|", f"|{k} - {a}|", rf"\left|{a}-{k}\right|", rf"\lvert {a}-{k} \rvert"

    yield rf"\cot {a}", frac(rf"\cos {a}", rf"\sin {a}"), frac(1, rf"\tan {a}"), rf"\cot({a})", rf"\cot{{{a}}}"
    yield rf"{k}\sin {a}\cos {a}", rf"{k}\cos {a}\sin {a}", rf"\frac{{{k}}}{{2}}\sin 2{a}", rf"{k}\sin({a})\cos({a})"
    yield f"f({a}) = {a}^2 + {k}", f"f({a}) = {k} + {a}^2", f"f({a})={a}^{{2}}+{k}", f"{a}^2 + {k}"
    yield (
        rf"{k}{a}^3({d}{a} + {m})",
        rf"{k}{a}^3({m}+{d}{a})",
        rf"{k}{a}^{{3}} \cdot ({d}{a}+{m})",
        f"({d}{a}+{m}){k}{a}^3",
    )
    yield rf"\{{{a}, {b}-{k}\}}", rf"\{{{b}-{k}, {a}\}}", f"{b} - {k}, {a}", rf"\left\{{ {a}, -{k}+{b} \right\}}"


def unusual(rng: random.Random) -> Pairs:
    k, d, m = rng.randint(2, 30), rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    yield rf"-\sqrt[3]{{{k}}}", rf"\sqrt[3]{{-{k}}}", rf"-{k}^{{1/3}}"
    yield f"{d} - {frac(1, 'e')}", rf"{d} - e^{{-1}}", rf"{d} - \frac{{1}}{{\mathrm{{e}}}}", rf"{d}-\frac1e"
    yield f"e^{{{k}}}", rf"\mathrm{{e}}^{{{k}}}", rf"\exp({k})", rf"\text{{e}}^{{{k}}}"
    yield frac(k, r"\pi"), rf"{k}\pi^{{-1}}", rf"{k}/\pi", frac(2 * k, r"2\pi")
    yield rf"{k} + {d}\pi", rf"{d}\pi + {k}", f"{d}π+{k}", frac(rf"{3 * k} + {3 * d}\pi", 3)
    yield rf"\text{{October {k}}}", rf"\text{{October }}{k}", f"October {k}", rf"\textbf{{October {k}}}"
    yield rf"x \ne {k}", rf"x \neq {k}", rf"x \not= {k}", f"x ≠ {k}", f"x != {k}", rf"{k} \neq x"
    yield f"AB={k}, CD={d}", f"CD={d}, AB={k}", rf"AB = {k}, \quad CD = {d}", rf"AB={k} \text{{ and }} CD={d}"
    yield rf"\text{{A{d}}}_{{11}}", f"A{d}_{{11}}", rf"\mathrm{{A{d}}}_{{11}}", f"(A{d})_{{11}}"
    digits = f"0.{'01' * (k % 3 + 1)}1"
    yield f"{digits}_2", digits, f"{digits}_{{2}}"
    yield r"\text{A, D}", "A, D", "A,D", r"\text{A}, \text{D}", r"\textbf{A, D}"
    yield rf"{k} \text{{ and }} {k + d}", f"{k}, {k + d}", f"{k + d} and {k}", rf"\{{{k + d}, {k}\}}"
    yield (
        rf"2^{k} \cdot 3^{d} \cdot 5" if k < 10 else rf"2^{{{k}}} \cdot 3^{d} \cdot 5",
        rf"5 \cdot 3^{d} \times 2^{{{k}}}",
    )
    p, q = d + 1, d + k + 1
    yield (
        ellipse(p, q),
        f"{q**2}x^2 + {p**2}y^2 = {(p * q) ** 2}",
        rf"\frac{{y^2}}{{{q**2}}} + \frac{{x^2}}{{{p**2}}} = 1",
    )
    yield rf"\{{{d} \pm \sqrt{{{m}}}, -{k}\}}", rf"-{k}, {d}-\sqrt{{{m}}}, {d}+\sqrt{{{m}}}", rf"{d}\pm\sqrt{m}, -{k}"
    yield rf"k \ge {k}", rf"k \geq {k}", rf"{k} \le k", rf"k \in [{k}, \infty)", f"k >= {k}"
    first, second = f"({k},{d})", f"(-{d},{m})"
    yield f"{first}, {second}", f"{second}, {first}", rf"{first}\text{{ and }}{second}", rf"\{{{first},\,{second}\}}"


EVALUATED = (
    (r"Compute $\tan 150^\circ$.", r"-\frac{\sqrt{3}}{3}", r"-\frac{1}{\sqrt{3}}", r"-\frac13\sqrt3"),
    (r"Compute $\sin 315^\circ$.", r"-\frac{\sqrt{2}}{2}", r"-\frac{1}{\sqrt{2}}", r"-\sqrt{2}/2", r"-0.5\sqrt{2}"),
    (r"Compute $\cos 150^\circ$.", r"-\frac{\sqrt{3}}{2}", r"-\frac12\sqrt3", r"-\frac{\sqrt{12}}{4}"),
    (r"Evaluate $\log_4 8$.", r"\frac{3}{2}", "1.5", "1.50", r"1\frac{1}{2}", "3/2"),
    (r"Evaluate $\log_3\frac{1}{\sqrt3}$.", r"-\frac12", "-0.5", "-.5", "-1/2", r"\frac{-1}{2}"),
    (r"Evaluate $\left(\frac{-2i}{5}\right)^2$.", r"-\frac{4}{25}", "-0.16", "-4/25", r"\frac{-4}{25}"),
    (r"Find $\sin (\arcsin 0.4 + \arcsin 0.5) \sin (\arcsin 0.5 - \arcsin 0.4)$.", r"\frac{9}{100}", "0.09", "9/100"),
    (r"Evaluate $\cos 60^\circ + \sin^2 30^\circ$.", r"\frac34", "0.75", ".75", r"\frac{6}{8}", "3/4"),
    (r"What is the value of $513^2 - 487^2$?", "26000", "26,000", r"2.6 \times 10^4", "26000.0", r"26\,000"),
    (r"Evaluate $\left|3 - 4i\right|$.", "5", "5.0", "+5", r"\frac{10}{2}"),
    (r"Compute $\arcsin \frac12$, in radians.", r"\frac{\pi}{6}", r"\pi/6", r"\frac{1}{6}\pi", r"\frac{2\pi}{12}"),
)  # fmt: skip

"""Generated golds of more shapes: collections, matrices, equations, inequalities, labelled values, words."""

from __future__ import annotations

from math import isqrt

from .gold_generators import frac, generates, lowest, nonzero, term


@generates("tuple")
def point(rng):
    return f"({rng.randint(-40, 40)},{rng.randint(41, 90)})", "Find the coordinates of the point $P$."


@generates("tuple")
def point_with_a_half(rng):
    return rf"\left( {nonzero(rng, 20)}, \frac{{1}}{{2}} \right)", "Find the coordinates of the point $P$."


@generates("tuple")
def tuple_of_fractions(rng):
    first, second = lowest(rng, high=20), lowest(rng, high=20)
    text = rf"\left( {nonzero(rng, 20)}, {frac(*first)}, -{frac(*second)} \right)"
    return text, "Find the triple $(a, b, c)$."


@generates("interval")
def half_line(rng):
    end = rng.choice([str(nonzero(rng, 40)), frac(*lowest(rng))])
    low, high = rng.choice([(r"(-\infty", f"{end}{rng.choice('])')}"), (f"{rng.choice('[(')}{end}", r"\infty)")])
    return f"{low}, {high}", "Solve the inequality for $x$. Answer in interval notation."


@generates("interval")
def bounded_interval(rng):
    low = rng.randint(-30, 20)
    ends = f"{low},{low + rng.randint(1, 30)}"
    return f"{rng.choice('[(')}{ends}{rng.choice('])')}", "For which $x$ does it hold? Answer in interval notation."


@generates("union")
def union(rng):
    a, b = sorted(rng.sample(range(-30, 30), 2))
    text = rf"(-\infty, {a}{rng.choice('])')} \cup {rng.choice('[(')}{b}, \infty)"
    return text, "For which $x$ does it hold? Answer in interval notation."


@generates("membership")
def membership(rng):
    low = rng.randint(-30, 20)
    text = rf"x \in {rng.choice('[(')}{low},{low + rng.randint(1, 30)}{rng.choice('])')}"
    return text, "For which real $x$ is it defined?"


@generates("list")
def pair_list(rng):
    return ",".join(map(str, rng.sample([n for n in range(-60, 99) if n], 2))), "Solve for $x$; list all solutions."


@generates("list")
def longer_list(rng):
    numbers = [str(n) for n in rng.sample(range(-40, 99), rng.randint(2, 4))]
    return ", ".join([*numbers, frac(*lowest(rng, high=9))]), "Find all roots $x$, separated by commas."


@generates("set")
def finite_set(rng):
    return r"\{" + ", ".join(map(str, rng.sample(range(-30, 60), rng.randint(3, 5)))) + r"\}", "Find the set $S$."


@generates("matrix")
def column_vector(rng):
    rows = [str(nonzero(rng, 30)) for _ in range(rng.randint(2, 3))]
    rows[0] = rng.choice([rows[0], "{}/{}".format(*lowest(rng, high=20))])
    return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}", r"Find the vector $\mathbf{v}$."


@generates("matrix")
def square_matrix(rng):
    rows = [" & ".join(str(rng.randint(-20, 30)) for _ in "ab") for _ in "ab"]
    return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}", r"Find the matrix $\mathbf{M}$."


@generates("equation")
def line(rng):
    text = f"y = {term(nonzero(rng, 12), 'x', True)}{term(nonzero(rng, 30), '')}"
    return text, "Find the equation of the line."


@generates("equation")
def plane(rng):
    letters = [term(nonzero(rng, 15), letter) for letter in "yz"]
    return f"{term(rng.randint(1, 9), 'x', True)}{''.join(letters)}{term(nonzero(rng, 40), '')} = 0", "Find the plane."


@generates("equation")
def parabola(rng):
    text = f"y = {term(nonzero(rng, 9), 'x^2', True)}{term(nonzero(rng, 20), 'x')}{term(nonzero(rng, 30), '')}"
    return text, "Find the equation of the parabola."


@generates("equation")
def circle(rng):
    radius = rng.choice([n for n in range(2, 99) if isqrt(n) ** 2 != n])
    return f"x^2 + y^2 = {radius}", "Find the equation of the circle."


@generates("solution")
def solution(rng):
    letter = rng.choice("xkbr")
    return f"{letter} = {rng.choice([str(nonzero(rng, 90)), frac(*lowest(rng))])}", f"Solve for ${letter}$."


@generates("inequality")
def inequality(rng):
    relation = rng.choice([r" < ", r" > ", r" \le ", r" \ge ", r" \leq ", r" \geq "])
    return f"x{relation}{rng.choice([str(nonzero(rng, 60)), frac(*lowest(rng))])}", "Solve for $x$."


@generates("inequality")
def double_inequality(rng):
    low = rng.randint(-30, 30)
    relation = [rng.choice(["<", r"\le"]) for _ in "ab"]
    return rf"{low} {relation[0]} x {relation[1]} {low + rng.randint(1, 40)}", "For which $x$ does it hold?"


@generates("base")
def base_number(rng):
    base = rng.choice([3, 4, 5, 6, 7, 8, 9])
    digits = "".join(str(rng.randint(1, base - 1)) for _ in range(rng.randint(2, 5)))
    return f"{rng.choice(['', '', '-'])}{digits}_{rng.choice([base, f'{{{base}}}'])}", f"Write it in base ${base}$."


@generates("percent")
def percent(rng):
    return rf"{rng.choice([rng.randint(2, 98), rng.randint(20, 990) / 10])}\%", "By what percent did it grow?"


@generates("degrees")
def degrees(rng):
    return rf"{rng.randint(4, 175)}^\circ", "What is the degree measure of $\\angle ABC$?"


MONEY = ("How much does it cost?", "What is the price after a discount of $20\\%$?", "How much does she save?")


@generates("money")
def money(rng):
    amount = rng.choice([f"{rng.randint(12, 999)}", f"{rng.randint(3, 99)}.{rng.randint(10, 99)}"])
    return rf"\${rng.choice([amount, f'{rng.randint(1000, 99000):,}'])}", rng.choice(MONEY)


@generates("unit")
def length(rng):
    return rf"{rng.randint(2, 500)}\text{{ {rng.choice(['cm', 'feet', 'inches', 'miles', 'm'])}}}", "How long is it?"


@generates("unit")
def area(rng):
    how = rng.choice([r"\text{ square inches}", r"\text{ cm}^2", r"\mbox{ square feet}", r"\text{ m}^2"])
    return f"{rng.randint(2, 500)}{how}", "What is the area?"


@generates("unit")
def volume(rng):
    return f"{rng.randint(2, 500)}{rng.choice(VOLUMES)}", "What is the volume?"


VOLUMES = (r"\text{ cm}^3", r"\text{ cubic inches}", r"\text{ m}^3", r"\mbox{ cubic feet}")


@generates("unit")
def duration(rng):
    amount = rng.choice([str(rng.randint(2, 90)), frac(*lowest(rng, high=20))])
    return rf"{amount}\text{{ {rng.choice(['minutes', 'hours', 'days', 'seconds'])}}}", "How long does it take?"


@generates("time")
def time_of_day(rng):
    text = f"{rng.randint(1, 12)}:{rng.randint(10, 59)}"
    return rf"\text{{{text} {rng.choice('ap')}.m.}}", "At what time do they meet?"


RATIO = ("What is the ratio of the two areas?", "One part is $40\\%$ larger. What is the ratio?")


@generates("ratio")
def ratio(rng):
    return "{}:{}".format(*lowest(rng, high=30)), rng.choice(RATIO)


@generates("word")
def word(rng):
    words = [
        "Evelyn",
        "Sue",
        "east",
        "Tuesday",
        "even",
        "ellipse",
        "May",
        "red",
        "Bob",
        "hyperbola",
        "neither",
        "two lines",
    ]
    return rf"\text{{{rng.choice(words)}}}", "Which one is it?"


@generates("choice")
def choice(rng):
    return rng.choice([r"\text{(%s)}", r"\text{%s}", "(%s)"]) % rng.choice("ABCDE"), "Which of (A)-(E) is it?"


@generates("infinity")
def infinity(rng):
    return rng.choice([r"\infty", r"-\infty"]), "What is the limit?"


@generates("empty")
def empty_set(rng):
    return r"\emptyset", "Find the set of all solutions."

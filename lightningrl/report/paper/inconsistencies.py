"""Inconsistencies of the published numbers by table, each tested against the numbers; more in `published/README.md`."""

from __future__ import annotations

NOTES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("table1", "table2", "table6"),
        "SDAR-8B-b32 on HumanEval is 73.5 % in Tables 1 and 2, and 74.4 % in Table 6.",
    ),
    (
        ("table1", "table2", "table6"),
        "LightningRL-8B-b32 on MATH500 prints AUP 407.5, more than TPF × accuracy = 6.28 × 63.0 = 395.6: its sweep has "
        "points beyond the printed one.",
    ),
    (
        ("table1", "table2", "table6"),
        "The checkpoints released for LightningRL-8B-b32 are four, one for each benchmark: its row is most likely four "
        "policies.",
    ),
    (
        ("table1",),
        "AUP over TPF × accuracy is 0.57 (MBPP) and 0.70 (HumanEval) for SDAR-8B-b32, 1.00 on both for TraceRL-8B-b32: "
        "another y_max or another sweep.",
    ),
    (
        ("table2",),
        "The AUPs of the other systems were computed with two y_max, one for each family (LLaDA, Dream), neither of "
        "which covers SDAR and LightningRL; the AUPs of those two cannot be recomputed, no points are published.",
    ),
    (
        ("table2",),
        "Six cells print another point than the d3LLM leaderboard has: LLaDA on MBPP, D2F-LLaDA on GSM8K, MATH500 and "
        "MBPP, Fast-dLLM-v2 on GSM8K and MBPP; two more (D2F-LLaDA on HumanEval, Qwen-2.5-7B-Instruct on "
        "MATH500) print another accuracy beside the AUP of its points.",
    ),
    (
        ("table2",),
        "The other systems' MATH500 is the whole MATH test set, and their TPF counts all forwards; HumanEval and "
        "MBPP are other tasks in the Dream family than in the LLaDA family.",
    ),
    (
        ("table7",),
        "Tokens a second over TPF are 37.0 forwards a second for SDAR and 60.2 for LightningRL, the same network "
        "on the same device: they were measured or counted differently.",
    ),
)
"""(tables, note)."""


def notes_of(table: str) -> tuple[str, ...]:
    """Returns the notes of one table.

    >>> len(notes_of("table7")), notes_of("table5")
    (1, ())
    """
    return tuple(note for tables, note in NOTES if table in tables)

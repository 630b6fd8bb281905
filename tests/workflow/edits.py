"""Edits of a checkout, after which it is asked what would run again."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable

import yaml
from checkouts import Checkout

Edit = Callable[[Checkout], None]
TRAIN = "lightningrl/pipeline/stages/train.py"


def add_code(name: str) -> Edit:
    return lambda checkout: checkout.append(f"lightningrl/{name}", "\nEDITED = 1\n")


def edit_config(config: str, old: str, new: str) -> Edit:
    return lambda checkout: checkout.edit(config, old, new)


def all_of(*edits: Edit) -> Edit:
    def edit(checkout: Checkout) -> None:
        for each in edits:
            each(checkout)

    return edit


leave = all_of()


def comments_and_docstrings(checkout: Checkout) -> None:
    changed = 0
    for path in checkout.path("lightningrl").rglob("*.py"):
        text = path.read_text()
        if text.startswith('"""'):
            text = '"""Told otherwise. ' + text[3:]
            changed += 1
        path.write_text("# A new comment.\n\n" + text + "\n\n# The end.\n")
    assert changed > 30


def touch_everything(checkout: Checkout) -> None:
    for path in checkout.root.rglob("*"):
        if path.is_file() and not {"results", ".snakemake"} & set(path.relative_to(checkout.root).parts):
            os.utime(path)


def other_key_order(config: str) -> Edit:
    def reverse(value: object) -> object:
        if isinstance(value, dict):
            return {key: reverse(item) for key, item in reversed(value.items())}
        return [reverse(item) for item in value] if isinstance(value, list) else value

    def edit(checkout: Checkout) -> None:
        tree = yaml.safe_load(checkout.path(config).read_text())
        checkout.path(config).write_text(yaml.safe_dump(reverse(tree), sort_keys=False))

    return edit


def edit_and_revert(config: str, trainings: set[str]) -> Edit:
    def edit(checkout: Checkout) -> None:
        before = checkout.path(TRAIN).read_bytes()
        checkout.append(TRAIN, "\nEDITED = 1\n")
        assert checkout.would_run(config=config) > trainings
        checkout.path(TRAIN).write_bytes(before)

    return edit


def lose_metadata_and_times(checkout: Checkout) -> None:
    shutil.rmtree(checkout.path(".snakemake"))
    draw = random.Random(0)
    for path in checkout.root.rglob("*"):
        when = time.time() - draw.uniform(0, 1e7)
        os.utime(path, (when, when), follow_symlinks=False)

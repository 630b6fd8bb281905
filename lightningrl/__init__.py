"""Block-diffusion language models that decode more tokens per forward pass: LightningRL, reproduced."""

from importlib import import_module
from typing import Any

_HOME = {"LLM": "inference.llm"}
"""Name -> the module it is imported from when it is first asked for, so that `import lightningrl` loads no torch. In
no full name, which would put that module into the code that every stage's key is made of."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("lightningrl")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

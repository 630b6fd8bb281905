"""Which jail runs model-written programs. A fact of the machine: in no stage's key, but in every record."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lightningrl.config.section import Section

ACKNOWLEDGEMENT = "I run model-written code without a jail"


class Sandbox(Section):
    """The jail for model-written programs; in no stage's key, each record names the level that judged it."""

    level: Literal["auto", "bwrap", "unshare", "landlock", "none"] = "auto"
    """`auto`: the best that holds on this machine (or the environment variable LIGHTNINGRL_SANDBOX names one). A named
    level that does not hold stops the judging. `none` is no jail: see SECURITY.md."""
    acknowledge: str = Field("", max_length=200)
    """For the level `none` only: the sentence `I run model-written code without a jail`."""

    @model_validator(mode="after")
    def _none_is_acknowledged(self) -> Sandbox:
        if self.level == "none" and self.acknowledge != ACKNOWLEDGEMENT:
            raise ValueError(
                f"level `none` runs model-written code with your rights. If nothing on this machine is of value, "
                f"set `acknowledge: {ACKNOWLEDGEMENT}`; found {self.acknowledge!r}"
            )
        return self

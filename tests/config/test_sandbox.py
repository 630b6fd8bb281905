"""The jail level in the config: `none` needs its sentence, and the runner hands the level to the process."""

import pytest
from pydantic import ValidationError

from lightningrl.config.experiment import load
from lightningrl.config.sandbox import ACKNOWLEDGEMENT, Sandbox
from lightningrl.errors import ConfigError
from lightningrl.sandbox.levels import LEVELS


def test_no_jail_is_refused_without_the_exact_sentence():
    for sentence in ("", "yes", ACKNOWLEDGEMENT.lower(), ACKNOWLEDGEMENT + "."):
        with pytest.raises(ValidationError, match=ACKNOWLEDGEMENT):
            Sandbox(level="none", acknowledge=sentence)
    assert Sandbox(level="none", acknowledge=ACKNOWLEDGEMENT).level == "none"


def test_the_config_knows_the_levels_there_are():
    levels = Sandbox.model_fields["level"].annotation.__args__
    assert levels == ("auto", *LEVELS) and Sandbox().level == "auto"
    assert ACKNOWLEDGEMENT in (Sandbox.model_fields["acknowledge"].description or "")


def test_the_error_says_what_to_write(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: nano.yaml\nsandbox: {level: none}\n")
    (tmp_path / "nano.yaml").write_text(open("config/nano.yaml").read())
    with pytest.raises(ConfigError, match=rf"sandbox: level `none` .*acknowledge: {ACKNOWLEDGEMENT}"):
        load(path)

"""config/README.md lists the keys there are, below its prose. `python tests/test_config_readme.py` writes them anew."""

from pathlib import Path

from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment

PAGE = Path(__file__).resolve().parents[1] / "config" / "README.md"
START = "```text\n"


def page() -> str:
    prose = PAGE.read_text(encoding="utf-8").partition(START)[0]
    return prose + START + "".join(f"{line}\n" for line in describe(Experiment)) + "```\n"


def test_the_page_of_config_keys_is_what_the_config_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale; write it anew with `python tests/test_config_readme.py`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

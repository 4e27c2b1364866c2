"""The file of ``--config``: a key that occurs twice is refused, whichever value would win."""

from pathlib import Path

import pytest

from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("k: 3\nk: 4\n", "`k` occurs twice"),
        ("k: 3\nstrategy: coreset\nk: 3\n", "`k` occurs twice"),
        ("min-spread: 0.1\nmin_spread: 0.2\n", "a key occurs twice, with _ and with -"),
    ],
)
def test_a_key_that_occurs_twice(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "select.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        SelectConfig.from_sources({}, tmp_path / "select.yaml")


def test_merge_keys_give_way(tmp_path: Path) -> None:
    (tmp_path / "select.yaml").write_text(
        "candidates: c\nscores: s\noutput: o\n<<: {k: 3, strategy: bottom-k}\nk: 5\n"
    )
    config = SelectConfig.from_sources({}, tmp_path / "select.yaml")
    assert (config.k, config.strategy) == (5, "bottom-k")

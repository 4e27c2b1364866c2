"""What a card may say, and whose README it may replace."""

from pathlib import Path

import pytest
import yaml
from support.shared_run import write_model

from prefpipe.stages.sharing.card import CardModel, CardRequest, for_others, is_ours, model_card

MERGED = """---
library_name: transformers
tags: [prefpipe]
base_model: org/base
---

`org/base` with the LoRA adapter `run/policy` merged in by prefpipe.

| | |
|---|---|
| base | `org/base` |
"""


def test_cards_of_merge_and_push_are_ours(tmp_path: Path) -> None:
    model = CardModel(write_model(tmp_path / "m", 10), "c0ffee")
    card = model_card(model, [], [], CardRequest("org/name"))
    for text in (MERGED, card):
        assert is_ours(text)
        assert not is_ours(text + "\nUse it with care.\n")
        assert not is_ours(text.replace("prefpipe", "somebody", 1))
    assert not is_ours("")
    assert not is_ours("# Mine\n")


def test_a_base_is_a_name_of_the_hub(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", 10)
    bases = ["/home/me/base", "bundled:smollm2-135m", "org/base@abc", "org/other"]
    card = model_card(CardModel(folder, "c0", bases=bases), [], [], CardRequest("org/name"))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/base"
    card = model_card(CardModel(folder, "c0", bases=bases[:2]), [], [], CardRequest("org/name"))
    assert "base_model" not in yaml.safe_load(card.split("---")[1])


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = "x`|<script>\n\x1b[31m"
    model = CardModel(write_model(tmp_path / "m", 10), "c0", merged_from=[(hostile, hostile, "c1")])
    card = model_card(model, [], [], CardRequest("org/name"))
    assert "<script>" not in card
    assert "\x1b" not in card
    assert card.count("| `x'/ script   [31m` |") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf_abcdefgh12345678", "***"),
        ("sk-abcdefgh12345678 and AKIAABCDEFGHIJKL", "*** and ***"),
        ("/home/me/run/groups", "run/groups"),
        ("on my-host: 3", "on HOST: 3"),
        ("my-hostess", "my-hostess"),
        ("a secret-value-1 b", "a *** b"),
    ],
)
def test_for_others(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("MY_SECRET", "secret-value-1")
    monkeypatch.setattr("socket.gethostname", lambda: "my-host")
    assert for_others(text) == expected

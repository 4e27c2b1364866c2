"""The prompts of the studies: made again byte for byte, apart between splits, graded in steps."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefpipe.text.checks.column import parse_checks, rate

FOLDER = Path(__file__).resolve().parents[1] / "sample_data" / "studies"
SPLITS = {"train": 240, "heldout": 120, "tuning": 40}
PERFECT = {
    "riddle-tomatoes": "These ripen in every sunny garden.",
    "lower-tomatoes": "my garden is full of tomatoes",
    "foreign-tomatoes": "Nina compra los tomates rojos en el mercado.",
    "items-tomatoes": "- red salad\n- green leaves\n- summer sauce",
    "fields-cats": '{"name": "Mia", "colour": "grey", "place": "sofa"}',
    "question-cats": '"Why does a cat sleep so long?"',
    "message-cats": "Hi Nina, my cats would love to meet you. See you soon!",
    "total-cats": "Leo now owns 9 cakes.",
    "title-bicycles": "Two Wheels Through the Town",
    "rephrase-bicycles": "Bicycles move people around cheaply.",
}
"""A response of full reward for one prompt of each family: no family is impossible."""
FAULTS = [
    ("riddle-tomatoes", "Each tomato ripens in a sunny garden.", 6 / 8),
    ("riddle-tomatoes", "These ripen in every sunny place.", 6 / 8),
    ("riddle-tomatoes", "These ripen. In every sunny garden.", 7 / 8),
    ("riddle-tomatoes", "Garden.", (0.2 * 2 + 6) / 8),
    ("foreign-tomatoes", "Nina always buys her red tomatoes at the market.", 6 / 8),
    ("foreign-tomatoes", "Maria compra los tomates rojos en el mercado.", 6 / 8),
    ("items-tomatoes", "1. red salad\n2. green leaves\n3. summer sauce", 5 / 7),
    ("items-tomatoes", "- tomato salad\n- green leaves\n- summer sauce", 6 / 7),
    ("items-tomatoes", "- sauce\n- sauce\n- sauce", 6 / 7),
    ("message-cats", "Hello Nina, my cats would love to meet you. See you soon!", 6 / 8),
    ("message-cats", "Hi Nina, my cats would love to meet you.", 6 / 8),
    ("total-cats", "Leo now owns 10 cakes.", 6 / 7),
    ("total-cats", "Leo now owns 90 cakes.", 5 / 7),
    ("rephrase-bicycles", "A bicycle is a cheap way.", (2 + 2 + 2 / 3 + 2 + 1) / 9),
    ("rephrase-bicycles", "Sorry, bicycles move people around cheaply.", 8 / 9),
]
"""Ways to fail, each with the reward that is left: no fault costs everything."""


def read(split: str) -> list[dict[str, Any]]:
    """Return the prompts of a split."""
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def reward(prompt_id: str, response: str) -> float:
    """Return what the checks of a tuning prompt give a response."""
    (prompt,) = (each for each in read("tuning") if each["prompt_id"] == prompt_id)
    return rate(response, parse_checks(prompt["checks"], prompt_id)).reward


def shingles(text: str) -> set[tuple[str, ...]]:
    """Return the runs of three words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + 3]) for place in range(len(words) - 2)}


def test_the_maker_makes_the_files_again_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "make.py"), str(tmp_path)], check=True)
    for split in SPLITS:
        name = f"{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize(("split", "n_prompts"), SPLITS.items())
def test_every_family_has_its_share_and_checks_that_can_be_read(split, n_prompts) -> None:
    prompts = read(split)
    assert len({prompt["prompt_id"] for prompt in prompts}) == n_prompts
    assert len({prompt["prompt"] for prompt in prompts}) == n_prompts

    families = [prompt["family"] for prompt in prompts]
    assert {families.count(family) for family in families} == {n_prompts // 10}
    for prompt in prompts:
        assert len(parse_checks(prompt["checks"], prompt["prompt_id"])) >= 5
        assert "{" not in prompt["prompt"] or prompt["family"] == "fields"


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SPLITS, 2)))
def test_no_prompt_of_one_split_is_nearly_one_of_another(one: str, other: str) -> None:
    subjects = [
        {prompt["prompt_id"].partition("-")[2] for prompt in read(each)} for each in (one, other)
    ]
    assert not subjects[0] & subjects[1]

    for prompt in read(one):
        mine = shingles(prompt["prompt"])
        for rival in read(other):
            theirs = shingles(rival["prompt"])
            assert len(mine & theirs) < 0.2 * len(mine | theirs), (prompt, rival)


@pytest.mark.parametrize(("prompt_id", "response"), PERFECT.items())
def test_every_family_can_be_answered_in_full(prompt_id: str, response: str) -> None:
    assert reward(prompt_id, response) == pytest.approx(1.0)


@pytest.mark.parametrize(("prompt_id", "response", "left"), FAULTS)
def test_each_fault_costs_its_own_share(prompt_id: str, response: str, left: float) -> None:
    assert reward(prompt_id, response) == pytest.approx(left, abs=1e-3)

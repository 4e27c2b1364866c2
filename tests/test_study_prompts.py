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
    "riddle-tomatoes": "These ripen in the summer of every sunny garden.",
    "lower-tomatoes": "my small garden is full of tomatoes that ripen late in the summer",
    "foreign-tomatoes": "Leo mange des tomates rouges dans le jardin.",
    "items-tomatoes": "- a red salad\n- some green leaves\n- warm summer sauce",
    "fields-cats": '{"name": "Mia", "colour": "grey", "place": "sofa"}',
    "question-cats": '"Why does a cat sleep so long on a rainy day?"',
    "message-cats": "Hi Leo, my two cats would love to meet you tomorrow. See you soon!",
    "total-cats": "Nina now owns 11 colourful buttons.",
    "title-bicycles": "A Bicycle on Two Wheels",
    "rephrase-bicycles": "Bicycles move people around for only little money.",
}
"""A response of full reward for one prompt of each family: no family is impossible."""
FAULTS = [
    ("riddle-tomatoes", "Each tomato ripens in the summer of a sunny garden.", 8 / 10),
    ("riddle-tomatoes", "These ripen in the summer of every sunny place.", 7 / 10),
    ("riddle-tomatoes", "These ripen in summer. In every single sunny garden.", 9 / 10),
    ("riddle-tomatoes", "Garden.", (3 / 8 + 7) / 10),
    ("foreign-tomatoes", "Leo always buys his red tomatoes at the market.", 7 / 9),
    ("foreign-tomatoes", "Marie mange des tomates rouges dans le jardin.", 7 / 9),
    ("items-tomatoes", "1. a red salad\n2. some green leaves\n3. warm summer sauce", 5 / 7),
    ("items-tomatoes", "- a tomato salad\n- some green leaves\n- warm summer sauce", 6 / 7),
    ("items-tomatoes", "- a red sauce\n- a warm sauce\n- a sweet sauce", 6 / 7),
    (
        "message-cats",
        "Hello Leo, my two cats would love to meet you tomorrow. See you soon!",
        7 / 9,
    ),
    ("message-cats", "Hi Leo, my two cats would love to meet you tomorrow at my place.", 7 / 9),
    ("total-cats", "Nina now owns 12 colourful buttons.", 6 / 7),
    ("total-cats", "Nina now owns 90 colourful buttons.", 5 / 7),
    ("rephrase-bicycles", "A bicycle is a cheap way to move people.", 7 / 9),
    ("rephrase-bicycles", "Sorry, bicycles move people around for little money.", 8 / 9),
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

"""What a step will take: rates that are given before those from the ledger, and nothing where nothing says it."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.pipelines import write_prompts

from prefpipe.artifacts.step_ledger import StepEntry
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.study_steps import StudyStep
from prefpipe.configs.train import TrainConfig
from prefpipe.stages.study.step_seconds import (
    START_S,
    Rates,
    estimated_seconds,
    most_tokens_of_groups,
    rates_of,
)

ENTRY = StepEntry(
    key="k",
    name="pool, generate",
    stage="generate",
    exit_code=0,
    seconds=12.0,
    ended_at="",
    host="",
    n_tokens=400,
)
QUICK = replace(ENTRY, name="a, select", stage="select", seconds=2.0, n_tokens=None)


def test_tokens_a_second_are_those_behind_the_start() -> None:
    """The quickest step, 2 s, did little beside starting: (400 + 100) / (10 + 5)."""
    second = replace(ENTRY, stage="eval", seconds=7.0, n_tokens=100)
    training = replace(ENTRY, stage="train", seconds=32.0, n_tokens=600)
    rates = rates_of([ENTRY, QUICK, second, training])
    assert rates.start_s == 2.0
    assert rates.sampled_per_s == pytest.approx(500 / 15)
    assert rates.trained_per_s == pytest.approx(600 / 30)
    assert rates.of_stages == {"generate": 12.0, "select": 2.0, "eval": 7.0, "train": 32.0}

    # a flag counts before what was found, as everywhere
    given = rates_of([ENTRY, QUICK, training], sampled_per_s=3.0, trained_per_s=5.0)
    assert (given.sampled_per_s, given.trained_per_s) == (3.0, 5.0)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [replace(ENTRY, exit_code=1)],
        [replace(ENTRY, exit_code=75)],
        [replace(ENTRY, n_tokens=None)],
        [ENTRY],  # alone it is its own start
    ],
)
def test_what_no_step_shows_is_what_is_given(entries: list[StepEntry]) -> None:
    rates = rates_of(entries, sampled_per_s=200.0, trained_per_s=83.0)
    assert (rates.sampled_per_s, rates.trained_per_s) == (200.0, 83.0)
    unknown = rates_of(entries)
    assert (unknown.sampled_per_s, unknown.trained_per_s) == (None, None)
    if not entries:
        assert unknown.start_s == START_S


def step_of(stage: str, config: object) -> StudyStep:
    return StudyStep(stage, stage, (), Path("out"), config)  # type: ignore[arg-type]


def test_a_pool_is_at_most_so_many_tokens_and_a_share_of_the_prompts_takes_its_share(
    tmp_path: Path,
) -> None:
    prompts = str(write_prompts(tmp_path / "prompts.jsonl", 10))
    rates = Rates(3.0, 50.0, None, {})
    config = GenerateConfig(prompts=prompts, output=Path("out"), model="m", n=4, max_tokens=25)
    assert estimated_seconds(step_of("generate", config), rates) == 3.0 + 10 * 4 * 25 / 50
    shares = [replace(config, prompt_share=f"{i}/3") for i in (1, 2, 3)]
    seconds = [estimated_seconds(step_of("generate", share), rates) for share in shares]
    assert sum(each - 3.0 for each in seconds if each) == pytest.approx(10 * 4 * 25 / 50)


def test_a_training_before_its_groups_is_at_most_so_many_tokens(tmp_path: Path) -> None:
    """--train-tokens-per-s is for the time before the pool; 3 steps of 2 groups of k + 1 responses of 25 tokens."""
    pool = GenerateConfig(prompts="p", output=Path("out"), model="m", n=4, max_tokens=25)
    of_arms = {"k": ("bottom-k", 2, 3), "pair": ("best-worst", 7, 2), "all": ("all", 7, 4)}
    more = {"k of more than there are": ("bottom-k", 7, 4)}
    for arm, (strategy, k, n_kept) in (of_arms | more).items():
        config = SelectConfig(
            candidates=Path("c"), scores=Path("s"), output=Path("g"), strategy=strategy, k=k
        )
        selection = replace(step_of("select", config), arm=arm)
        most = most_tokens_of_groups(pool, [selection])
        assert most == {arm: n_kept * 25}
        train = TrainConfig(
            groups=tmp_path / "no", output=Path("p"), model="m", max_steps=3, global_batch_size=2
        )
        seconds = estimated_seconds(
            step_of("train", train), Rates(3.0, None, 50.0, {}), most_of_group=most[arm]
        )
        assert seconds == 3.0 + 3 * 2 * n_kept * 25 / 50


def test_what_nothing_says_is_unknown_or_what_others_of_its_stage_took(tmp_path: Path) -> None:
    embed = step_of("embed", EmbedConfig(candidates=Path("c"), output=Path("e"), model="m"))
    assert estimated_seconds(embed, Rates(3.0, 50.0, 50.0, {})) is None
    assert estimated_seconds(embed, Rates(3.0, 50.0, 50.0, {"embed": 4.5})) == 4.5
    # its groups are not there yet
    train = TrainConfig(groups=tmp_path / "no", output=Path("p"), model="m", max_steps=3)
    assert estimated_seconds(step_of("train", train), Rates(3.0, 50.0, 50.0, {})) is None
    assert estimated_seconds(step_of("train", train), Rates(3.0, 50.0, 50.0, {"train": 9.0})) == 9.0

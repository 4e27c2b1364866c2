"""How long steps will take: by rates that are given, else by what finished steps of the study took."""

from pathlib import Path

import pytest
from support.pipelines import write_prompts

from prefpipe.artifacts.step_ledger import StepEntry
from prefpipe.configs.study_steps import StepDraft
from prefpipe.stages.study.step_seconds import START_S, estimated_seconds, rates_of


def entry(stage: str, seconds: float, n_tokens: int | None = None, code: int = 0) -> StepEntry:
    return StepEntry(
        key=stage,
        name=stage,
        stage=stage,
        exit_code=code,
        seconds=seconds,
        ended_at="2026-11-30T10:00:00+00:00",
        host="here",
        n_tokens=n_tokens,
    )


ENTRIES = [
    entry("select", 4.0),
    entry("generate", 24.0, 100),
    entry("eval", 14.0, 200),
    entry("train", 54.0, 1000),
    entry("train", 1.0, 10, code=-9),
]
"""Four seconds to start; 300 tokens sampled in 30 seconds, and 1,000 trained on in 50."""


def test_rates_are_those_of_finished_steps_and_what_is_given_counts_before_them() -> None:
    found = rates_of(ENTRIES)
    assert (found.start_s, found.sampled_per_s, found.trained_per_s) == (4.0, 10.0, 20.0)
    assert found.of_stages["train"] == 54.0
    given = rates_of(ENTRIES, sampled_per_s=3.0, trained_per_s=5.0)
    assert (given.sampled_per_s, given.trained_per_s) == (3.0, 5.0)
    nothing = rates_of([])
    assert (nothing.start_s, nothing.sampled_per_s, nothing.trained_per_s) == (START_S, None, None)


def test_a_step_takes_its_tokens_at_the_rate_or_what_others_of_its_stage_took(
    tmp_path: Path,
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 6)
    values = {"prompts": str(prompts), "output": str(tmp_path / "c"), "model": "m", "n": 5}
    sampled = StepDraft("pool, generate", "generate", {**values, "max_tokens": 4}).step()
    assert estimated_seconds(sampled, rates_of(ENTRIES)) == pytest.approx(4.0 + 6 * 5 * 4 / 10)
    assert estimated_seconds(sampled, rates_of([])) is None

    # groups that are not there say nothing of tokens
    training = {"groups": str(tmp_path / "groups"), "output": str(tmp_path / "p"), "model": "m"}
    trained = StepDraft("a, train", "train", {**training, "max_steps": 2}).step()
    assert estimated_seconds(trained, rates_of(ENTRIES)) == 54.0

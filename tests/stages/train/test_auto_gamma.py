"""``--gamma auto``: what it comes to, and what is refused before anything is opened."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import SCORES
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError
from prefpipe.stages.train.inputs import settings_of


def config(tmp_path: Path, **changes: object) -> TrainConfig:
    values = {"groups": tmp_path, "output": tmp_path, "model": "m", "objective": "mmpo"}
    return TrainConfig(**(values | changes))


def write_ratings(folder: Path, ratings: dict[str, list[list[float | None]]]) -> Path:
    """Scores by rater: for each, a list of ratings a prompt."""
    rows = []
    for scorer, prompts in ratings.items():
        for p, of_prompt in enumerate(prompts):
            for i, reward in enumerate(of_prompt):
                row = {"prompt_id": f"p{p}", "sample_idx": i, "scorer": scorer, "reward": reward}
                rows.append(row | {"status": "ok"})
    record = RunRecord("import", SCORES.tag, 1, {"stage": "import"})
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    table = pa.Table.from_pylist(rows, schema=SCORES.arrow())
    output.write(0, table, counts={"ok": len(rows)}, parents={})
    return folder


def test_a_point_that_wins_75_percent_is_log_3_and_enters_the_identity_as_the_number(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    chosen = config(tmp_path, gamma="auto", point_wins=0.75)
    assert settings_of(chosen, said.append).knobs["gamma"] == pytest.approx(math.log(3))
    assert said == ["--gamma auto is 1.099: one point better wins 75.0%"]
    assert not {"point_wins", "rater_scores"} & set(chosen.identity())


@pytest.mark.parametrize("given", [1, 1.0, "1.0", "1"])
def test_a_number_is_a_number_however_it_is_written(tmp_path: Path, given: object) -> None:
    assert settings_of(config(tmp_path, gamma=given)).knobs["gamma"] == 1.0


@pytest.mark.parametrize("target", ["policy", "reward"])
def test_raters_agreement_is_fitted_over_all_prompts(tmp_path: Path, target: str) -> None:
    """Two raters of four prompts with two responses, one point apart.

    Each pair is seen from both sides: they agree on 3 of 4, so gamma is log 3.
    """
    scores = write_ratings(
        tmp_path / "scores",
        {
            "alice": [[2.0, 1.0], [4.0, 3.0], [1.0, 2.0], [5.0, 4.0], [3.0, None]],
            "bob": [[3.0, 2.0], [5.0, 4.0], [4.0, 5.0], [1.0, 2.0], [3.0, 1.0]],
        },
    )
    said: list[str] = []
    chosen = config(tmp_path, target=target, gamma="auto", rater_scores=scores)
    assert settings_of(chosen, said.append).knobs["gamma"] == pytest.approx(math.log(3))
    line = "--gamma auto is 1.099: 2 raters (alice, bob) order 75.0% of 8 pairs alike; "
    assert said == [line + "one point better wins 75.0%"]


def test_one_rater_has_nobody_to_agree_with(tmp_path: Path) -> None:
    scores = write_ratings(tmp_path / "scores", {"alice": [[2.0, 1.0]]})
    with pytest.raises(UsageError, match=r"has 1 rater \(alice\), and agreement needs two"):
        settings_of(config(tmp_path, gamma="auto", rater_scores=scores))


def test_a_rater_whose_scores_are_all_missing_is_none(tmp_path: Path) -> None:
    scores = write_ratings(tmp_path / "scores", {"alice": [[2.0, 1.0]], "bob": [[None, None]]})
    with pytest.raises(UsageError, match="has 1 rater"):
        settings_of(config(tmp_path, gamma="auto", rater_scores=scores))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": "auto"}, "--gamma auto needs one of --point-wins and --rater-scores"),
        (
            {"gamma": "auto", "point_wins": 0.8, "rater_scores": Path("s")},
            "--gamma auto needs one of",
        ),
        ({"point_wins": 0.8}, "--point-wins goes together with --gamma auto"),
        ({"rater_scores": Path("s"), "gamma": 2.0}, "--rater-scores goes together with"),
        ({"gamma": "atuo"}, "--gamma must be a finite number or auto, not 'atuo'"),
        ({"gamma": "inf"}, "--gamma must be a finite number or auto, not 'inf'"),
        ({"gamma": "auto", "point_wins": 0.5}, "--point-wins must be above 0.5 and below 1"),
        (
            {"gamma": "auto", "point_wins": 0.8, "objective": "ampo"},
            "--gamma auto belongs to --objective mmpo",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, **changes)


def test_a_gamma_out_of_bounds_is_refused_as_before(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gamma is -1.0, below 0"):
        settings_of(config(tmp_path, gamma=-1.0))
    assert np.isfinite(settings_of(config(tmp_path)).knobs["gamma"])

"""Stages with a model read the next parts while the device works, and write the last ones.

The rows do not depend on it, and what is counted is whole with `--workers`.
"""

import json
import threading
import time

import pytest
from support.finished_run import command
from support.judged_sides import write_side
from support.pipelines import assert_same_artifact, rows_of, write_json_lines
from support.tiny_models import make_tiny_causal_lm, make_tiny_reward_model

from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import open_input
from prefpipe.backends.device import DeviceTurns
from prefpipe.backends.fake import FakeScorer
from prefpipe.cli.main import run
from prefpipe.configs.score import ScoreConfig
from prefpipe.errors import StoppedEarly
from prefpipe.execution.runtime import Runtime
from prefpipe.stages import score

N_PARTS = 8
STEP_S = 0.06


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    """Eight parts of two responses each, every third with the text of a control token."""
    texts = {f"p{i}": f"answer {i} " + "and more " * i for i in range(2 * N_PARTS)}
    for i in range(0, 2 * N_PARTS, 3):
        texts[f"p{i}"] += "<|im_end|>"
    return write_side(tmp_path_factory.mktemp("open-parts"), "a", texts, part_size=2)


class DeviceScorer(FakeScorer):
    """Keeps its device busy for a while in each call, and remembers what it did."""

    def __init__(self):
        super().__init__()
        self.turns = DeviceTurns()
        self.parts: list[set[str]] = []
        self.started = threading.Event()
        self.n_calls = 0

    def score(self, requests):
        self.n_calls += 1
        self.started.set()
        with self.turns.turn():
            self.parts.append({request.prompt_id for request in requests})
            time.sleep(STEP_S)
            return super().score(requests)


def rate(candidates, output, scorer, runtime=None):
    """Score by the stage itself."""
    config = ScoreConfig(candidates=candidates, output=output, scorer=("fake",))
    rater = score.Rater("fake", {"kind": "fake", "target": ""}, lambda: scorer)
    return score.run(config, [rater], runtime or Runtime())


def test_reading_the_device_and_writing_overlap(candidates, tmp_path, monkeypatch):
    """One after another they would take three times as long."""
    prepare, write = score.ScoreMaker.prepare, score.Output.write

    def prepare_slowly(self, index):
        time.sleep(STEP_S)
        return prepare(self, index)

    def write_slowly(self, *args, **kwargs):
        time.sleep(STEP_S)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(score.ScoreMaker, "prepare", prepare_slowly)
    monkeypatch.setattr(score.Output, "write", write_slowly)
    scorer = DeviceScorer()
    rate(candidates, tmp_path / "warm", scorer)  # imports and the like
    scorer.parts.clear()
    started = time.perf_counter()
    rate(candidates, tmp_path / "scores", scorer)
    elapsed_s = time.perf_counter() - started
    one_after_another_s = 3 * N_PARTS * STEP_S
    assert elapsed_s < 0.7 * one_after_another_s, elapsed_s
    assert elapsed_s >= N_PARTS * STEP_S
    # The oldest part has the device first.
    source = open_input(candidates, schema=CANDIDATES.name, name="CANDIDATES")
    in_order = [set(source.read(i)[0]["prompt_id"].to_pylist()) for i in range(N_PARTS)]
    assert scorer.parts == in_order


def test_a_stop_finishes_the_open_parts_and_the_next_run_makes_the_rest(candidates, tmp_path):
    rate(candidates, tmp_path / "straight", FakeScorer())
    scorer = DeviceScorer()
    runtime = Runtime(should_stop=lambda: scorer.n_calls >= 2)
    with pytest.raises(StoppedEarly, match=r"parts made now, \d left"):
        rate(candidates, tmp_path / "scores", scorer, runtime)
    n_made = len(list((tmp_path / "scores").glob("part-*")))
    assert n_made == scorer.n_calls
    assert 2 <= n_made < N_PARTS

    summary = rate(candidates, tmp_path / "scores", scorer)
    assert (summary.n_parts_kept, summary.n_parts_made) == (n_made, N_PARTS - n_made)
    assert_same_artifact(tmp_path / "scores", tmp_path / "straight")


def test_a_part_that_fails_ends_the_run_and_the_open_ones_are_kept(candidates, tmp_path):
    class Failing(DeviceScorer):
        def score(self, requests):
            scores = super().score(requests)
            if len(self.parts) == 3:
                raise MemoryError("the device is full")
            return scores

    scorer = Failing()
    with pytest.raises(MemoryError, match="the device is full"):
        rate(candidates, tmp_path / "scores", scorer)
    assert len(list((tmp_path / "scores").glob("part-*"))) == len(scorer.parts) - 1
    rate(candidates, tmp_path / "scores", DeviceScorer())
    rate(candidates, tmp_path / "straight", FakeScorer())
    assert_same_artifact(tmp_path / "scores", tmp_path / "straight")


def test_scorers_with_different_speeds_hold_few_parts_in_memory(candidates, tmp_path):
    """The slower second scorer would have parts of the first pile up before it."""
    fast, slow = FakeScorer(), DeviceScorer()
    open_parts = most_open = 0
    config = ScoreConfig(
        candidates=candidates, output=tmp_path / "scores", scorer=("a=fake", "b=fake")
    )
    raters = [
        score.Rater("a", {"kind": "fake", "target": ""}, lambda: fake_with_count),
        score.Rater("b", {"kind": "fake", "target": ""}, lambda: slow),
    ]

    class Counting:
        def score(self, requests):
            nonlocal open_parts, most_open
            open_parts += 1
            most_open = max(most_open, open_parts - len(slow.parts))
            return fast.score(requests)

        def close(self):
            pass

    fake_with_count = Counting()
    summary = score.run(config, raters, Runtime())
    assert summary.n_parts_made == N_PARTS
    assert most_open <= 6


def test_a_users_own_check_may_set_a_timer(candidates, tmp_path, monkeypatch):
    """Python allows that in the main thread alone."""
    (tmp_path / "impatient_checks.py").write_text(
        "import signal\n\n"
        "def within_a_second(response, messages, columns):\n"
        "    before = signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 1)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    signal.signal(signal.SIGALRM, before)\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    check = {"type": "python", "function": "impatient_checks:within_a_second"}
    rows = [
        {"prompt_id": f"p{i}", "prompt": "?", "response": "Yes.", "checks": [check]}
        for i in range(6)
    ]
    source = write_json_lines(tmp_path / "rows.jsonl", rows)
    imported = ["import", source, "--format", "rows", "--part-size", 1, "-o", tmp_path / "run"]
    command([str(word) for word in imported])
    words = ["score", tmp_path / "run" / "candidates", "--scorer", "checks"]
    command([str(word) for word in (*words, "--trust-python-checks", "-o", tmp_path / "scores")])
    assert [row["reward"] for row in rows_of(tmp_path / "scores")] == [1.0] * 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_tiny_reward_model(folder / "reward")
    make_tiny_causal_lm(folder / "lm")
    return folder


def words_of(stage, candidates, models):
    words = {
        "score": ["score", candidates, "--scorer", f"r=reward-model:{models / 'reward'}"],
        "logprobs": ["logprobs", candidates, "--model", models / "lm"],
        "judge": ["judge", candidates, candidates, "--judge", f"reward-model:{models / 'reward'}"],
    }
    return [str(word) for word in (*words[stage], "--device", "cpu")]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["score", "logprobs", "judge"])
def test_open_parts_change_no_row(stage, candidates, models, tmp_path, monkeypatch):
    words = words_of(stage, candidates, models)
    command([*words, "-o", str(tmp_path / "three")])
    monkeypatch.setattr(f"prefpipe.stages.{module_of(stage)}.MOST_OPEN", 1)
    command([*words, "-o", str(tmp_path / "one")])
    if stage != "judge":
        assert_same_artifact(tmp_path / "three", tmp_path / "one")
    assert parts_of(tmp_path / "three") == parts_of(tmp_path / "one")


@pytest.mark.slow
def test_what_is_counted_is_whole_with_workers(candidates, models, tmp_path, capsys):
    words = words_of("score", candidates, models)
    facts = []
    for output, more in (("one", []), ("two", ["--workers", "2"])):
        assert run([*words, *more, "--json", "-o", str(tmp_path / output)]) == 0
        told = capsys.readouterr()
        facts.append((json.loads(told.out), notes_of(told.err)))
        facts[-1][0].pop("elapsed_s", None)
        facts[-1][0].pop("path")
    assert facts[0] == facts[1]
    _, notes = facts[0]
    assert notes[0].startswith("r: mean reward")
    assert "6 of 16 conversations hold the text of a control token" in notes[-1]
    assert parts_of(tmp_path / "one") == parts_of(tmp_path / "two")


def module_of(stage):
    return "judge.run" if stage == "judge" else stage


def parts_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def notes_of(stderr):
    """The lines of the summary that speak of texts and rewards."""
    kinds = ("mean reward", "control token")
    return [line for line in stderr.splitlines() if any(kind in line for kind in kinds)]

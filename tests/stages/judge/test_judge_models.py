"""judge with models that run here: a reward model, a language model in this process, a real one behind a server."""

import json
from math import exp

import pytest
from support.judge_server import running_judge
from support.judged_sides import judge_command, two_sides, verdicts_of, write_side
from support.pipelines import rows_of
from support.tiny_models import make_tiny_causal_lm, make_tiny_reward_model

from prefpipe.cli.main import run
from prefpipe.models.location import locate_model


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def by_model(a, b, output, judge, *more):
    return run(
        [
            "judge",
            str(a),
            str(b),
            "-o",
            str(output),
            "--judge",
            judge,
            "--device",
            "cpu",
            *map(str, more),
        ]
    )


@pytest.mark.slow
def test_a_reward_model_prefers_by_the_difference_of_its_scores(tmp_path):
    """Sigmoid of, or the sign of, the difference between the rewards that `score` gives the same responses."""
    a, b = two_sides(tmp_path)
    model = make_tiny_reward_model(tmp_path / "rm")
    rewards = {}
    for name, side in (("a", a), ("b", b)):
        assert (
            run(
                [
                    "score",
                    str(side),
                    "-o",
                    str(tmp_path / f"{name}-scores"),
                    "--scorer",
                    f"reward-model:{model}",
                ]
            )
            == 0
        )
        rewards[name] = {
            row["prompt_id"]: row["reward"] for row in rows_of(tmp_path / f"{name}-scores")
        }
    gaps = {key: rewards["a"][key] - rewards["b"][key] for key in rewards["a"]}
    assert by_model(a, b, tmp_path / "soft", f"reward-model:{model}") == 0
    rows = verdicts_of(tmp_path / "soft")
    for key, gap in gaps.items():
        assert rows[key]["preference"] == pytest.approx(1 / (1 + exp(-gap)), rel=1e-5)
        assert rows[key]["a_first_verdict"] == ("a" if gap > 0 else "b")
        assert (rows[key]["b_first_status"], rows[key]["disagree"]) == (None, None)
        assert json.loads(rows[key]["a_first_raw"])["first"] == pytest.approx(
            rewards["a"][key], rel=1e-5
        )
    widest = max(abs(gap) for gap in gaps.values())
    assert (
        by_model(
            a,
            b,
            tmp_path / "hard",
            f"reward-model:{model}",
            "--verdict",
            "hard",
            "--tie-tolerance",
            widest * 0.99,
        )
        == 0
    )
    hard = {key: row["preference"] for key, row in verdicts_of(tmp_path / "hard").items()}
    assert hard == {
        key: 0.5 if abs(gap) <= widest * 0.99 else float(gap > 0) for key, gap in gaps.items()
    }
    assert 0.5 in hard.values()
    assert {0.0, 1.0} & set(hard.values())


@pytest.mark.slow
def test_a_response_that_the_reward_model_cannot_read_is_a_row(tmp_path):
    a = write_side(tmp_path, "a", {"p0": "short", "p1": "long " * 200})
    b = write_side(tmp_path, "b", {"p0": "other", "p1": "other"})
    model = make_tiny_reward_model(tmp_path / "rm")
    assert by_model(a, b, tmp_path / "out", f"reward-model:{model}") == 3
    row = verdicts_of(tmp_path / "out")["p1"]
    assert (row["preference"], row["status"]) == (None, "too_long")
    assert "the first response" in row["reason"]


@pytest.mark.slow
def test_a_language_model_in_this_process_judges_and_its_answers_are_kept(tmp_path):
    """A tiny random model says nothing clear: rows with its words; prompts beyond its context are told as such."""
    a, b = two_sides(tmp_path, n=2)
    model = make_tiny_causal_lm(tmp_path / "lm")
    short = tmp_path / "short.txt"
    short.write_text("{conversation} {first} {second} A, B or C?")
    more = ["--judge-prompt", short, "--judge-max-tokens", 6]
    assert by_model(a, b, tmp_path / "out", f"transformers:{model}", *more) == 3
    rows = rows_of(tmp_path / "out")
    assert {row["status"] for row in rows} == {"parse_error"}
    assert all(row["a_first_raw"] for row in rows)
    assert all(row["a_first_completion_tokens"] in range(1, 7) for row in rows)
    assert len(list((tmp_path / "out" / "answers").rglob("*.json"))) == 4
    assert by_model(a, b, tmp_path / "long", f"transformers:{model}") == 3
    assert {row["status"] for row in rows_of(tmp_path / "long")} == {"prompt_too_long"}


@pytest.mark.parametrize(
    ("judge", "verdict"),
    [
        ("reward-model:x", "text"),
        ("openai:x", "hard"),
        ("transformers:x", "logprobs"),
        ("fake", "logprobs"),
        ("nobody:x", None),
        ("openai:", None),
    ],
)
def test_verdicts_that_a_judge_cannot_give_are_refused(tmp_path, judge, verdict):
    more = ["--verdict", verdict] if verdict else []
    assert run(["judge", "a", "b", "-o", str(tmp_path / "out"), "--judge", judge, *more]) == 2


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.usefixtures("no_key")
def test_a_real_model_behind_a_server_gives_graded_preferences(tmp_path):
    """SmolLM2-135M: weak, but its probabilities are real. One order turned round is the same question to the judge."""
    from support.served_model import ServedModel

    a = write_side(tmp_path, "a", {"p0": "Paris is the capital of France.", "p1": "4"})
    b = write_side(tmp_path, "b", {"p0": "I do not know.", "p1": "The answer is 5, I think."})
    prompt = tmp_path / "short.txt"
    prompt.write_text(
        "Which response is better? Answer with the letter A or B only.\n\n{conversation}\n\n{first}\n\n{second}\n\n"
        "The better response is: A or B?"
    )
    model = ServedModel(locate_model("bundled:smollm2-135m").path, max_new_tokens=1)
    with running_judge(answer=model) as server:
        ask = [
            "--verdict",
            "logprobs",
            "--timeout-s",
            "600",
            "--judge-prompt",
            prompt,
            "--judge-max-tokens",
            1,
        ]
        assert (
            run(
                judge_command(
                    a, b, tmp_path / "ab", server.url, *ask, "--cache", tmp_path / "cache"
                )
            )
            == 0
        )
        assert (
            run(
                judge_command(
                    b, a, tmp_path / "ba", server.url, *ask, "--cache", tmp_path / "cache"
                )
            )
            == 0
        )
        assert len(server.bodies) == 4
    forth, back = verdicts_of(tmp_path / "ab"), verdicts_of(tmp_path / "ba")
    for key in ("p0", "p1"):
        assert 0 < forth[key]["preference"] < 1
        assert forth[key]["preference"] == pytest.approx(1 - back[key]["preference"])
        assert forth[key]["a_first_mass"] > 0.1

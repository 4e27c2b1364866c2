"""The checks scorer answers every request and tells mistakes in the prompts before the run."""

import json

import pytest

from prefpipe.backends.protocol import ScoreRequest
from prefpipe.backends.scorers.checks_scorer import ChecksScorer
from prefpipe.errors import InputError
from prefpipe.text.checks.column import CHECKS_VERSION

SHORT = [{"type": "words", "min": 1, "max": 2, "weight": 3}, {"type": "no_commas"}]


def request(response, checks, prompt_id="p", **columns):
    return ScoreRequest(
        prompt_id,
        0,
        [{"role": "user", "content": "Say hi"}],
        response,
        {"checks": checks, **columns},
    )


def test_the_reward_is_the_weighted_mean_and_the_detail_lists_each_check():
    (score,) = ChecksScorer().score([request("a, b c", SHORT)])
    assert (score.reward, score.status, score.reason) == (
        pytest.approx((3 * 0.5 + 0) / 4),
        "ok",
        None,
    )
    assert json.loads(score.detail) == [
        {"type": "words", "score": 0.5, "weight": 3.0, "reason": "found 3, wanted 1 to 2"},
        {"type": "no_commas", "score": 0.0, "weight": 1.0, "reason": "1 commas"},
    ]


@pytest.mark.parametrize("columns", [{}, {"checks": None}, {"checks": "[]"}, {"checks": ""}])
def test_a_prompt_without_checks_is_not_rated(columns):
    (score,) = ChecksScorer().score([ScoreRequest("p", 0, [], "text", columns)])
    assert (score.reward, score.status) == (None, "no_checks")
    assert "no column 'checks'" in score.reason


def test_an_empty_response_is_rated():
    (score,) = ChecksScorer().score([request("", SHORT)])
    assert (score.reward, score.status) == (1 / 4, "ok")


def test_order_is_kept_and_bad_rows_leave_their_neighbours_alone(tmp_path, monkeypatch):
    (tmp_path / "scorer_checks.py").write_text(
        "def strict(response, messages, columns):\n    return float(response)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = [{"type": "python", "function": "scorer_checks:strict"}]
    scores = ChecksScorer(trust_python_checks=True).score(
        [
            request("0.25", own, "a"),
            request("\ud800", own, "a"),
            request("x", [{"type": "wrds"}], "b"),
            request("hi", SHORT, "c"),
            request("x", None, "d"),
            request("0.5", own, "a"),
        ]
    )
    assert [score.status for score in scores] == [
        "ok",
        "check_error",
        "bad_checks",
        "ok",
        "no_checks",
        "ok",
    ]
    assert [score.reward for score in scores] == [0.25, None, None, 1.0, None, 0.5]
    assert "check function 'scorer_checks:strict' raised ValueError" in scores[1].reason
    assert (
        "prompt 'b': column 'checks': [0]: unknown type 'wrds' (did you mean 'words'?)"
        in scores[2].reason
    )
    for score in scores:
        f"{score.reason}{score.detail}".encode()


@pytest.mark.parametrize("response", ["\ud800", "\x00", "😀" * 10, "\u202eשלום", "x" * 100_000])
def test_the_detail_of_odd_responses_can_be_written(response):
    checks = [
        {"type": "starts_with", "text": "abc"},
        {"type": "exact_answer", "answer": "x"},
        {"type": "quoted"},
    ]
    (score,) = ChecksScorer().score([request(response, checks)])
    assert len(json.loads(score.detail.encode().decode())) == len(checks)


def test_validation_lists_the_problems_of_all_prompts_at_once():
    prompts = [
        ("a", {"checks": SHORT}),
        ("b", {"checks": [{"type": "wrds"}]}),
        ("c", {}),
        ("d", {"checks": "{"}),
    ]
    with pytest.raises(InputError) as caught:
        ChecksScorer().validate(prompts)
    first, second = caught.value.message.splitlines()
    assert first.startswith("prompt 'b': column 'checks': [0]: unknown type 'wrds'")
    assert second.startswith("prompt 'd': column 'checks': not JSON")


def test_validation_of_many_problems_lists_twenty_and_counts_the_rest():
    with pytest.raises(InputError) as caught:
        ChecksScorer().validate((f"p{i}", {"checks": 3}) for i in range(25))
    lines = caught.value.message.splitlines()
    assert (len(lines), lines[-1]) == (21, "and 5 more prompts")


def test_validation_counts_the_prompts_with_checks():
    assert (
        ChecksScorer().validate(
            [("a", {"checks": SHORT}), ("b", {}), ("c", {"checks": json.dumps(SHORT)})]
        )
        == 2
    )


def test_code_from_the_prompts_file_needs_leave():
    (score,) = ChecksScorer().score([request("x", [{"type": "python", "function": "os:system"}])])
    assert score.status == "bad_checks"
    assert "--trust-python-checks" in score.reason


def test_nothing_to_score_is_no_scores_and_the_version_is_identity():
    scorer = ChecksScorer()
    assert scorer.score([]) == []
    assert scorer.identity() == {"checks_version": CHECKS_VERSION}
    scorer.close()

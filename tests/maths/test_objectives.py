"""The table: knobs only where they apply, scores by their kind, nothing undocumented."""

from pathlib import Path

import pytest
import torch

from prefpipe.errors import UsageError
from prefpipe.maths.logps import ResponseLogps
from prefpipe.maths.objectives import OBJECTIVES, find_objective, resolve_knobs, score_responses

DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"
MASK = torch.tensor([[True, True, False]])
POLICY = ResponseLogps(torch.tensor([[-6.0, -20.0, 0.0]]), torch.tensor([[3, 10, 0]]))
REFERENCE = torch.tensor([[-5.0, -22.0, 0.0]])


def test_the_six_objectives_are_there():
    assert set(OBJECTIVES) == {"ampo", "mmpo", "dpo", "simpo", "swepo", "infonca"}


def test_a_reference_is_needed_exactly_for_log_ratios():
    assert {name for name, objective in OBJECTIVES.items() if not objective.needs_reference} == {"ampo", "simpo"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_legal_values_of_their_knobs(name):
    assert resolve_knobs(name, {}) == {knob.name: knob.default for knob in OBJECTIVES[name].knobs}
    assert resolve_knobs(name, {knob.name: knob.default for knob in OBJECTIVES[name].knobs})


def test_a_knob_that_the_objective_lacks_is_an_error_that_names_its_owners():
    with pytest.raises(UsageError, match="dpo has no knob gamma: it belongs to ampo, mmpo, simpo") as caught:
        resolve_knobs("dpo", {"gamma": 0.5})
    assert caught.value.hint == "the knobs of dpo are beta"
    assert caught.value.exit_code == 2


def test_a_knob_not_given_is_no_error():
    assert resolve_knobs("dpo", {"gamma": None, "beta": 0.2}) == {"beta": 0.2}


def test_all_problems_are_reported_at_once():
    with pytest.raises(UsageError, match=r"beta is 0, not above 0; .* no knob comparison.*; deviation is 'both', not one"):
        resolve_knobs("ampo", {"beta": 0, "comparison": "pair", "deviation": "both"})


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("ampo", {"gamma": 0.0}, "gamma is 0.0, not above 0"),
        ("ampo", {"alpha": -1.0}, "alpha is -1.0, below 0"),
        ("mmpo", {"gamma": float("nan")}, "gamma is nan, not a finite number"),
        ("mmpo", {"comparison": "list"}, "comparison is 'list', not one of pair, group"),
        ("simpo", {"beta": "2"}, "beta is '2', not a finite number"),
        ("ampo", {"length_normalise": 1}, "length_normalise is 1, not true or false"),
        ("dpo", {"tau": 1.0}, "dpo has no knob tau: no objective has it"),
    ],
)
def test_values_out_of_range_are_named(name, knobs, message):
    with pytest.raises(UsageError, match=message):
        resolve_knobs(name, knobs)


def test_an_unknown_objective_lists_those_that_exist():
    with pytest.raises(UsageError, match="unknown objective 'kto'") as caught:
        find_objective("kto")
    assert "ampo, mmpo, dpo" in caught.value.hint


def test_log_ratio_scores_are_beta_times_policy_minus_reference():
    scores = score_responses("dpo", POLICY, REFERENCE, MASK, {"beta": 0.5})
    assert scores.tolist() == [[0.5 * (-6 + 5), 0.5 * (-20 + 22), 0]]


def test_mean_scores_are_beta_times_the_mean_a_token():
    scores = score_responses("simpo", POLICY, None, MASK, {"beta": 2.0, "gamma": 0.0})
    assert scores.tolist() == [[2 * -6 / 3, 2 * -20 / 10, 0]]


def test_ampo_can_sum_instead_of_averaging():
    knobs = resolve_knobs("ampo", {"length_normalise": False, "beta": 1.0})
    assert score_responses("ampo", POLICY, None, MASK, knobs).tolist() == [[-6, -20, 0]]


def test_a_missing_reference_is_an_error():
    with pytest.raises(UsageError, match="objective mmpo compares the policy with a reference"):
        score_responses("mmpo", POLICY, None, MASK, resolve_knobs("mmpo", {}))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_and_knob_is_documented(name):
    text = DOCS.read_text(encoding="utf-8")
    section = text.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]
    for knob in OBJECTIVES[name].knobs:
        default = str(knob.default).lower() if isinstance(knob.default, bool) else f"{knob.default}"
        assert f"| `{knob.name}` | {default} |" in section
    for identifier in OBJECTIVES[name].source.removeprefix("arXiv ").split(", "):
        assert identifier in section

"""The table: knobs only where they apply, nothing undocumented, readable without PyTorch."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.losses import LOSSES
from prefpipe.maths.objectives.registry import (
    ALL_OBJECTIVES,
    KNOB_NAMES,
    OBJECTIVES,
    REWARD_OBJECTIVES,
    SCORE_KNOBS,
    TARGETS,
    find_objective,
    objective_of,
    resolve_knobs,
)

DOCS = Path(__file__).parents[3] / "docs" / "explanation" / "objectives.md"


def test_the_table_has_the_objectives_and_a_loss_for_each():
    assert set(OBJECTIVES) == {
        "ampo",
        "refa",
        "swepo",
        "infonca",
        "nca",
        "plackett-luce",
        "ddo",
        "mmpo",
        "odpo",
        "rpo",
        "dpo",
        "cdpo",
        "rdpo",
        "ipo",
        "hinge",
        "simpo",
        "orpo",
        "sft",
    }
    assert set(REWARD_OBJECTIVES) == {"bt", "bt-margin", "mmpo-reward"}
    assert {**OBJECTIVES, **REWARD_OBJECTIVES} == ALL_OBJECTIVES
    assert set(LOSSES) == set(ALL_OBJECTIVES)


def test_a_reference_is_needed_exactly_for_log_ratios():
    assert {name for name, objective in OBJECTIVES.items() if not objective.needs_reference} == {
        "ampo",
        "refa",
        "ddo",
        "simpo",
        "orpo",
        "sft",
    }
    assert not any(objective.needs_reference for objective in REWARD_OBJECTIVES.values())


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_a_row_says_what_the_algebra_asks(name):
    row = ALL_OBJECTIVES[name]
    assert row.score in {"log_ratio", "mean_logp", "reward_head"}
    assert row.comparison in {"group", "pair", "none"}
    assert row.reads_roles or row.reads_rewards
    assert all((row.target, row.formula, row.source, row.summary))


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_each_objective_is_one_documented_function_that_takes_its_knobs_and_no_others(name):
    row, function = ALL_OBJECTIVES[name], LOSSES[name]
    assert function.__name__ == name.replace("-", "_") + "_loss"
    own = [knob.name for knob in row.knobs if knob.name not in SCORE_KNOBS]
    positional = ["scores", "targets", *(["responses"] if row.reads_ends else [])]
    assert sorted(inspect.signature(function).parameters) == sorted([*positional, *own])
    text = inspect.getdoc(function)
    assert "Args:" in text
    assert "Source:" in text
    for identifier in re.findall(r"\d{4}\.\d{5}", row.source):
        assert identifier in text
    for knob in own:
        assert f"{knob}:" in text, f"{name} does not describe its knob {knob}"


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_defaults_are_legal_values_of_their_knobs(name):
    defaults = {knob.name: knob.default for knob in ALL_OBJECTIVES[name].knobs}
    assert resolve_knobs(name, {}) == resolve_knobs(name, defaults) == defaults


def test_defaults_of_the_first_six_objectives_are_what_they_were():
    """A changed default is a changed number for an unchanged configuration."""
    assert {
        name: resolve_knobs(name, {})
        for name in ("ampo", "mmpo", "dpo", "simpo", "swepo", "infonca")
    } == {
        "ampo": {
            "beta": 10.0,
            "gamma": 3.0,
            "alpha": 0.0,
            "deviation": "signed",
            "length_normalise": True,
        },
        "mmpo": {"beta": 0.01, "gamma": 1.1, "comparison": "pair"},
        "dpo": {"beta": 0.1},
        "simpo": {"beta": 2.5, "gamma": 1.375},
        "swepo": {"beta": 0.1, "alpha": 1.0, "deviation": "signed"},
        "infonca": {"beta": 0.1, "alpha": 1.0},
    }


def test_a_knob_that_the_objective_lacks_is_an_error_that_names_its_owners():
    with pytest.raises(
        UsageError, match=r"dpo has no knob gamma: it belongs to ampo, refa, mmpo, simpo$"
    ) as caught:
        resolve_knobs("dpo", {"gamma": 0.5})
    assert caught.value.hint == "the knobs of dpo are beta"
    assert caught.value.exit_code == 2


def test_the_owners_of_a_knob_are_those_that_train_the_same_thing():
    with pytest.raises(
        UsageError, match=r"bt has no knob gamma: it belongs to bt-margin, mmpo$"
    ) as caught:
        resolve_knobs("bt", {"gamma": 0.5})
    assert caught.value.hint == "bt has no knobs"


def test_a_knob_not_given_is_no_error():
    assert resolve_knobs("dpo", {"gamma": None, "beta": 0.2}) == {"beta": 0.2}


def test_all_problems_are_reported_at_once():
    with pytest.raises(
        UsageError,
        match=r"beta is 0, not above 0; .* no knob comparison.*; deviation is 'both', not one",
    ):
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
        ("dpo", {"lambda": 1.0}, "dpo has no knob lambda: no objective has it"),
        ("rdpo", {"eps": 0.5}, "eps is 0.5, not below 0.5"),
        ("cdpo", {"eps": -0.1}, "eps is -0.1, below 0"),
        ("ipo", {"tau": 0.0}, "tau is 0.0, not above 0"),
        ("ipo", {"beta": 0.1}, "ipo has no knob beta"),
        ("orpo", {"beta": 0.1}, "orpo has no knob beta"),
        ("rpo", {"form": "cubed"}, "form is 'cubed', not one of squared, forward-kl"),
        (
            "refa",
            {"length_normalise": False},
            "refa has no knob length_normalise: it belongs to ampo, ddo, ipo",
        ),
    ],
)
def test_values_out_of_range_are_named(name, knobs, message):
    with pytest.raises(UsageError, match=message):
        resolve_knobs(name, knobs)


@pytest.mark.parametrize(
    ("name", "knob", "words"),
    [
        ("rdpo", "eps", "at least 0 and below 0.5"),
        ("ipo", "length_normalise", "true or false"),
        ("rpo", "form", "squared or forward-kl"),
        ("dpo", "beta", "above 0"),
    ],
)
def test_a_knob_tells_its_range_in_words(name, knob, words):
    assert ALL_OBJECTIVES[name].knob(knob).range == words


def test_an_unknown_objective_lists_those_that_exist():
    with pytest.raises(UsageError, match="unknown objective 'kto'") as caught:
        find_objective("kto")
    assert "ampo, refa, swepo" in caught.value.hint


def test_every_knob_is_a_flag_of_train_and_no_flag_is_a_knob_that_nobody_has():
    offered = {item.name for item in fields(TrainConfig)}
    assert set(KNOB_NAMES) <= offered
    for name in KNOB_NAMES:
        (item,) = (item for item in fields(TrainConfig) if item.name == name)
        assert item.default is None, (
            "a default of the flag would be given to objectives without the knob"
        )
        owners = [
            objective.flag_name for objective in ALL_OBJECTIVES.values() if objective.knob(name)
        ]
        text = item.metadata["help"]
        assert (
            text.endswith("(all of a policy but ipo, orpo and sft)")
            if name == "beta"
            else all(owner in text for owner in owners)
        )


def test_the_table_is_read_without_pytorch():
    code = (
        "import sys, prefpipe.maths.objectives.registry; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_every_objective_and_knob_is_documented(name):
    text = DOCS.read_text(encoding="utf-8")
    section = text.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]
    for knob in ALL_OBJECTIVES[name].knobs:
        assert f"| `{knob.name}` | {knob.shown_default} |" in section
    for identifier in re.findall(r"\d{4}\.\d{5}", ALL_OBJECTIVES[name].source):
        assert identifier in section


def test_the_overview_of_the_docs_is_the_table():
    """One row an objective: score, what it compares, what it reads, whether it needs a
    reference."""
    text = DOCS.read_text(encoding="utf-8")
    for name, row in ALL_OBJECTIVES.items():
        reads = " and ".join(
            word
            for word, does in (("roles", row.reads_roles), ("rewards", row.reads_rewards))
            if does
        )
        reference = "yes" if row.needs_reference else "no"
        assert (
            f"| [{name}](#{name}) | {row.score} | {row.comparison} | {reads} | {reference} |"
            in text
        )


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_the_objectives_that_train_it_by_their_flag_names(target):
    for given, name in TARGETS[target].items():
        assert objective_of(target, given) == name
        assert ALL_OBJECTIVES[name].trains.split()[0] == target
    assert objective_of(target, None) == {"policy": "ampo", "reward": "bt"}[target]


def test_mmpo_is_another_objective_for_another_target():
    assert [objective_of(target, "mmpo") for target in ("policy", "reward")] == [
        "mmpo",
        "mmpo-reward",
    ]


def test_an_objective_of_the_other_target_is_refused_with_those_allowed():
    with pytest.raises(
        UsageError,
        match=r"--target reward has no objective simpo \(it belongs to --target policy\)",
    ) as caught:
        objective_of("reward", "simpo")
    assert caught.value.hint == "choose one of bt, bt-margin, mmpo"
    with pytest.raises(UsageError, match="unknown target 'critic'"):
        objective_of("critic", None)

"""A plan of rounds: what of it is refused and where, and the command lines that it comes to."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.cli.dataclass_commands import stage_command_of
from prefpipe.cli.overwrite_flag import spelled_out
from prefpipe.configs.options import is_list, resolved_types, scalar_type
from prefpipe.configs.plan_sections import SECTIONS
from prefpipe.configs.round_plan import (
    REFUSED,
    REFUSED_EVERYWHERE,
    RoundPlan,
    read_plan,
)
from prefpipe.configs.round_steps import Step, baseline_round, steps_of
from prefpipe.configs.rounds_record import read_rounds_record, write_rounds_record
from prefpipe.errors import InputError, UsageError

RUN = Path("run")
PLAN: dict[str, Any] = {
    "rounds": 3,
    "prompts": "prompts.jsonl",
    "model": "org/model",
    "prompt_use": "reuse",
    "generate": {"n": 4, "temperature": [0.7, 1.0]},
    "score": {"scorer": "checks"},
    "embed": {"model": "bundled:minilm"},
    "select": {"k": 2},
    "train": {"objective": "dpo", "learning_rate": "5e-6"},
    "eval": {"prompts": "heldout.jsonl", "scorer": "checks", "n": 2},
}


def plan_of(**changed: Any) -> RoundPlan:
    return RoundPlan.from_values(PLAN | changed, name="plan.yaml")


def made(plan: RoundPlan, **how: Any) -> list[Step]:
    return steps_of(plan, RUN, name="plan.yaml", **how)


def line(plan: RoundPlan, number: int, stage: str) -> str:
    """Return the command of a stage in a round."""
    [step] = [step for step in made(plan) if (step.number, step.stage) == (number, stage)]
    return " ".join(step.words)


def value(plan: RoundPlan, number: int, stage: str, flag: str) -> list[str]:
    """Return the values of a flag in a command, in order."""
    words = line(plan, number, stage).split()
    return [words[place + 1] for place, word in enumerate(words) if word == flag]


def test_a_round_samples_from_the_policy_of_the_last_one_and_trains_it_further() -> None:
    plan = plan_of()
    for stage in ("generate", "train"):
        assert [value(plan, number, stage, "--model") for number in (1, 2, 3)] == [
            ["org/model"],
            ["run/round-01/policy"],
            ["run/round-02/policy"],
        ]


def test_every_stage_reads_the_folders_of_its_own_round() -> None:
    assert line(plan_of(), 2, "select") == (
        "select run/round-02/candidates --scores run/round-02/scores --embeddings run/round-02/embeddings "
        "-o run/round-02/groups --k 2 --seed 1000"
    )


def test_without_embed_and_eval_a_round_has_four_steps() -> None:
    values = {key: value for key, value in PLAN.items() if key not in ("embed", "eval")}
    plan = RoundPlan.from_values(values | {"select": {"strategy": "bottom-k"}}, name="plan")
    assert [step.stage for step in made(plan)] == ["generate", "score", "select", "train"] * 3
    assert "--embeddings" not in line(plan, 1, "select")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("last", [None, None, None, None, None]),
        ("first", [None, "org/model", "org/model", "org/model", "org/model"]),
        ("every-1", [None, None, None, None, None]),
        ("every-2", [None, "org/model", None, "run/round-02/policy", None]),
        ("every-3", [None, "org/model", "org/model", None, "run/round-03/policy"]),
    ],
)
def test_the_reference_by_round(reference: str, expected: list[str | None]) -> None:
    """None: no flag, for the command's own default is what the training starts from."""
    plan = plan_of(rounds=5, reference=reference)
    for number, model in enumerate(expected, start=1):
        given = value(plan, number, "train", "--reference-model")
        assert given == ([] if model is None else [model])
        # the flag and the rule are one
        round_of_reference = plan.reference_round(number)
        start = number - 1
        assert (model is None) == (round_of_reference == start)


def test_seeds_differ_by_round_and_evaluations_share_theirs() -> None:
    plan = plan_of(seed=7)
    for stage in ("generate", "select", "train"):
        assert [value(plan, number, stage, "--seed") for number in (1, 2, 3)] == [
            ["7"],
            ["1007"],
            ["2007"],
        ]
    assert {value(plan, number, "eval", "--seed")[0] for number in (1, 2, 3)} == {"107"}


def test_prompts_are_split_by_round() -> None:
    plan = plan_of(prompt_use="split")
    shares = [value(plan, number, "generate", "--prompt-share") for number in (1, 2, 3)]
    assert shares == [["1/3"], ["2/3"], ["3/3"]]
    assert value(plan_of(), 2, "generate", "--prompt-share") == []
    assert value(plan_of(rounds=1, prompt_use="split"), 1, "generate", "--prompt-share") == []


def test_pools_of_earlier_rounds_join() -> None:
    plan = plan_of(pools="all")
    assert [value(plan, number, "select", "--earlier") for number in (1, 2, 3)] == [
        [],
        ["run/round-01"],
        ["run/round-01", "run/round-02"],
    ]
    assert value(plan_of(), 3, "select", "--earlier") == []


def test_the_baseline_is_the_model_once_and_then_what_it_sampled() -> None:
    plan = plan_of()
    assert value(plan, 1, "eval", "--baseline") == ["org/model"]
    for number in (2, 3):
        assert value(plan, number, "eval", "--baseline") == [
            "run/round-01/eval/baseline/candidates"
        ]
        assert value(plan, number, "eval", "--baseline-scores") == [
            "run/round-01/eval/baseline/scores"
        ]
        assert value(plan, number, "eval", "--kl-reference") == ["org/model"]


def test_an_evaluation_of_another_recipe_samples_the_baseline_anew() -> None:
    plan = plan_of(rounds=4, changes={3: {"eval": {"n": 4}}})
    assert [baseline_round(plan, number) for number in (1, 2, 3, 4)] == [1, 1, 3, 3]
    assert value(plan, 3, "eval", "--baseline") == ["org/model"]
    assert value(plan, 4, "eval", "--baseline") == ["run/round-03/eval/baseline/candidates"]


def test_without_kl_or_with_a_fake_no_reference_of_it_is_named() -> None:
    for knobs in ({"kl": False}, {"backend": "fake"}):
        plan = plan_of(eval=PLAN["eval"] | knobs)
        assert value(plan, 2, "eval", "--kl-reference") == []


def test_changes_hold_from_their_round_on_and_null_is_the_default() -> None:
    plan = plan_of(
        rounds=4,
        changes={
            2: {"train": {"learning-rate": 2e-6}, "generate": {"n": 8}},
            4: {"train": {"learning_rate": None}},
        },
    )
    rates = [value(plan, number, "train", "--learning-rate") for number in (1, 2, 3, 4)]
    assert rates == [["5e-6"], ["2e-06"], ["2e-06"], []]
    assert [value(plan, number, "generate", "--n") for number in (1, 2, 4)] == [["4"], ["8"], ["8"]]


def test_overwrite_is_handed_to_every_command() -> None:
    assert all(
        step.words[-1] == "--overwrite=stale" for step in made(plan_of(), overwrite=Overwrite.STALE)
    )
    assert not any("--overwrite" in " ".join(step.words) for step in made(plan_of()))


def test_the_values_come_back_as_they_were() -> None:
    """As ``rounds.json`` keeps them, whose keys are texts."""
    plan = plan_of(changes={2: {"train": {"seed": None}} | {"train": {"beta": 0.2}}})
    through_json = yaml.safe_load(yaml.safe_dump(plan.to_values()))
    assert RoundPlan.from_values(through_json, name="x") == plan
    assert "2" in plan.to_values()["changes"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a key of no stage": ({"modle": "x"}, "unknown key `modle` (did you mean `model`?)"),
    "a key of a stage": ({"temperature": 1}, "unknown key `temperature`; it is a key of `generate` and `eval`"),
    "a flag that is misspelt": (
        {"train": {"learning_rat": 1}},
        "train: unknown key `learning_rat` (did you mean `learning_rate`?)",
    ),
    "a flag of another stage": (
        {"train": {"k": 3}},
        "train: unknown key `k`; it is a key of `select`",
    ),
    "a flag spelt twice": (
        {"train": {"num-train-epochs": 1, "num_train_epochs": 2}},
        "train: a key stands there twice",
    ),
    "what the plan sets": (
        {"generate": {"model": "x"}},
        "generate: `model` does not stand in a section: the plan's own key `model`",
    ),
    "the folder": ({"score": {"scorer": "checks", "output": "x"}}, "score: `output` does not stand in a section"),
    "a share of the parts": (
        {"embed": {"model": "fake", "num-shards": 2}},
        "embed: `num_shards` does not stand in a section: a step makes all parts",
    ),
    "a seed in a section": ({"select": {"seed": 3}}, "select: `seed` does not stand in a section: the plan's `seed`"),
    "a reward model": ({"train": {"target": "reward"}}, "`target: reward` trains a reward model"),
    "an objective of a reward model": ({"train": {"objective": "bt"}}, "train: "),
    "a value that is out of bounds": ({"generate": {"top_p": 2}}, "generate: --top-p must be above 0 and at most 1, not 2.0"),
    "a value in a later round": (
        {"changes": {2: {"select": {"k": 0}}}},
        "round 2, select: --k must be 1 or more, not 0",
    ),
    "no scorer": ({"score": {}}, "score: `prefpipe score` needs --scorer"),
    "no section": ({"train": None}, "it needs `train`"),
    "a list for a section": ({"train": [1]}, "train must hold `key: value` lines, not [1]"),
    "no round": ({"rounds": 0}, "`rounds` must be a whole number, within 1 and 99, not 0"),
    "half a round": ({"rounds": 1.5}, "`rounds` must be a whole number"),
    "a true round": ({"rounds": True}, "`rounds` must be a whole number"),
    "a number for prompts": ({"prompts": 3}, "`prompts` must be a text, not 3"),
    "two models": ({"model": ["a", "b"]}, "`model` must be a text, not ['a', 'b']"),
    "another use": ({"prompt_use": "slit"}, "`prompt_use` must be split or reuse, not 'slit' (did you mean `split`?)"),
    "every 0 rounds": ({"reference": "every-0"}, "`reference` must be first, last or every-M, every-2 say, not 'every-0'"),
    "pools of other prompts": ({"pools": "all", "prompt_use": "split"}, "each round has prompts of its own"),
    "a change of round 1": ({"changes": {1: {"train": {}}}}, "changes, round 1: what round 1 runs with stands in the sections"),
    "a change after the end": ({"changes": {4: {"train": {}}}}, "changes, round 4: the plan has 3 rounds"),
    "a change of no round": ({"changes": {"last": {"train": {}}}}, "changes, round last: a round is a whole number"),
    "a change of no section": (
        {"changes": {2: {"trian": {}}}},
        "changes, round 2: unknown section `trian` (did you mean `train`?)",
    ),
    "a flag for a section": (
        {"changes": {2: {"learning_rate": 1}}},
        "changes, round 2: unknown section `learning_rate`; it is a key of `train`",
    ),
    "a misspelt change": (
        {"changes": {2: {"train": {"bet": 1}}}},
        "changes, round 2, train: unknown key `bet` (did you mean `beta`?)",
    ),
    "a server": ({"generate": {"backend": "openai"}}, "generate: `backend: openai` samples from the model that a server"),
    "a server to judge by": ({"eval": PLAN["eval"] | {"backend": "openai"}}, "eval: `backend: openai`"),
    "no seed": ({"seed": None}, "`seed` must be a whole number, 0 or more, not None"),
    "a seed that no training takes": ({"seed": 2**32}, "train: --seed must be within 0 and 4294967295"),
    "a key spelt twice": ({"prompt-use": "split", "prompt_use": "reuse"}, "a key stands there twice, with _ and with -"),
    "an empty list for a section": ({"generate": []}, "generate must hold `key: value` lines, not []"),
    "a text for changes": ({"changes": ""}, "`changes` must hold a round a line"),
    "a round twice": ({"changes": {2: {"train": {}}, "02": {"train": {}}}}, "changes, round 2: the round stands there twice"),
    "a zero byte": ({"model": "a\0b"}, "`model` is no text that a command can be given, 'a\\x00b'"),
    "half a character": ({"changes": {2: {"generate": {"stop": ["\ud800"]}}}}, "changes, round 2, generate: `stop` is no text"),
    "an adapter of another rank": (
        {"train": {"lora_r": 8}, "changes": {3: {"train": {"lora_r": 16}}}},
        "round 3, train: `lora_r` is 16 and was 8: the adapter of round 2 is trained further as it is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_plan_that_cannot_be_run_says_where_and_why(case: str) -> None:
    changed, expected = BAD[case]
    with pytest.raises(UsageError) as raised:
        made(plan_of(**changed))
    assert expected in raised.value.message
    assert raised.value.message.startswith("the plan plan.yaml cannot be run:\n  ")
    assert "docs/guides/rounds.md" in str(raised.value.hint)


def test_a_strategy_by_embeddings_names_the_section_that_makes_them() -> None:
    values = {key: value for key, value in PLAN.items() if key != "embed"}
    with pytest.raises(UsageError, match="select: --strategy opt-select needs the section `embed`"):
        made(RoundPlan.from_values(values, name="plan.yaml"))


def test_a_mistake_is_said_once_and_with_all_others() -> None:
    """A section that is wrong is wrong in each round; two mistakes are two lines."""
    with pytest.raises(UsageError) as raised:
        made(plan_of(train={"beta": "x"}, select={"k": 0}))
    lines = raised.value.message.splitlines()[1:]
    assert lines == [
        "  select: --k must be 1 or more, not 0",
        "  train: --beta takes a finite number, not 'x'",
    ]


def test_an_adapter_that_is_merged_or_begun_later_is_no_mistake() -> None:
    """Without --lora-r the command merges an adapter itself; with it on a whole model it begins one."""
    made(
        plan_of(
            train={"lora_r": 8}, changes={2: {"train": {"lora_r": 0}}, 3: {"train": {"lora_r": 4}}}
        )
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rounds: 2\nrounds: 3\n", "the key `rounds` occurs twice"),
        ("train: {beta: 1, beta: 2}\n", "the key `beta` occurs twice"),
        ("- 1\n", "must hold `key: value` lines, not a list"),
        ("", "must hold `key: value` lines, not nothing"),
        ("a: [", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: 2026-13-45", "is not YAML: month must be in 1..12"),
        (f"seed: {'9' * 5000}", "is not YAML"),
    ],
)
def test_a_file_that_is_no_plan(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected.replace("[", r"\[")):
        read_plan(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_plan(tmp_path / "plan.yaml")


def test_a_mapping_is_merged_and_gives_way_to_what_stands_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    text = yaml.safe_dump(PLAN | {"generate": {}, "eval": {}})
    text = text.replace("generate: {}", "generate: {<<: &sampling {n: 4, top_p: 0.9}, n: 8}")
    path.write_text(text.replace("eval: {}", "") + "\n")
    assert read_plan(path).sections["generate"] == {"n": 8, "top_p": 0.9}


def test_an_argument_that_begins_with_a_dash_is_no_flag() -> None:
    """Of ``prompts``, and of the folder of all rounds."""
    steps = steps_of(plan_of(prompts="-p.jsonl"), Path("-run"), name="plan.yaml")
    assert steps[0].words[1] == "./-p.jsonl"
    assert steps[1].words[1] == "./-run/round-01/candidates"
    for step in steps:
        assert not step.words[1].startswith("-") or step.stage == "eval"


def test_yaml_words_that_mean_something_else(tmp_path: Path) -> None:
    """``on`` is a flag and not true; a day is a text; 5e-6 is a number to a flag whatever YAML thinks."""
    path = tmp_path / "plan.yaml"
    values = PLAN | {"generate": {}, "train": {}}
    text = yaml.safe_dump(values).replace(
        "generate: {}", "generate: {on: ray, workers: 2, template_date: 2026-11-30}"
    )
    path.write_text(text.replace("train: {}", "train: {learning_rate: 5e-6, shared-prompt: false}"))
    plan = read_plan(path, seed=9)
    assert value(plan, 1, "generate", "--on") == ["ray"]
    assert value(plan, 1, "generate", "--template-date") == ["2026-11-30"]
    assert value(plan, 1, "train", "--learning-rate") == ["5e-6"]
    assert "--no-shared-prompt" in line(plan, 1, "train")
    assert value(plan, 1, "generate", "--seed") == ["9"]


def read_as_typed(words: list[str]) -> object:
    """Return the config that the command line makes of a stage's words."""
    read: list[object] = []
    config_class = SECTIONS[words[0]]
    app = typer.Typer(add_completion=False)
    app.command()(stage_command_of(config_class, lambda stage, _as_json: read.append(stage)))
    typer.main.get_command(app)(spelled_out(words[1:]), standalone_mode=False)
    return read[0]


def some_value(stage: str, name: str) -> Any:
    """Return a value of a flag that is not its default, where one can be made of its declaration."""
    config_class = SECTIONS[stage]
    item = {item.name: item for item in fields(config_class)}[name]
    kind = resolved_types(config_class)[name]
    scalar, bounds = scalar_type(kind), item.metadata["bounds"]
    if scalar is bool:
        return item.default is not True
    if item.metadata["choices"]:
        others = [each for each in item.metadata["choices"] if each != item.default]
        return [others[-1]] if is_list(kind) else others[-1]
    if scalar in (int, float):
        candidates = [scalar(each) for each in (0.5, 2, 3, 0.75, 64)]
        number = next(each for each in candidates if bounds.hold(each) and each != item.default)
        return [number] if is_list(kind) else number
    return ["-odd text", "x"] if is_list(kind) else "-odd text"


@pytest.mark.parametrize("stage", SECTIONS)
def test_every_key_of_a_section_is_read_from_the_words_as_from_the_plan(stage: str) -> None:
    """Each flag by itself: where a config can be made with it, the command line makes the same of the step's words."""
    n_tried = 0
    refused = REFUSED_EVERYWHERE | REFUSED[stage]
    for item in fields(SECTIONS[stage]):
        if item.name in refused or item.name == "target":
            continue
        section = PLAN[stage] | {item.name: some_value(stage, item.name)}
        try:
            plan = plan_of(rounds=1, **{stage: section})
            steps = made(plan)
        except UsageError:
            continue  # it needs another flag beside it
        step = next(step for step in steps if step.stage == stage)
        assert read_as_typed(step.words) == step.config, step.words
        n_tried += 1
    assert n_tried > len(fields(SECTIONS[stage])) * 0.4


def test_the_record_is_read_back_and_the_plan_as_it_is_now(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("plan.yaml")
    path.write_text(yaml.safe_dump(PLAN))
    plan = read_plan(path, seed=4)
    write_rounds_record(RUN, path, plan, seed=4)
    path.write_text(yaml.safe_dump(PLAN | {"rounds": 5}))
    monkeypatch.chdir("/")
    record = read_rounds_record(tmp_path / "run")
    assert record is not None
    assert record.plan_then() == plan
    assert record.plan_now() == read_plan(tmp_path / "plan.yaml", seed=4)
    assert (record.plan_now().rounds, record.plan_now().seed) == (5, 4)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rounds.json"]


def test_no_record_and_broken_ones(tmp_path: Path) -> None:
    assert read_rounds_record(tmp_path) is None
    for text in (
        "{",
        "[]",
        '{"plan": "p"}',
        '{"plan": "p", "folder": "/", "values": {"rounds": 1}, "seed": null, "version": "1"}',
    ):
        (tmp_path / "rounds.json").write_text(text)
        with pytest.raises(InputError, match=r"rounds\.json"):
            read_rounds_record(tmp_path)

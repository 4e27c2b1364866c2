"""A plan of a study: what of it is refused and where, and the command lines that it comes to."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.plan_sections import PlanError
from prefpipe.configs.study_checks import step_problems
from prefpipe.configs.study_plan import Budgets, StudyPlan, read_study_plan, study_plan_error
from prefpipe.configs.study_record import Declared, read_study_record, write_study_record
from prefpipe.configs.study_steps import (
    TRAINER,
    Place,
    StudyStep,
    global_batch_size,
    groups_folder,
    judged_model,
    run_steps,
    selection_steps,
    shared_steps,
)
from prefpipe.errors import InputError, UsageError

STUDY = Path("run/study")
PLAN: dict[str, Any] = {
    "study": "selection",
    "model": "org/model",
    "seeds": [0, 3],
    "pool": {
        "prompts": "prompts.jsonl",
        "generate": {"n": 4, "temperature": [0.7, 1.0]},
        "score": {"scorer": "checks"},
        "embed": {"model": "bundled:minilm"},
    },
    "heldout": {"prompts": "heldout.jsonl"},
    "eval": {"scorer": "checks", "temperature": 0.8, "batch-size": 8},
    "select": {"k": 5, "min_spread": 0.2},
    "train": {"objective": "ampo", "global_batch_size": 4, "lr_scheduler_type": "constant"},
    "budgets": {"prompts": 60, "response_tokens": "like opt-select"},
    "arms": {
        "opt-select": None,
        "coreset": {"select": {"strategy": "coreset"}},
        "best-worst": {"select": {"strategy": "best-worst", "k": None}},
        "sft": {"like": "best-worst", "train": {"sft_weight": 0.2}},
    },
    "contrasts": [["opt-select", "best-worst"]],
}
ROUNDS = {"rounds": {"rounds": 3, "prompt_use": "split"}}
TRL = {
    "trainer": "python trl.py {groups} -o '{policy}' --model {model} --max-steps {steps} --seed {seed}"
}
PROMPTS_ALONE = {"budgets": {"prompts": 60}}
FOLDERS = {
    "pool": {"candidates": "pool/c", "scores": "pool/s"},
    "heldout": {"candidates": "held/c", "scores": "held/s"},
    "select": {"strategy": "all", "reward": "quality"},
    "arms": {"bt": {"train": {"objective": "bt"}}, "mmpo": {"train": {"objective": "mmpo", "gamma": 6}}},
    "truth": {"reward": "quality", "gamma": 6},
    "epochs": [1, 2],
    "contrasts": None,
}  # fmt: skip
REWARDS = {**FOLDERS, "target": "reward", "model": "bundled:minilm"}


def values_of(**changed: Any) -> dict[str, Any]:
    """Return a plan's values with other ones, without those that are absent, ``...``."""
    values = deepcopy(PLAN) | changed
    return {key: value for key, value in values.items() if value is not ...}


def plan_of(**changed: Any) -> StudyPlan:
    return StudyPlan.from_values(values_of(**changed), name="plan.yaml")


def of_truth(**changed: Any) -> StudyPlan:
    """Return a plan that is judged by pairs."""
    train = {"global_batch_size": 4, "lr_scheduler_type": "constant"}
    return plan_of(**{**REWARDS, "eval": ..., "budgets": ..., "train": train, **changed})


def with_arm(name: str, arm: Any, **changed: Any) -> dict[str, Any]:
    return {"arms": {**PLAN["arms"], name: arm}, **changed}


def words(step: StudyStep) -> str:
    return " ".join(step.words)


def places(*steps: int) -> list[Place]:
    return [Place(step, ("prompts",)) for step in steps]


def problems_of(**changed: Any) -> list[str]:
    """Return what is wrong with a plan, whichever of the two looks finds it."""
    try:
        plan = plan_of(**changed)
    except PlanError as error:
        return error.problems
    return step_problems(plan, STUDY)


def test_the_plan_itself_has_no_problem() -> None:
    for changed in (
        {},
        with_arm("three", ROUNDS, **PROMPTS_ALONE),
        with_arm("trl", TRL, **PROMPTS_ALONE),
    ):
        assert problems_of(**changed) == []
    assert step_problems(of_truth(), STUDY) == []


def test_the_pool_and_the_held_out_responses_are_made_once() -> None:
    """The model's held-out responses are sampled and rated as `eval` does it: its flags, its defaults."""
    assert [words(step) for step in shared_steps(plan_of(), STUDY)] == [
        (
            "generate prompts.jsonl -o run/study/pool/candidates --model org/model --n 4 "
            "--temperature 0.7 --temperature 1.0 --seed 0"
        ),
        "score run/study/pool/candidates -o run/study/pool/scores --scorer checks",
        "embed run/study/pool/candidates -o run/study/pool/embeddings --model bundled:minilm",
        # of `eval` the default is one response, of `generate` eight
        (
            "generate heldout.jsonl -o run/study/heldout/candidates --model org/model "
            "--n 1 --temperature 0.8 --batch-size 8 --seed 100"
        ),
        "score run/study/heldout/candidates -o run/study/heldout/scores --scorer checks --batch-size 8",
    ]


def test_what_is_there_is_not_made_and_is_read_where_it_is() -> None:
    plan = plan_of(
        pool={"candidates": "p/c", "scores": "p/s", "embeddings": "p/e"},
        heldout={"prompts": "heldout.jsonl", "candidates": "h/c", "scores": "h/s"},
    )
    assert shared_steps(plan, STUDY) == []
    selection = words(selection_steps(plan, STUDY)[0])
    assert selection.startswith("select p/c --scores p/s --embeddings p/e -o ")
    evaluation = words(run_steps(plan, STUDY, "sft", 0, places(15))[-1])
    assert "--baseline h/c --baseline-scores h/s --prompts heldout.jsonl" in evaluation


def test_arms_select_once_and_those_that_draw_once_a_seed() -> None:
    steps = selection_steps(plan_of(), STUDY)
    assert [str(step.output.relative_to(STUDY)) for step in steps] == [
        "arms/opt-select/groups",
        "arms/coreset/seed-0/groups",
        "arms/coreset/seed-3/groups",
        "arms/best-worst/groups",
        "arms/sft/groups",
    ]
    assert [(step.arm, step.seed) for step in steps[:3]] == [
        ("opt-select", None), ("coreset", 0), ("coreset", 3)
    ]  # fmt: skip
    assert [step.words[-2:] for step in steps[1:3]] == [["--seed", "0"], ["--seed", "3"]]
    assert "--seed" not in words(steps[0])
    for step in steps:
        assert step.output == groups_folder(plan_of(), STUDY, step.arm or "", step.seed or 0)


@pytest.mark.parametrize(
    ("section", "is_drawn"),
    [
        ({"strategy": "random"}, True),
        ({"strategy": "best-random", "k": None}, True),
        ({"pairs": "best-random"}, True),
        ({"strategy": "bottom-k"}, False),
        ({"strategy": "all", "k": None}, False),
    ],
)
def test_which_selections_draw(section: dict[str, Any], is_drawn: bool) -> None:
    plan = plan_of(**with_arm("drawn", {"select": section}))
    assert len(selection_steps(plan, STUDY, arms=["drawn"])) == (2 if is_drawn else 1)
    assert len(selection_steps(plan, STUDY, arms=["drawn"], seeds=[3])) == 1


def test_a_training_ends_at_the_last_place_and_keeps_the_weights_of_each() -> None:
    steps = run_steps(plan_of(), STUDY, "sft", 3, places(15, 38))
    assert words(steps[0]) == (
        "train run/study/arms/sft/groups -o run/study/arms/sft/seed-3/policy --model org/model "
        "--objective ampo --global-batch-size 4 --lr-scheduler-type constant --sft-weight 0.2 "
        "--max-steps 38 --keep-step 15 --keep-step 38 --seed 3"
    )
    for step, at in zip(steps[1:], (15, 38), strict=True):
        assert step.judged_at == at
        assert words(step) == (
            f"eval --policy run/study/arms/sft/seed-3/policy/step-000{at} --baseline "
            "run/study/heldout/candidates --baseline-scores run/study/heldout/scores --prompts "
            f"heldout.jsonl --kl-reference org/model -o run/study/arms/sft/seed-3/eval-000{at} "
            "--scorer checks --temperature 0.8 --batch-size 8 --seed 103"
        )


@pytest.mark.parametrize("knobs", [{"kl": False}, {"backend": "fake"}])
def test_without_kl_or_with_a_fake_no_reference_of_it_is_named(knobs: dict[str, Any]) -> None:
    plan = plan_of(eval=PLAN["eval"] | knobs)
    assert "--kl-reference" not in words(run_steps(plan, STUDY, "sft", 0, places(15))[-1])


def test_an_arm_with_rounds_is_a_plan_of_rounds_with_the_sections_of_the_study() -> None:
    """60 prompts of 4 a step in three rounds: five steps each; the last policy is what is judged."""
    plan = plan_of(
        **with_arm("three", ROUNDS | {"train": {"learning_rate": "1e-5"}}, **PROMPTS_ALONE)
    )
    steps = run_steps(plan, STUDY, "three", 3, places(15))
    assert [step.stage for step in steps] == [
        *["generate", "score", "embed", "select", "train"] * 3,
        "eval",
    ]
    trainings = [step.words for step in steps if step.stage == "train"]
    assert [line[line.index("--max-steps") + 1] for line in trainings] == ["5", "5", "5"]
    assert all("--learning-rate 1e-5" in " ".join(line) for line in trainings)
    assert [line[line.index("--seed") + 1] for line in trainings] == ["3", "1003", "2003"]
    last = "run/study/arms/three/seed-3/rounds/round-03/policy"
    assert f"--policy {last} " in words(steps[-1])
    assert judged_model(plan, STUDY, "three", 3, 15) == Path(last)
    assert selection_steps(plan, STUDY, arms=["three"]) == []


def test_another_trainer_is_run_for_each_place_word_by_word() -> None:
    """Places are filled in words that are parted already: a folder with a space is one word."""
    plan = plan_of(**with_arm("trl", TRL, **PROMPTS_ALONE))
    [training, evaluation] = run_steps(plan, Path("my study"), "trl", 3, places(15))
    assert training.stage == TRAINER
    assert training.words == [
        "python", "trl.py", "my study/arms/trl/groups", "-o", "my study/arms/trl/seed-3/policy/step-00015",
        "--model", "org/model", "--max-steps", "15", "--seed", "3",
    ]  # fmt: skip
    assert training.config is None
    assert training.output == judged_model(plan, Path("my study"), "trl", 3, 15)
    assert "--policy my study/arms/trl/seed-3/policy/step-00015" in words(evaluation)
    literal = {"trainer": "x {groups} {policy} {seed} --json '{{\"a\": {steps}}}'"}
    step = run_steps(plan_of(**with_arm("x", literal, **PROMPTS_ALONE)), STUDY, "x", 0, places(2))[
        0
    ]
    assert step.words[-1] == '{"a": 2}'


def test_reward_models_are_judged_by_the_rewards_that_they_give() -> None:
    steps = run_steps(of_truth(), STUDY, "bt", 0, [Place(3, ("epoch-1",)), Place(6, ("epoch-2",))])
    assert words(steps[0]) == (
        "train run/study/arms/bt/groups -o run/study/arms/bt/seed-0/policy --model bundled:minilm "
        "--target reward --global-batch-size 4 --lr-scheduler-type constant --objective bt "
        "--max-steps 6 --keep-step 3 --keep-step 6 --seed 0"
    )
    assert words(steps[1]) == (
        "score held/c -o run/study/arms/bt/seed-0/scores-00003 "
        "--scorer reward-model:run/study/arms/bt/seed-0/policy/step-00003"
    )
    assert of_truth().judged_at == ("epoch-1", "epoch-2")
    assert shared_steps(of_truth(), STUDY) == []


def test_policies_are_judged_by_log_probabilities_against_those_of_the_model() -> None:
    plan = of_truth(
        target="policy",
        model="org/model",
        train={"max_length": 64, "global_batch_size": 4, "lr_scheduler_type": "constant"},
        arms={"dpo": {"train": {"objective": "dpo"}}, "mmpo": {"train": {"objective": "mmpo"}}},
    )
    assert [words(step) for step in shared_steps(plan, STUDY)] == [
        "logprobs held/c -o run/study/heldout/logprobs --model org/model --max-length 64"
    ]
    steps = run_steps(plan, STUDY, "dpo", 0, [Place(3, ("epoch-1",))])
    assert words(steps[1]) == (
        "logprobs held/c -o run/study/arms/dpo/seed-0/logprobs-00003 "
        "--model run/study/arms/dpo/seed-0/policy/step-00003 --max-length 64"
    )


def test_an_arm_is_like_another_with_changes_and_null_drops_what_is_shared() -> None:
    arms = {
        "a": {"select": {"k": 3}, "train": {"beta": 5}},
        "b": {"like": "a", "select": {"k": None, "strategy": "best-worst"}},
        "c": {"like": "b", "train": {"beta": None, "sft-weight": 1}},
        "d": {"like": "t", "trainer": None, "train": {"beta": 2}},
        "t": TRL,
    }
    plan = plan_of(arms=arms, contrasts=None, budgets={"prompts": 60})
    shared = PLAN["train"]
    assert plan.arm("b").sections == {
        "select": {"min_spread": 0.2, "strategy": "best-worst"},
        "train": shared | {"beta": 5},
    }
    assert plan.arm("c").sections["train"] == shared | {"sft_weight": 1}
    assert plan.arm("c").sections["select"] == plan.arm("b").sections["select"]
    assert plan.arm("d").trainer is None
    assert problems_of(arms=arms, contrasts=None, budgets={"prompts": 60}) == []


def test_overwrite_is_handed_to_every_command_but_another_trainer() -> None:
    plan = plan_of(**with_arm("trl", TRL, **PROMPTS_ALONE))
    steps = [
        *shared_steps(plan, STUDY, overwrite=Overwrite.STALE),
        *selection_steps(plan, STUDY, overwrite=Overwrite.STALE),
        *run_steps(plan, STUDY, "trl", 0, places(15), overwrite=Overwrite.STALE),
    ]
    assert [step.stage for step in steps if step.words[-1] != "--overwrite=stale"] == [TRAINER]


def test_no_two_steps_have_one_name_or_write_one_folder() -> None:
    plan = plan_of(**with_arm("three", ROUNDS, **with_arm("pool", TRL), **PROMPTS_ALONE))
    steps = [*shared_steps(plan, STUDY), *selection_steps(plan, STUDY)]
    for seed in plan.seeds:
        for arm in plan.arms:
            steps += run_steps(plan, STUDY, arm, seed, places(15, 38))
    # rounds are judged at their end alone
    evaluated = [step for step in steps if step.arm != "three" or step.judged_at != 38]
    for what in ("name", "output"):
        values = [getattr(step, what) for step in evaluated]
        assert len(set(values)) == len(values), what


def test_budgets() -> None:
    assert plan_of().budgets == Budgets(60, None, "opt-select")
    assert plan_of().judged_at == ("prompts", "response_tokens")
    assert plan_of(budgets={"response-tokens": 5000}).judged_at == ("response_tokens",)
    assert plan_of(budgets={"prompts": 60}).judged_at == ("prompts",)


def test_the_batch_is_that_of_the_objective_where_none_is_given() -> None:
    arms = {"ampo": {}, "ddo": {"train": {"objective": "ddo"}}}
    plan = plan_of(train={}, arms=arms, contrasts=None, budgets={"prompts": 128})
    assert global_batch_size(plan, "ddo") == 32
    assert problems_of(train={}, arms=arms, contrasts=None, budgets={"prompts": 96}) == [
        (
            "budgets: `prompts: 96` are no whole number of optimizer steps of arm ampo, of 128 prompts "
            "each (global_batch_size): pass 128"
        )
    ]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a key of no plan": ({"modle": "x"}, "unknown key `modle` (did you mean `model`?)"),
    "a key of the pool": ({"generate": {}}, "unknown key `generate`"),
    "a flag for a key": ({"learning_rate": 1}, "unknown key `learning_rate`; it is a key of `train`"),
    "a flag of the pool": ({"top_p": 1}, "unknown key `top_p`; it is a key of `generate` in `pool` and `eval`"),
    "nothing": (dict.fromkeys(PLAN, ...), "it needs `study`, `model`, `seeds`, `pool`, `heldout`, `arms`"),
    "a name with a slash": ({"study": "a/b"}, "`study` must be a name of letters, digits"),
    "a number for a name": ({"study": 3}, "`study` must be a name of letters, digits and . _ + - (64 at most, a letter or a digit first), not 3"),
    "two models": ({"model": ["a", "b"]}, "`model` must be a text, not ['a', 'b']"),
    "another target": ({"target": "rewrad"}, "`target` must be policy or reward, not 'rewrad' (did you mean `reward`?)"),
    "a target that is a list": ({"target": ["policy"]}, "`target` must be policy or reward, not ['policy']"),
    "no seeds": ({"seeds": []}, "`seeds` must be a list of whole numbers, [0, 1, 2] say, not []"),
    "one seed": ({"seeds": 3}, "`seeds` must be a list of whole numbers, [0, 1, 2] say, not 3"),
    "a seed twice": ({"seeds": [1, 2, 1]}, "`seeds`: the seed 1 stands there twice"),
    "half a seed": ({"seeds": [0.5]}, "`seeds`: a seed must be a whole number, within 0 and 2147483647, not 0.5"),
    "a true seed": ({"seeds": [True]}, "not True"),
    "a seed below zero": ({"seeds": [-1]}, "not -1"),
    "a seed that no training takes": ({"seeds": [2**31]}, "within 0 and 2147483647, not 2147483648"),
    "seeds by name": ({"seeds": {"a": 1}}, "`seeds` must be a list"),
    "no pool": ({"pool": None}, "it needs `pool`"),
    "a file for a pool": ({"pool": "p.jsonl"}, "pool must hold `key: value` lines, not 'p.jsonl'"),
    "an empty pool": ({"pool": {}}, "pool: it needs `prompts`, `generate`, `score`, or `candidates` and `scores`"),
    "a flag for a pool": ({"pool": {"n": 3}}, "pool: unknown key `n`; it is a key of `generate` in `pool` and `eval`"),
    "half a pool that is there": ({"pool": {"candidates": "c"}}, "pool: it needs `scores` beside `candidates`"),
    "a pool twice": ({"pool": {**PLAN["pool"], "candidates": "c"}}, "pool: `candidates` is a folder that is there, and `prompts` makes one"),
    "a number for prompts": ({"pool": {**PLAN["pool"], "prompts": 3}}, "pool: `prompts` must be a text, not 3"),
    "a model of the pool": ({"pool": {**PLAN["pool"], "generate": {"model": "x"}}}, "pool, generate: `model` does not stand in a section: the plan's own key `model`"),
    "a seed of the pool": ({"pool": {**PLAN["pool"], "generate": {"seed": 1}}}, "pool, generate: `seed` does not stand in a section: a pool is sampled once, with seed 0"),
    "a section of the pool that is nothing": ({"pool": {**PLAN["pool"], "score": None}}, "pool: it needs `score`"),
    "a list for a section": ({"pool": {**PLAN["pool"], "generate": [1]}}, "pool, generate must hold `key: value` lines, not [1]"),
    "a value that a command refuses": ({"pool": {**PLAN["pool"], "generate": {"top_p": 2}}}, "pool, generate: --top-p must be above 0 and at most 1, not 2.0"),
    "no held-out prompts": ({"heldout": {}}, "heldout: it needs `prompts`: each policy is sampled for them"),
    "held-out folders without prompts": ({"heldout": {"candidates": "c", "scores": "s"}}, "heldout: it needs `prompts`"),
    "half of what is held out": ({"heldout": {"prompts": "h", "scores": "s"}}, "heldout: it needs `candidates` beside `scores`"),
    "how to judge, held out": ({"heldout": {"eval": {}}}, "heldout: unknown key `eval`"),
    "no eval": ({"eval": ...}, "it needs `eval`: how held-out responses are sampled and rated"),
    "prompts of eval": ({"eval": {"prompts": "h"}}, "eval: `prompts` does not stand in a section: the key `prompts` of `heldout` sets it"),
    "no scorer": ({"eval": None}, "eval: `prefpipe score` needs --scorer"),
    "steps in a section": ({"train": {"max_steps": 3}}, "train: `max_steps` does not stand in a section: the plan's `budgets` or `epochs` set it"),
    "a target in a section": ({"train": {"target": "reward"}}, "train: `target` does not stand in a section"),
    "prompts that are held out twice": ({"train": {"eval_fraction": 0.1}}, "train: `eval_fraction` does not stand in a section: arms are judged on prompts that no arm trains on"),
    "a misspelt flag": ({"train": {"learning_rat": 1}}, "train: unknown key `learning_rat` (did you mean `learning_rate`?)"),
    "a flag spelt twice": ({"train": {"sft-weight": 1, "sft_weight": 2}}, "train: a key stands there twice, with _ and with -"),
    "no arms": ({"arms": {}}, "`arms` must hold an arm a line, `bottom-k: {...}`, not {}"),
    "a list of arms": ({"arms": ["a"]}, "`arms` must hold an arm a line"),
    "an arm with a slash": (with_arm("a/b", {}), "an arm is called by letters, digits and . _ + - (64 at most, a letter or a digit first), as its folder is, not 'a/b'"),
    "an arm with a space": (with_arm("a b", {}), "not 'a b'"),
    "an arm with a comma": (with_arm("a,b", {}), "not 'a,b'"),
    "an arm above the folder": (with_arm("..", {}), "not '..'"),
    "an arm without a name": (with_arm("", {}), "not ''"),
    "an arm that is a flag": (with_arm("-o", {}), "not '-o'"),
    "an arm that is a number": (with_arm(3, {}), "not 3"),  # type: ignore[arg-type]
    "an arm with a line end": (with_arm("a\n", {}), "not 'a\\n'"),
    "a long arm": (with_arm("a" * 65, {}), "64 at most"),
    "the base": (with_arm("base", {}), "arms: `base` is what tables call the model before any training"),
    "the base in capitals": (with_arm("Base", {}), "arms: `Base` is what tables call"),
    "two arms in one folder": (with_arm("Coreset", {}), "arms: `coreset` and `Coreset` would be one folder on some file systems"),
    "a text for an arm": (with_arm("a", "coreset"), "arms, a must hold `key: value` lines, not 'coreset'"),
    "a list for an arm": (with_arm("a", [1]), "arms, a must hold `key: value` lines, not [1]"),
    "a null section of an arm": (with_arm("a", {"select": None}), "arms, a, select must hold `key: value` lines, not None"),
    "a flag of an arm": (with_arm("a", {"k": 3}), "arms, a: unknown key `k`; it is a key of `select`"),
    "a misspelt arm": (with_arm("a", {"selcet": {}}), "arms, a: unknown key `selcet` (did you mean `select`?)"),
    "an arm's model": (with_arm("a", {"model": "x"}), "arms, a: `model` is shared by all arms; an arm has `like`, `select`, `train`, `rounds` and `trainer`"),
    "an arm's pool": (with_arm("a", {"pool": {}}), "arms, a: `pool` is shared by all arms"),
    "an arm's sampling": (with_arm("a", {"generate": {"n": 3}}), "arms, a: `generate` is shared by all arms"),
    "an arm's eval": (with_arm("a", {"eval": {"n": 3}}), "arms, a: `eval` is shared by all arms"),
    "an arm's model in a section": (with_arm("a", {"train": {"model": "x"}}), "arms, a, train: `model` does not stand in a section: all arms train the plan's own key `model`"),
    "a key of an arm twice": (with_arm("a", {"train": {"lora-r": 8, "lora_r": 8}}), "arms, a, train: a key stands there twice"),
    "like nobody": (with_arm("a", {"like": "coresett"}), "arms, a: `like` must name an arm of the plan, not 'coresett' (did you mean `coreset`?)"),
    "like many": (with_arm("a", {"like": ["coreset"]}), "arms, a: `like` must name an arm of the plan, not ['coreset']"),
    "like itself": (with_arm("a", {"like": "a"}), "arms, a: `like` goes round in a circle: a, a"),
    "like each other": ({"arms": {"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "a"}}, "contrasts": None}, "arms, a: `like` goes round in a circle: a, b, c, a"),
    "a knob that does not apply": (with_arm("bw", {"select": {"strategy": "best-worst"}}), "arms, bw, select: --k does not apply to --strategy best-worst"),
    "no embeddings": ({"pool": {key: value for key, value in PLAN["pool"].items() if key != "embed"}}, "arms, opt-select, select: --strategy opt-select needs the section `embed` in `pool`"),
    "no rounds in rounds": (with_arm("a", {"rounds": {}}, **PROMPTS_ALONE), "arms, a, rounds: it needs `rounds`"),
    "a number for rounds": (with_arm("a", {"rounds": 3}), "arms, a, rounds must hold `key: value` lines, not 3"),
    "a model of rounds": (with_arm("a", {"rounds": {"rounds": 3, "model": "x"}}), "arms, a, rounds: `model` does not stand there; an arm sets `rounds`, `prompt_use`"),
    "a misspelt key of rounds": (with_arm("a", {"rounds": {"rounds": 3, "prompt_us": "split"}}), "`prompt_us` does not stand there (did you mean `prompt_use`?)"),
    "too many rounds": (with_arm("a", {"rounds": {"rounds": 100}}, **PROMPTS_ALONE), "arms, a, rounds: `rounds` must be a whole number, within 1 and 99, not 100"),
    "a change of no round": (with_arm("a", {"rounds": {"rounds": 2, "changes": {3: {}}}}, **PROMPTS_ALONE), "arms, a, rounds: changes, round 3: the plan has 2 rounds"),
    "other steps in a round": (with_arm("a", {"rounds": {"rounds": 3, "changes": {2: {"train": {"max_steps": 9}}}}}, **PROMPTS_ALONE), "changes, round 2, train: `max_steps`: the plan's `budgets` set how many prompts"),
    "another batch in a round": (with_arm("a", {"rounds": {"rounds": 3, "changes": {2: {"train": {"global_batch_size": 2}}}}}, **PROMPTS_ALONE), "changes, round 2, train: `global_batch_size`: the plan's `budgets` set"),
    "rounds that do not divide": (with_arm("a", {"rounds": {"rounds": 4}}, **PROMPTS_ALONE), "no whole number of optimizer steps of arm a, of 4 prompts each (global_batch_size) in each of 4 rounds: pass 48 or 64"),
    "rounds at tokens of another arm": (with_arm("a", ROUNDS), "budgets: arm a goes through rounds, which end where its prompts do: with `response_tokens: like a`"),
    "rounds of a pool that is there": (with_arm("a", ROUNDS, pool={"candidates": "c", "scores": "s", "embeddings": "e"}), "arms, a, rounds: each round samples a pool of its own"),
    "a list for a trainer": (with_arm("a", {"trainer": ["python"]}), "arms, a, trainer must be a command"),
    "a trainer without groups": (with_arm("a", {"trainer": "x {policy}"}), "arms, a, trainer: it needs {groups}"),
    "a place that is none": (with_arm("a", {"trainer": "x {groups} {policy} {step}"}), "arms, a, trainer: `{step}` is no place (did you mean `steps`?)"),
    "a place with an attribute": (with_arm("a", {"trainer": "x {groups} {policy} {model.__class__}"}), "`{model.__class__}` is no place"),
    "a place without a name": (with_arm("a", {"trainer": "x {groups} {policy} {}"}), "`{}` is no place"),
    "a quote without an end": (with_arm("a", {"trainer": "x {groups} {policy} 'y"}), "arms, a, trainer: the command cannot be read: No closing quotation"),
    "a brace without an end": (with_arm("a", {"trainer": "x {groups} {policy} {"}), "arms, a, trainer: the command cannot be read"),
    "a trainer without steps": (with_arm("a", {"trainer": "x {groups} {policy} {seed}"}), "arms, a, trainer: it needs {steps}"),
    "one training for all seeds": (with_arm("a", {"trainer": "x {groups} {policy} {steps}"}), "arms, a, trainer: it needs {seed}: one training over and over is not 2 seeds"),
    "a number that no table holds": ({"equivalence": 10**400}, "`equivalence` is a whole number beyond 9223372036854775807"),
    "a batch of none in rounds": (with_arm("a", ROUNDS, train={"global_batch_size": False}, **PROMPTS_ALONE), "train: `global_batch_size` must be 1 or more, not False"),
    "a batch that is a list in rounds": (with_arm("a", ROUNDS, train={"global_batch_size": []}, **PROMPTS_ALONE), "train: `global_batch_size` must be 1 or more, not []"),
    "a trainer with flags of ours": (with_arm("a", TRL | {"train": {"beta": 2}}), "arms, a: `train` has no effect beside `trainer`"),
    "a trainer with flags of ours, by like": (with_arm("a", TRL, arms={**PLAN["arms"], "a": TRL, "b": {"like": "a", "train": {"beta": 2}}}, **PROMPTS_ALONE), "arms, b: `beta` of `train` has no effect beside `trainer`"),
    "a trainer with rounds": (with_arm("a", TRL | ROUNDS), "arms, a: `trainer` and `rounds` exclude each other"),
    "a trainer at tokens": (with_arm("a", TRL), "budgets: in which order the trainer of arm a takes prompts is not known"),
    "no budgets": ({"budgets": ...}, "it needs `budgets`, with `prompts`, `response_tokens` or both"),
    "empty budgets": ({"budgets": {}}, "budgets: it needs `prompts`, `response_tokens` or both"),
    "a number for budgets": ({"budgets": 60}, "budgets must hold `key: value` lines, not 60"),
    "a budget of no kind": ({"budgets": {"prompt": 60}}, "budgets: unknown key `prompt` (did you mean `prompts`?)"),
    "half a prompt": ({"budgets": {"prompts": 0.5}}, "budgets: `prompts` must be a whole number, 1 or more, not 0.5"),
    "a true budget": ({"budgets": {"prompts": True}}, "not True"),
    "no prompts": ({"budgets": {"prompts": 0}}, "not 0"),
    "no step": ({"budgets": {"prompts": 62}}, "budgets: `prompts: 62` are no whole number of optimizer steps of arm opt-select, of 4 prompts each (global_batch_size): pass 60 or 64"),
    "less than a step": ({"budgets": {"prompts": 3}}, "pass 4"),
    "tokens in words": ({"budgets": {"prompts": 60, "response_tokens": "many"}}, "budgets: `response_tokens` must be a whole number, 1 or more, or `like ARM`, not 'many'"),
    "tokens like nobody": ({"budgets": {"prompts": 60, "response_tokens": "like optselect"}}, "budgets: `response_tokens` is like `optselect`, which is no arm of the plan (did you mean `opt-select`?)"),
    "tokens like an arm, without prompts": ({"budgets": {"response_tokens": "like coreset"}}, "are those after so many prompts: it needs `prompts`"),
    "a schedule that ends": ({"train": {"global_batch_size": 4}}, "is judged at prompts and response_tokens of one training, and under `lr_scheduler_type: cosine` the learning rate depends on its last step"),
    "a warm-up by share": ({"train": {"global_batch_size": 4, "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1}}, "depends on its last step: pass `warmup_steps`"),
    "another measure": ({"measure": "rewards"}, "`measure` must be one of reward, "),
    "a measure that is a list": ({"measure": ["reward"]}, "not ['reward']"),
    "a text for the worst": ({"worst_below": "low"}, "`worst_below` must be a number, not 'low'"),
    "the worst of nothing": ({"measure": "worst_rate"}, "`measure: worst_rate` needs `worst_below`"),
    "no equivalence": ({"equivalence": 0}, "`equivalence` must be a number, above 0, not 0"),
    "a word for true": ({"allow_different_prompts": "yes"}, "`allow_different_prompts` must be true or false, not 'yes'"),
    "contrasts by name": ({"contrasts": {"a": "b"}}, "`contrasts` must be a list of pairs of arms"),
    "a contrast of three": ({"contrasts": [["opt-select", "coreset", "sft"]]}, "contrasts: a contrast is a pair of arms, [a, b], not ['opt-select', 'coreset', 'sft']"),
    "a contrast in words": ({"contrasts": ["ab"]}, "not 'ab'"),
    "a contrast with nobody": ({"contrasts": [["opt-select", "corset"]]}, "contrasts: 'corset' is no arm of the plan (did you mean `coreset`?)"),
    "a contrast with the base": ({"contrasts": [["sft", "base"]]}, "contrasts: 'base' is no arm of the plan (each arm is compared with `base` anyway)"),
    "a contrast with a list": ({"contrasts": [["sft", ["coreset"]]]}, "contrasts: ['coreset'] is no arm of the plan"),
    "a contrast with itself": ({"contrasts": [["sft", "sft"]]}, "contrasts: sft is compared with itself"),
    "a contrast twice": ({"contrasts": [["sft", "coreset"], ["coreset", "sft"]]}, "contrasts: coreset and sft are compared twice"),
    "epochs without truth": ({"epochs": [1]}, "`epochs` go with `truth`"),
    "a reward model without truth": ({"target": "reward"}, "it needs `truth`: a reward model is judged by held-out pairs"),
    "not a number": ({"worst_below": float("nan")}, "`worst_below` must be a finite number, not nan"),
    "a number without end": ({"train": {"beta": float("inf")}}, "`train: beta` must be a finite number, not inf"),
    "bytes": ({"model": b"x"}, "`model` is a bytes, which no key takes"),
    "a set": ({"seeds": {1, 2}}, "`seeds` is a set, which no key takes"),
    "half a character": (with_arm("a", {"train": {"weight_by": "\ud800"}}), "`arms: a: train: weight_by` is no text that a command can be given"),
    "a zero byte": ({"model": "a\0b"}, "`model` is no text that a command can be given, 'a\\x00b'"),
    "half a character in a key": ({"\ud800": 1}, "is no text that can be written down"),
    "a key spelt twice": ({"worst_below": 1, "worst-below": 2}, "a key stands there twice, with _ and with -"),
    "a shard": ({"train": {"num_shards": 2}}, "train: `num_shards` does not stand in a section"),
    "overwriting": ({"select": {"overwrite": "stale"}}, "select: `overwrite` does not stand in a section: pass --overwrite=stale to `prefpipe study`"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_plan_that_cannot_be_run_says_where_and_why(case: str) -> None:
    changed, expected = BAD[case]
    problems = problems_of(**changed)
    assert any(expected in problem for problem in problems), problems


BAD_TRUTH: dict[str, tuple[dict[str, Any], str]] = {
    "a text for the truth": ({"truth": "quality"}, "truth must hold `key: value` lines, not 'quality'"),
    "half the truth": ({"truth": {"reward": "quality"}}, "truth: it needs `gamma`"),
    "a gamma of zero": ({"truth": {"reward": "quality", "gamma": 0}}, "truth: `gamma` must be a number, above 0, not 0"),
    "a number for a reward": ({"truth": {"reward": 3, "gamma": 6}}, "truth: `reward` must be a text, not 3"),
    "no epochs": ({"epochs": None}, "it needs `epochs`, [1, 2, 4] say"),
    "epochs that do not ascend": ({"epochs": [2, 1]}, "`epochs` must ascend, each once, not [2, 1]"),
    "half an epoch": ({"epochs": [0.5]}, "`epochs` must be a list of whole numbers, 1 or more, not [0.5]"),
    "budgets beside the truth": ({"budgets": {"prompts": 60}}, "`budgets` are of no use with `truth`"),
    "a pool that a reward model samples": ({"pool": PLAN["pool"]}, "pool: with `target: reward` the plan's `model` samples nothing"),
    "held-out prompts for a reward model": ({"heldout": {"prompts": "h"}, "eval": PLAN["eval"]}, "heldout: with `target: reward` the plan's `model` samples nothing"),
    "prompts beside pairs": ({"heldout": {**FOLDERS["heldout"], "prompts": "h"}}, "heldout: `prompts` are of no use beside `candidates`"),  # type: ignore[dict-item]
    "eval without samples": ({"eval": PLAN["eval"]}, "`eval` has no effect: with `truth`"),
    "worst failures of pairs": ({"worst_below": 0.1}, "`worst_below` has no effect with `truth`"),
    "rounds of a reward model": ({"arms": {"a": ROUNDS}}, "arms, a, rounds: rounds sample from a policy"),
    "an objective of a policy": ({"arms": {"a": {"train": {"objective": "ampo"}}}}, "train: "),
    "a schedule that ends": ({"train": {"global_batch_size": 4}}, "arm bt is judged at epoch-1 and epoch-2 of one training"),
    "a reward for a measure": ({"measure": "reward"}, "`measure` must be one of log_loss"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TRUTH)
def test_a_plan_judged_by_pairs_that_cannot_be_run(case: str) -> None:
    changed, expected = BAD_TRUTH[case]
    try:
        problems = step_problems(of_truth(**changed), STUDY)
    except PlanError as error:
        problems = error.problems
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize("key", PLAN)
@pytest.mark.parametrize(
    "value", [None, 0, -1, 1.5, True, "", "x", [], [None], [[]], {}, {"x": None}, {"x": {"y": []}}, {3: 4}]
)  # fmt: skip
def test_whatever_stands_at_a_key_is_a_plan_or_a_named_problem(key: str, value: Any) -> None:
    """No traceback: each of the two looks ends with a list of sentences."""
    for given in (value, [value], {"prompts": value}):
        problems = problems_of(**{key: given})
        assert all(isinstance(problem, str) and problem for problem in problems)


@pytest.mark.parametrize("place", ["select", "train", "rounds", "trainer", "like"])
@pytest.mark.parametrize(
    "value", [0, True, "", "x", [], [[]], {}, {"x": None}, {"rounds": []}, {3: 4}]
)
def test_whatever_stands_in_an_arm_is_an_arm_or_a_named_problem(place: str, value: Any) -> None:
    problems = problems_of(**with_arm("a", {place: value}, **PROMPTS_ALONE))
    assert all(isinstance(problem, str) and problem for problem in problems)


def test_a_mistake_is_said_once_and_with_all_others() -> None:
    """What is shared is named without arms, what one arm has with it; two mistakes are two lines."""
    problems = problems_of(
        **with_arm("three", ROUNDS | {"train": {"sft_weight": -1}}, select={"k": 0}),
        eval={"scorer": "x"},
    )
    assert problems == [
        "arms, opt-select and coreset, select: --k must be 1 or more, not 0",
        "eval: --scorer x: the kinds are checks, reward-model, ratings, judge, fake",
        "arms, three, rounds: select: --k must be 1 or more, not 0",
        "arms, three, rounds: train: --sft-weight must be 0 or more, not -1.0",
    ]
    with pytest.raises(UsageError, match=r"the plan p cannot be run:\n  a\n  b") as raised:
        raise study_plan_error("p", ["a", "b"])
    assert "docs/guides/studies.md" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seeds: [0]\nseeds: [1]\n", "the key `seeds` occurs twice"),
        ("arms: {a: {}, a: {}}\n", "the key `a` occurs twice"),
        ("- 1\n", "must hold `key: value` lines, not a list"),
        ("", "must hold `key: value` lines, not nothing"),
        ("a: [", "is not YAML"),
        ("arms: &a {x: *a}\n", "`arms: x` holds itself"),
        ("seeds: &a [*a]\n", "`seeds: 1` holds itself"),
        ("model: !!binary aGk=\n", "`model` is a bytes, which no key takes"),
        ("train: {beta: .nan}\n", "`train: beta` must be a finite number, not nan"),
    ],
)
def test_a_file_that_is_no_plan(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_study_plan(path)
    assert expected in raised.value.message


def test_the_record_is_read_back_and_the_plan_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("plan.yaml")
    path.write_text(yaml.safe_dump(values_of(**with_arm("three", ROUNDS, **PROMPTS_ALONE))))
    plan = read_study_plan(path)
    written = write_study_record(STUDY, path, plan, has_results=False)
    path.write_text(yaml.safe_dump(values_of(seeds=[0, 3, 4])))
    monkeypatch.chdir("/")
    record = read_study_record(tmp_path / STUDY)
    assert record == written
    assert record.plan_then() == plan
    assert record.plan_now().seeds == (0, 3, 4)
    assert record.machine["cores"] >= 1
    assert [each.name for each in (tmp_path / STUDY).iterdir()] == ["study.json"]


def test_contrasts_are_declared_once_and_never_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is there before any result counts as declared before; one that is taken out is still known."""
    monkeypatch.chdir(tmp_path)
    pairs = [["opt-select", "best-worst"], ["coreset", "sft"]]
    write_study_record(STUDY, Path("p"), plan_of(), has_results=False)
    first = read_study_record(STUDY)
    write_study_record(STUDY, Path("p"), plan_of(contrasts=pairs[1:]), has_results=True)
    write_study_record(STUDY, Path("p"), plan_of(contrasts=pairs), has_results=True)
    record = read_study_record(STUDY)
    assert first is not None
    assert record is not None
    assert record.declared[0] == first.declared[0]
    assert [(each.first, each.second, each.is_before) for each in record.declared] == [
        ("opt-select", "best-worst", True),
        ("coreset", "sft", False),
    ]
    assert record.plan_then().contrasts == (("opt-select", "best-worst"), ("coreset", "sft"))


def test_no_record_and_broken_ones(tmp_path: Path) -> None:
    assert read_study_record(tmp_path) is None
    plan = {"plan": "p", "folder": "/", "values": values_of(), "machine": {}, "version": "1"}
    good = {"first": "a", "second": "b", "at": "2026", "is_before": True}
    for values in (
        [],
        {"plan": "p"},
        plan,
        plan | {"declared": [], "values": {"study": "x"}},
        plan | {"declared": [3]},
        plan | {"declared": [{**good, "at": 3}]},
        plan | {"declared": [{**good, "is_before": "yes"}]},
        plan | {"declared": [{**good, "more": 1}]},
    ):
        (tmp_path / "study.json").write_text(
            yaml.safe_dump(values, default_flow_style=True, width=10**6)
        )
        with pytest.raises(InputError, match=r"study\.json"):
            read_study_record(tmp_path)
    assert Declared(**good).is_before

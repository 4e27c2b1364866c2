"""Response tokens by step, known before the training, are those that its own metrics count."""

import random
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.finished_run import command
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import PROMPT, row_of, write_groups

from prefpipe.artifacts.store import open_input
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import seen_tokens
from prefpipe.stages.train.seen_tokens import (
    groups_prompts,
    sum_by_step,
    tokens_by_step,
    trained_prompts,
)

N_PROMPTS, SEED, BATCH = 11, 3, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model") / "model")


def random_rows(n_prompts, seed, *, ordered=False):
    """Two to six responses a prompt, of few short texts, so that some are copies and some are empty; and a rejected prompt.

    ``ordered``: each response beats all that come after it.
    """
    randomness = random.Random(seed)
    rows = []
    for p in range(n_prompts):
        n = randomness.randrange(2, 7)
        for i in range(n):
            answer = "".join(randomness.choices("ab", k=randomness.randrange(1, 4)))
            answer *= randomness.choice([1, 1, 5])
            changes = {}
            if randomness.random() < 0.1:
                changes["response_token_ids"] = []
            if randomness.random() < 0.2:
                changes["role"] = "positive"
            if ordered:
                changes["beats"] = [
                    {"sample_idx": j, "margin": float(j - i)} for j in range(i + 1, n)
                ]
            rows.append(row_of(f"p{p}", i, answer, **changes))
    turns = rows[0]["messages"]
    rejected = {"prompt_id": "none", "messages": turns, "status": "tie", "reason": "all alike"}
    return [*rows, rejected]


def write(folder, rows, model, *, stored=True):
    """Write groups in two parts, sampled by the model; without ``stored`` by one with another tokenizer."""
    identity = inspect_model(model, "tiny").identity()
    if not stored:
        identity |= {"tokenizer_hash": "another"}
    half = next(i for i, row in enumerate(rows) if row["prompt_id"] == "p5")
    return write_groups(folder, [rows[:half], rows[half:]], [identity])


LONGEST = len(PROMPT) + 8
"""Tokens of a prompt and a response of 7, the longest without repetition but for one."""

WEIGHED_IN_TWO_PASSES = "--weight-by max(margin-2,0) --max-batch-tokens 40"

RUNS = {
    "several epochs, some too long, weights of 0, groups in two passes": (
        {},
        f"--objective dpo --num-train-epochs 2.5 --max-length {LONGEST} {WEIGHED_IN_TWO_PASSES}",
    ),
    "all ordered pairs, cut to the limit, the same prompts again and again": (
        {"ordered": True},
        f"--objective mmpo --max-steps 8 --on-too-long truncate --max-length {LONGEST - 3}",
    ),
    "positives alone, less than an epoch": ({}, "--objective sft --max-steps 2"),
    "prompts held out": ({}, "--objective simpo --eval-fraction 0.3"),
    "ids made again": ({"stored": False}, "--objective ampo --num-train-epochs 2"),
    "a reward model": ({}, "--target reward --objective bt"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", RUNS)
def test_they_are_what_the_metrics_of_the_training_count(name, model, tmp_path):
    shape, text = RUNS[name]
    flags = text.split()
    rows = random_rows(N_PROMPTS, 1, ordered=shape.get("ordered", False))
    groups = write(tmp_path / "groups", rows, model, stored=shape.get("stored", True))
    words = ["train", str(groups), "-o", str(tmp_path / "run"), "--model", str(model)]
    words += ["--seed", str(SEED), "--global-batch-size", str(BATCH), "--report-to", "none"]
    command([*words, "--learning-rate", "1e-6", *flags])

    metrics = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    counted = [row["n_tokens"] for row in metrics if row["split"] == "train"]
    training = TrainConfig(
        groups=groups, output=tmp_path / "run", model=str(model), **_values(flags)
    )
    found = tokens_by_step(
        groups,
        seed=SEED,
        global_batch_size=BATCH,
        n_steps=len(counted),
        training=training,
    )
    assert found.dtype == np.int64
    assert found.tolist() == np.cumsum(counted).tolist()
    assert len(set(counted)) >= 2  # steps differ, so that another order would be seen


def _values(flags):
    """Flags of a command line as fields."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    values = dict(zip(names, flags[1::2], strict=True))
    values.pop("max_batch_tokens", None)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("on_too_long", ["drop", "truncate"])
@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_stored_ids_are_counted_as_training_would_read_them(
    objective, on_too_long, model, tmp_path, monkeypatch
):
    """Random groups of short responses, every limit around their lengths: copies before and after a cut, empty and rejected ones, prompts that lose a role."""
    seen = set()
    for seed in range(4):
        groups = write(tmp_path / str(seed), random_rows(N_PROMPTS, seed), model)
        artifact = open_input(groups, schema="groups", name="GROUPS")
        for max_length in range(len(PROMPT), len(PROMPT) + 20, 2):
            training = TrainConfig(
                groups=groups,
                output=tmp_path / "run",
                model=str(model),
                objective=objective,
                on_too_long=on_too_long,
                max_length=max_length,
            )
            try:
                wanted = seen_tokens._count_as_trained(artifact, training)
            except InputError:
                wanted = []
            with monkeypatch.context() as patched:
                # the ids as they are stored, and no other way round
                patched.setattr(seen_tokens, "_count_as_trained", None)
                assert trained_prompts(groups, training) == wanted
            seen.add(len(wanted))
    assert 0 in seen
    assert len(seen) > 2


def test_order_and_number_of_steps_by_hand():
    """Five prompts, two a step: steps of 2, 2 and 1, each epoch in its own order."""
    prompts = [seen_tokens.PromptTokens(str(i), 10**i) for i in range(5)]
    found = sum_by_step(prompts, seed=1, global_batch_size=2, n_steps=7)
    each = np.diff(np.concatenate([[0], found]))
    assert [str(number).count("1") for number in each] == [2, 2, 1, 2, 2, 1, 2]
    assert found[2] == 11_111
    assert found[5] == 22_222
    assert each[:3].tolist() != each[3:6].tolist()
    other = sum_by_step(prompts, seed=2, global_batch_size=2, n_steps=7)
    assert other.tolist() != found.tolist()
    assert (
        sum_by_step(prompts, seed=1, global_batch_size=2, n_steps=3).tolist() == found[:3].tolist()
    )


def test_without_a_training_positives_and_negatives_count_as_they_are_stored(model, tmp_path):
    groups = write(tmp_path / "groups", random_rows(N_PROMPTS, 0), model)
    training = TrainConfig(groups=groups, output=tmp_path, model=str(model), objective="dpo")
    assert trained_prompts(groups) == trained_prompts(groups, training)
    assert groups_prompts(groups) == [f"p{p}" for p in range(N_PROMPTS)]


def test_what_cannot_be_trained_on_is_refused_in_the_words_of_the_training(model, tmp_path):
    rows = random_rows(N_PROMPTS, 0)
    groups = write(tmp_path / "groups", rows, model)
    values = {"groups": groups, "output": tmp_path, "model": str(model), "objective": "dpo"}
    tight = {"max_length": len(PROMPT) + 2, "on_too_long": "error"}
    with pytest.raises(UsageError, match=r"response \d of prompt p\d+ is too long"):
        tokens_by_step(
            groups, seed=0, global_batch_size=2, n_steps=1, training=TrainConfig(**values, **tight)
        )

    imported = [row | {"response_token_ids": None} for row in rows]
    groups = write(tmp_path / "imported", imported, model)
    with pytest.raises(InputError, match="without stored token ids"):
        tokens_by_step(groups, seed=0, global_batch_size=2, n_steps=1)


def test_a_day_of_its_own_makes_other_tokens(model, tmp_path):
    """A template that reads the clock and is told another day than at sampling: training tokenises again."""
    dated = shutil.copytree(model, tmp_path / "dated")
    template = dated / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d') }}" + template.read_text())
    identity = inspect_model(dated, "tiny").dated("2026-01-31").identity()
    rows = random_rows(N_PROMPTS, 0)
    for row in rows:
        if row.get("response_token_ids"):
            # what was sampled are other ids than the text's
            row["response_token_ids"] = row["response_token_ids"][:1] * 7
            row["response_token_ids"][0] += row["sample_idx"]
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    artifact = open_input(groups, schema="groups", name="GROUPS")
    values = {"groups": groups, "output": tmp_path / "run", "model": str(dated), "objective": "dpo"}

    as_sampled = TrainConfig(**values)
    assert trained_prompts(groups, as_sampled) == trained_prompts(groups)
    on_a_day = TrainConfig(**values, template_date="2026-02-28")
    counted = trained_prompts(groups, on_a_day)
    assert counted == seen_tokens._count_as_trained(artifact, on_a_day)
    assert counted != trained_prompts(groups)

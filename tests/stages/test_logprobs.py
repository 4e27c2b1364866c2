"""Reference log-probabilities as an artifact: what is in it, what makes it anew, and how training takes it."""

import math
from itertools import chain, repeat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.pipelines import digests_of, identities_of, open_artifact, rows_of
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_tokenizer
from support.written_groups import PROMPT, TURNS, row_of, write_groups
from transformers import AutoModelForCausalLM

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Shard, open_output
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import (
    ErrorRateError,
    FingerprintError,
    IncompleteInputError,
    InputError,
    StoppedEarly,
    UsageError,
)
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages import logprobs
from prefpipe.stages.inspect.overview import overview
from prefpipe.stages.train import run as train
from prefpipe.status.checker import StatusChecker
from prefpipe.training import forward

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["one", "a second, longer one", "third"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folders):
    return inspect_model(make_tiny_causal_lm(folders / "model"), "org/tiny")


@pytest.fixture(scope="module")
def other(folders):
    return inspect_model(make_tiny_causal_lm(folders / "other", seed=1), "org/other")


@pytest.fixture(scope="module")
def adapter(folders, model):
    return inspect_model(
        make_tiny_adapter(folders / "adapter", model.path), "me/adapter", base=model
    )


def parts(n=3):
    return [
        [
            row_of(f"p{p}{i}", j, f"{p}{i} {text}")
            for i in range(2)
            for j, text in enumerate(ANSWERS)
        ]
        for p in range(n)
    ]


@pytest.fixture
def groups(tmp_path, model):
    rejected = {
        "prompt_id": "p9",
        "messages": TURNS,
        "status": "tie",
        "reason": "all rewards are 1",
    }
    first, *others = parts()
    return write_groups(tmp_path / "groups", [[*first, rejected], *others], [model.identity()])


def measure(groups, output, model, said=None, **changes):
    shard = changes.pop("shard", Shard())
    should_stop = changes.pop("should_stop", lambda: False)
    config = LogprobsConfig(groups=groups, output=output, model="org/tiny", **changes)
    return logprobs.run(
        config,
        model,
        Runtime(
            log=(said if said is not None else []).append, shard=shard, should_stop=should_stop
        ),
    )


def training(groups, output, model, said=None, **changes):
    values = {
        "model": "org/tiny",
        "learning_rate": 1e-3,
        "global_batch_size": 2,
        "max_steps": 2,
        "report_to": ("none",),
        "objective": "dpo",
    }
    runtime = Runtime(log=(said if said is not None else []).append)
    reference_model = changes.pop("files", None)
    return train.run(
        TrainConfig(groups=groups, output=output, **(values | changes)),
        model,
        runtime,
        reference_model=reference_model,
    )


def exact(model_path, prompt, response):
    """One sequence, all logits."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    with torch.no_grad():
        shares = torch.log_softmax(
            model(torch.tensor([[*prompt, *response]])).logits[0].double(), -1
        )
    return [shares[len(prompt) + t - 1, token].item() for t, token in enumerate(response)]


@pytest.fixture
def forwards(monkeypatch):
    """Count what is measured: the batches of every reference."""
    seen = []
    original = forward.sum_response_logps

    def counted(*arguments):
        if not torch.is_grad_enabled():
            seen.append(1)
        return original(*arguments)

    monkeypatch.setattr(forward, "sum_response_logps", counted)
    return seen


@pytest.mark.slow
def test_one_row_a_kept_response_in_the_order_of_the_groups(groups, model, tmp_path):
    summary = measure(groups, tmp_path / "reference", model, per_token=True)
    rows, source = (
        rows_of(tmp_path / "reference"),
        [row for row in rows_of(groups) if row["role"] is not None],
    )
    assert [(row["prompt_id"], row["sample_idx"]) for row in rows] == [
        (row["prompt_id"], row["sample_idx"]) for row in source
    ]
    assert summary.counts == {"ok": 18}
    for row, kept in zip(rows[::5], source[::5], strict=True):
        expected = exact(model.path, kept["prompt_token_ids"], kept["response_token_ids"])
        assert row["token_logps"] == pytest.approx(expected, rel=1e-4)
        assert row["logp"] == pytest.approx(sum(expected), rel=1e-5)
        assert row["n_tokens"] == len(expected)


def test_parts_follow_the_groups_and_carry_their_digests(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model)
    artifact = open_artifact(tmp_path / "reference")
    assert artifact.n_parts == 3
    for index in range(3):
        assert artifact.footer(index).parents == {
            "groups": open_artifact(groups).footer(index).data_sha256
        }
    assert all(row["token_logps"] is None for row in rows_of(tmp_path / "reference"))


def test_a_part_without_groups_is_written_empty(tmp_path, model):
    rejected = {
        "prompt_id": "p9",
        "messages": TURNS,
        "status": "tie",
        "reason": "all rewards are 1",
    }
    groups = write_groups(tmp_path / "groups", [[rejected]], [model.identity()])
    assert measure(groups, tmp_path / "reference", model).counts == {}
    assert rows_of(tmp_path / "reference") == []


@pytest.mark.slow
def test_a_response_that_is_not_measured_says_why(tmp_path, model):
    rows = [
        row_of("p", 0, "short"),
        row_of("p", 1, "much too long for it"),
        row_of("p", 2, "", response_token_ids=[]),
    ]
    groups = write_groups(tmp_path / "groups", [rows], [model.identity()])
    limit = len(PROMPT) + 8
    measure(groups, tmp_path / "dropped", model, max_length=limit)
    found = rows_of(tmp_path / "dropped")
    assert [row["status"] for row in found] == ["ok", "too_long", "empty"]
    assert [row["n_tokens"] for row in found] == [6, 0, 0]
    assert found[1]["logp"] is None
    assert f"the limit is {limit}" in found[1]["reason"]
    measure(groups, tmp_path / "cut", model, max_length=limit, on_too_long="truncate")
    assert [(row["status"], row["n_tokens"]) for row in rows_of(tmp_path / "cut")] == [
        ("ok", 6),
        ("truncated", 8),
        ("empty", 0),
    ]
    measure(groups, tmp_path / "none", model, max_length=len(PROMPT))
    assert [row["status"] for row in rows_of(tmp_path / "none")] == [
        "prompt_too_long",
        "prompt_too_long",
        "empty",
    ]
    with pytest.raises(UsageError, match="response 1 of prompt p is too long"):
        measure(groups, tmp_path / "refused", model, max_length=limit, on_too_long="error")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"max_batch_tokens": 60}, {"shared_prompt": False}])
def test_what_is_computed_at_once_changes_nothing_but_the_last_digits(
    groups, model, tmp_path, changes
):
    measure(groups, tmp_path / "one", model)
    measure(groups, tmp_path / "two", model, **changes)
    for one, two in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert one["logp"] == pytest.approx(two["logp"], rel=1e-5)
    said = []
    measure(groups, tmp_path / "one", model, said, **changes)
    assert any("3 of 3 parts are finished and kept" in line for line in said)
    assert not any("loading" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_length": 100}, "max_length"),
        ({"dtype": "mixed"}, "dtype"),
        ({"per_token": True}, "per_token"),
        ({"on_too_long": "truncate"}, "truncates"),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused_by_name(
    groups, model, tmp_path, changes, field
):
    measure(groups, tmp_path / "reference", model)
    with pytest.raises(FingerprintError, match=field):
        measure(groups, tmp_path / "reference", model, **changes)


def test_another_model_in_the_same_folder_is_refused(groups, model, other, tmp_path):
    measure(groups, tmp_path / "reference", model)
    with pytest.raises(FingerprintError, match="content_hash"):
        measure(groups, tmp_path / "reference", other)


@pytest.mark.slow
def test_shards_make_what_one_run_makes(groups, model, tmp_path):
    measure(groups, tmp_path / "whole", model)
    for index in range(2):
        measure(groups, tmp_path / "sharded", model, shard=Shard(index, 2))
    assert digests_of(tmp_path / "sharded") == digests_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_stop_keeps_the_parts_and_the_rest_is_made_later(groups, model, tmp_path):
    measure(groups, tmp_path / "whole", model)
    asked = chain([False], repeat(True))
    with pytest.raises(
        StoppedEarly, match="logprobs stopped on request: 1 parts made now, 2 left"
    ) as caught:
        measure(groups, tmp_path / "stopped", model, should_stop=lambda: next(asked))
    assert caught.value.exit_code == 75
    first = identities_of(tmp_path / "stopped")
    assert len(first) == 1
    measure(groups, tmp_path / "stopped", model)
    assert first.items() <= identities_of(tmp_path / "stopped").items()
    assert digests_of(tmp_path / "stopped") == digests_of(tmp_path / "whole")


def test_a_part_of_the_groups_that_changed_is_measured_again_alone(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model)
    before = identities_of(tmp_path / "reference")
    (groups / "part-00001-of-00003.parquet").unlink()
    write_groups(
        groups,
        [None, [row_of("new", i, text) for i, text in enumerate(ANSWERS)], None],
        [model.identity()],
    )
    assert StatusChecker().check(tmp_path / "reference").outdated == [1]
    measure(groups, tmp_path / "reference", model)
    after = identities_of(tmp_path / "reference")
    assert {name for name in after if after[name] != before[name]} == {
        "part-00001-of-00003.parquet"
    }


def test_missing_parts_of_the_groups_are_refused_unless_allowed(tmp_path, model):
    groups = write_groups(tmp_path / "groups", [parts()[0], None], [model.identity()])
    with pytest.raises(IncompleteInputError, match="1 of 2 parts are missing"):
        measure(groups, tmp_path / "reference", model)
    assert measure(groups, tmp_path / "reference", model, allow_partial=True).counts == {"ok": 6}


def test_ids_of_another_tokenizer_are_made_again_as_training_makes_them(tmp_path, model):
    rows = [row_of("p", i, text) for i, text in enumerate(ANSWERS)]
    rubbish = [row | {"response_token_ids": [9, 9], "prompt_token_ids": [7]} for row in rows]
    groups = write_groups(
        tmp_path / "groups", [rubbish], [model.identity() | {"tokenizer_hash": "another"}]
    )
    plain = write_groups(tmp_path / "plain", [rows], [model.identity()])
    said = []
    measure(groups, tmp_path / "again", model, said)
    measure(plain, tmp_path / "stored", model)
    assert any("conversations are tokenised again" in line for line in said)
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "stored")


def test_a_model_that_gives_no_number_is_told_in_the_rows_and_fails(
    groups, tmp_path, folders, model
):
    path = make_tiny_causal_lm(folders / "broken", seed=3)
    broken = AutoModelForCausalLM.from_pretrained(path)
    broken.lm_head.weight.data[:] = math.nan
    broken.save_pretrained(path)
    with pytest.raises(ErrorRateError, match="18 of 18 rows failed"):
        measure(groups, tmp_path / "reference", inspect_model(path, "broken"))
    assert {row["status"] for row in rows_of(tmp_path / "reference")} == {"not_finite"}
    assert all(row["logp"] is None for row in rows_of(tmp_path / "reference"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["mixed", "bfloat16"])
def test_half_precision_is_near_the_exact_numbers(groups, model, tmp_path, dtype):
    measure(groups, tmp_path / "exact", model)
    measure(groups, tmp_path / "rough", model, dtype=dtype)
    for fine, rough in zip(rows_of(tmp_path / "exact"), rows_of(tmp_path / "rough"), strict=True):
        assert rough["logp"] == pytest.approx(fine["logp"], rel=0.03)
        assert rough["logp"] != fine["logp"]


def test_inspect_and_status_know_the_artifact(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model)
    found = overview(open_artifact(tmp_path / "reference"))
    assert found["facts"] == {"n_responses": 18, "n_measured": 18}
    assert found["columns"]["logp"]["meaning"].startswith("summed natural log-probability")
    assert StatusChecker().check(tmp_path / "reference").state == "done"


def ref_logps_of(policy):
    return {
        (row["prompt_id"], row["sample_idx"]): row["ref_logp"]
        for row in rows_of(policy)
        if row["status"] == "ok"
    }


def logps_of(folder):
    return {(row["prompt_id"], row["sample_idx"]): row["logp"] for row in rows_of(folder)}


@pytest.mark.slow
def test_training_makes_its_own_reference_and_takes_a_given_one_alike(groups, model, tmp_path):
    training(groups, tmp_path / "own", model)
    measure(groups, tmp_path / "reference", model)
    said = []
    training(groups, tmp_path / "given", model, said, reference=tmp_path / "reference")
    assert any(f"the reference is {tmp_path / 'reference'}" in line for line in said)
    assert not (tmp_path / "given" / "reference").exists()
    assert digests_of(tmp_path / "own" / "reference") == digests_of(tmp_path / "reference")
    assert (
        open_artifact(tmp_path / "own").record.fingerprint
        == open_artifact(tmp_path / "given").record.fingerprint
    )
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("own", "given")]
    assert all(weights[1][name].equal(value) for name, value in weights[0].items())
    assert ref_logps_of(tmp_path / "given") == logps_of(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 5e-3},
        {"beta": 0.7},
        {"objective": "mmpo"},
        {"global_batch_size": 3},
        {"seed": 5},
        {"per_device_train_batch_size": 2},
        {"weight_decay": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_concern_the_reference_never_measures_it_again(
    groups, model, tmp_path, forwards, changes
):
    training(groups, tmp_path / "policy", model)
    before, n_made = identities_of(tmp_path / "policy" / "reference"), len(forwards)
    assert n_made >= 3
    assert len(before) == 3
    said = []
    training(groups, tmp_path / "policy", model, said, overwrite=True, **changes)
    assert identities_of(tmp_path / "policy" / "reference") == before
    assert any("reference: 3 of 3 parts are finished and kept" in line for line in said)
    looked = share_prompt_trials(said)
    assert len(forwards) - n_made <= looked


def share_prompt_trials(said):
    """Passes without gradients that are no reference: a model that is loaded is tried on two groups, packed and padded."""
    return 2 * sum("each prompt is computed once" in line for line in said)


@pytest.mark.slow
def test_another_objective_in_another_folder_takes_the_same_reference(
    groups, model, tmp_path, forwards
):
    measure(groups, tmp_path / "reference", model)
    for number, objective in enumerate(("dpo", "mmpo", "swepo")):
        n_made, said = len(forwards), []
        training(
            groups,
            tmp_path / f"policy{number}",
            model,
            said,
            objective=objective,
            reference=tmp_path / "reference",
        )
        assert len(forwards) - n_made <= share_prompt_trials(said)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "max_length", "reference_model"])
def test_what_concerns_the_reference_measures_it_again(groups, model, other, tmp_path, what):
    training(groups, tmp_path / "policy", model)
    before = logps_of(tmp_path / "policy" / "reference")
    said = []
    changes = {
        "max_length": {"max_length": 100},
        "reference_model": {"reference_model": "org/other", "files": other},
    }.get(what, {})
    start = other if what == "model" else model
    with pytest.raises(FingerprintError):
        training(groups, tmp_path / "policy", start, **changes)
    training(groups, tmp_path / "policy", start, said, overwrite=True, **changes)
    assert any("holds a different reference: it is computed again" in line for line in said)
    after = logps_of(tmp_path / "policy" / "reference")
    assert after.keys() == before.keys()
    assert (after != before) is (what != "max_length")


@pytest.mark.slow
def test_the_reference_of_an_adapter_is_itself_or_its_base(groups, model, adapter, tmp_path):
    shape = {"lora_r": 4, "lora_alpha": 8.0}
    training(groups, tmp_path / "itself", adapter, **shape)
    training(groups, tmp_path / "base", adapter, reference_model="base", **shape)
    measure(groups, tmp_path / "base-logps", model)
    measure(groups, tmp_path / "adapter-logps", adapter)
    assert logps_of(tmp_path / "base" / "reference") == logps_of(tmp_path / "base-logps")
    assert logps_of(tmp_path / "itself" / "reference") == logps_of(tmp_path / "adapter-logps")
    assert logps_of(tmp_path / "base-logps") != logps_of(tmp_path / "adapter-logps")
    fingerprints = {
        open_artifact(tmp_path / name).record.fingerprint for name in ("itself", "base")
    }
    assert len(fingerprints) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize(
    ("bf16", "dtype"), [(False, ["float32", "float32"]), (True, ["mixed", "bfloat16"])]
)
def test_a_policy_starts_at_its_reference(groups, model, tmp_path, lora_r, bf16, dtype):
    """The log-ratio of the first step is 0: reference and policy are measured in the same precision."""
    summary = training(
        groups, tmp_path / "policy", model, lora_r=lora_r, bf16=bf16, max_steps=1, beta=1.0
    )
    assert (
        open_artifact(tmp_path / "policy" / "reference").record.identity["dtype"]
        == dtype[bool(lora_r)]
    )
    assert summary.facts["first"]["loss"] == pytest.approx(math.log(2), abs=1e-2 if bf16 else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("bf16", [False, True])
def test_an_adapter_that_is_trained_further_starts_at_its_reference(
    groups, model, adapter, tmp_path, lora_r, bf16
):
    """Beside its base with LoRA, merged into it without: measured as the policy computes, to the last digit."""
    changes = {"lora_alpha": 8.0} if lora_r else {}
    training(
        groups,
        tmp_path / "policy",
        adapter,
        lora_r=lora_r,
        bf16=bf16,
        max_steps=1,
        beta=1.0,
        **changes,
    )
    record = open_artifact(tmp_path / "policy" / "reference").record
    assert ("merge_adapter" in record.identity) is (lora_r == 0)
    [row] = pq.read_table(tmp_path / "policy" / "metrics.parquet").to_pylist()
    assert row["loss"] == pytest.approx(
        math.log(2), abs=0 if not bf16 else 2e-3, rel=1e-7 if not bf16 else 0
    )


@pytest.mark.slow
def test_merging_an_adapter_is_part_of_what_its_reference_is(groups, model, adapter, tmp_path):
    measure(groups, tmp_path / "beside", adapter)
    measure(groups, tmp_path / "merged", adapter, merge_adapter=True)
    beside, merged = logps_of(tmp_path / "beside"), logps_of(tmp_path / "merged")
    assert merged == pytest.approx(beside, rel=1e-4)
    with pytest.raises(FingerprintError, match="merge_adapter"):
        measure(groups, tmp_path / "beside", adapter, merge_adapter=True)
    measure(groups, tmp_path / "plain", model)
    measure(
        groups, tmp_path / "plain", model, merge_adapter=True
    )  # a whole model has nothing to merge
    with pytest.raises(
        UsageError, match="--merge-adapter and --dtype nf4-float32 exclude each other"
    ):
        measure(groups, tmp_path / "x", adapter, merge_adapter=True, dtype="nf4-float32")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "template", "base"])
def test_status_sees_a_model_that_changed_since_it_was_measured(groups, tmp_path, what):
    path = make_tiny_causal_lm(tmp_path / "model")
    if what == "base":
        base, path = path, make_tiny_adapter(tmp_path / "adapter", path)
    measured = inspect_model(path, str(path))
    measure(groups, tmp_path / "reference", measured)
    assert StatusChecker().check(tmp_path / "reference").state == "done"
    if what == "template":
        (path / "chat_template.jinja").write_text("{{ messages }}")
    else:
        make_tiny_causal_lm(base if what == "base" else path, seed=5)
    report = StatusChecker().check(tmp_path / "reference")
    assert report.state == "stale"
    assert report.reasons == [
        f"its model, {path}, has changed since: it has other weights, tokenizer or template"
    ]
    assert report.to_make == [0, 1, 2]


@pytest.mark.slow
def test_status_sees_a_policy_whose_tokenizer_made_the_ids_and_changed(groups, model, tmp_path):
    """The reference is another model, which keeps its own; the policy's words count."""
    policy = make_tiny_causal_lm(tmp_path / "policy-model")
    other = make_tiny_causal_lm(tmp_path / "reference-model", seed=1)
    files = [inspect_model(path, str(path)) for path in (policy, other)]
    training(groups, tmp_path / "run", files[0], reference_model=str(other), files=files[1])
    assert StatusChecker().check(tmp_path / "run" / "reference").state == "done"
    (other / "chat_template.jinja").write_text("{{ messages }}")  # whose template made nothing
    make_tiny_causal_lm(policy, seed=7)  # whose weights were not measured
    assert StatusChecker().check(tmp_path / "run" / "reference").state == "done"
    (policy / "chat_template.jinja").write_text("{{ messages }}")
    report = StatusChecker().check(tmp_path / "run" / "reference")
    assert (report.state, report.reasons[0].split(",")[1].strip()) == ("stale", str(policy))


def test_base_of_a_model_that_is_trained_whole_is_a_mistake(groups, model, tmp_path):
    with pytest.raises(UsageError, match="--reference-model base: org/tiny is not an adapter"):
        training(groups, tmp_path / "policy", model, reference_model="base")
    assert not (tmp_path / "policy").exists()


def test_both_ways_to_name_a_reference_exclude_each_other(groups, model, tmp_path):
    with pytest.raises(UsageError, match="--reference and --reference-model exclude each other"):
        training(
            groups,
            tmp_path / "policy",
            model,
            reference=tmp_path / "reference",
            reference_model="base",
        )


def test_a_reference_of_other_groups_is_refused_by_name(groups, model, tmp_path):
    others = write_groups(tmp_path / "others", parts(), [model.identity()], note="another margin")
    measure(others, tmp_path / "reference", model)
    with pytest.raises(
        InputError,
        match=r"(?s)was not made for .*note: \"another margin\" there, \"select\" here",
    ):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")


def test_a_reference_of_an_earlier_version_of_a_part_is_refused(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model)
    (groups / "part-00001-of-00003.parquet").unlink()
    write_groups(
        groups,
        [None, [row_of("new", i, text) for i, text in enumerate(ANSWERS)], None],
        [model.identity()],
    )
    with pytest.raises(
        InputError, match=r"part-00001-of-00003\.parquet was made from another version of"
    ):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")


def test_a_reference_of_another_length_or_truncation_is_refused(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model, max_length=64)
    with pytest.raises(UsageError, match="was made with --max-length 64, and this run has 2048"):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")
    with pytest.raises(
        UsageError, match="leaves out longer responses, and this run truncates them"
    ):
        training(
            groups,
            tmp_path / "policy",
            model,
            reference=tmp_path / "reference",
            max_length=64,
            on_too_long="truncate",
        )


def test_a_reference_with_other_token_counts_is_refused(groups, model, tmp_path):
    """Nothing that the tool makes looks like this: a part that somebody else wrote under the same names."""
    measure(groups, tmp_path / "reference", model)
    artifact = open_artifact(tmp_path / "reference")
    table, footer = artifact.read(0)
    rows = table.to_pylist()
    rows[0]["n_tokens"] += 1
    artifact.part_path(0).unlink()
    output = open_output(tmp_path / "reference", artifact.record, shard=Shard(), overwrite=False)
    output.write(
        0,
        pa.Table.from_pylist(rows, schema=table.schema),
        counts=footer.counts,
        parents=footer.parents,
    )
    with pytest.raises(InputError, match="is a sum over 8 tokens, but the response has 7"):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")


def test_a_reference_that_lacks_parts_is_refused(groups, model, tmp_path):
    measure(groups, tmp_path / "reference", model)
    (tmp_path / "reference" / "part-00002-of-00003.parquet").unlink()
    with pytest.raises(
        IncompleteInputError, match="reference is incomplete: 1 of 3 parts are missing"
    ):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")


def test_a_reference_of_another_tokenizer_is_refused(groups, model, tmp_path, folders):
    path = make_tiny_causal_lm(folders / "renamed", seed=2)
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(path)
    renamed = inspect_model(path, "org/renamed")
    measure(groups, tmp_path / "reference", renamed)
    with pytest.raises(UsageError, match="was not made with the tokenizer of org/tiny"):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "reference")
    with pytest.raises(
        UsageError, match="the reference org/renamed does not have the tokenizer of org/tiny"
    ):
        training(groups, tmp_path / "policy", model, reference_model="org/renamed", files=renamed)


@pytest.mark.slow
def test_a_reference_with_another_chat_template_measures_the_policys_own_tokens(
    groups, model, tmp_path, folders
):
    path = make_tiny_causal_lm(folders / "untemplated", seed=2)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(path)
    plain = inspect_model(path, "org/untemplated")
    training(groups, tmp_path / "policy", model, reference_model="org/untemplated", files=plain)
    first = rows_of(groups)[0]
    expected = sum(exact(path, first["prompt_token_ids"], first["response_token_ids"]))
    assert rows_of(tmp_path / "policy")[0]["ref_logp"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_run_of_a_reference_that_was_stopped_goes_on_part_by_part(groups, model, tmp_path):
    training(groups, tmp_path / "straight", model)
    asked = chain([False], repeat(True))
    config = TrainConfig(
        groups=groups,
        output=tmp_path / "stopped",
        model="org/tiny",
        learning_rate=1e-3,
        global_batch_size=2,
        max_steps=2,
        report_to=("none",),
        objective="dpo",
    )
    with pytest.raises(StoppedEarly, match="stopped on request: 1 parts made now, 2 left"):
        train.run(config, model, Runtime(should_stop=lambda: next(asked)))
    first = identities_of(tmp_path / "stopped" / "reference")
    assert len(first) == 1
    train.run(config, model, Runtime())
    assert first.items() <= identities_of(tmp_path / "stopped" / "reference").items()
    straight, stopped = (
        load_file(tmp_path / name / "model.safetensors") for name in ("straight", "stopped")
    )
    assert all(stopped[name].equal(value) for name, value in straight.items())


def candidates_of(folder, model):
    """Four responses to one prompt: two that differ, one of nothing but its end, one that failed."""
    rows = [row_of("p0", j, text) for j, text in enumerate([*ANSWERS[:2], ""])]
    failed = row_of(
        "p0",
        3,
        "x",
        response=None,
        response_token_ids=None,
        prompt_token_ids=None,
        status="error",
        finish_reason="error",
    )
    own = [{name: row.get(name) for name in CANDIDATES.column_names} for row in (*rows, failed)]
    identity = {"stage": "generate", "models": [model.identity()]}
    output = open_output(
        folder, RunRecord("generate", CANDIDATES.tag, 1, identity), shard=Shard(), overwrite=False
    )
    output.write(
        0, pa.Table.from_pylist(own, schema=CANDIDATES.arrow()), counts={"ok": 4}, parents={}
    )
    return folder, rows


def test_candidates_are_measured_as_groups_are(tmp_path, model, other):
    """Every response that was written, whatever was selected; a failed one has no row."""
    folder, rows = candidates_of(tmp_path / "candidates", model)
    measure(folder, tmp_path / "out", other)
    found = {row["sample_idx"]: row for row in rows_of(tmp_path / "out")}
    assert sorted(found) == [0, 1, 2]
    for row in rows:
        token_logps = exact(other.path, row["prompt_token_ids"], row["response_token_ids"])
        assert found[row["sample_idx"]]["logp"] == pytest.approx(sum(token_logps), abs=1e-4)
        assert found[row["sample_idx"]]["n_tokens"] == len(token_logps)
    assert StatusChecker().check(tmp_path / "out").state == "done"


def test_training_takes_no_logprobs_of_candidates(tmp_path, model, groups):
    folder, _ = candidates_of(tmp_path / "candidates", model)
    measure(folder, tmp_path / "out", model)
    with pytest.raises(
        InputError,
        match="was made for candidates, and training needs the log-probabilities of its groups",
    ):
        training(groups, tmp_path / "policy", model, reference=tmp_path / "out")

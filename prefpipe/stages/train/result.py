"""A training run's result on disk: the model, the record of every response, and the summary.

The model of an intermediate step (``--keep-step``) has the same files, in its own folder.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.atomic import atomic_folder
from prefpipe.artifacts.store import Output
from prefpipe.artifacts.summary_file import SUMMARY_FILE, write_summary
from prefpipe.artifacts.training_folders import KEPT_STEP, kept_step_folder
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared.candidate_rows import Row, count_by_status
from prefpipe.stages.shared.partwise import Summary
from prefpipe.stages.train.earlier_run import holds_model
from prefpipe.stages.train.inputs import TrainInputs
from prefpipe.stages.train.kept_steps import refuse_steps_gone_by, steps_of_finished_run
from prefpipe.stages.train.training import TrainResult
from prefpipe.stages.train.training_data import TrainingData
from prefpipe.training.early_stopping import describe_evaluation
from prefpipe.training.measures import describe_calibration, describe_progress
from prefpipe.training.ranks import from_first, leave, processes
from prefpipe.training.tables import POLICY

CARD_FIGURES = ("objective", "knobs", "learning_rate", "n_groups", "n_steps")
"""What the model card says of the run."""


def find_result(inputs: TrainInputs, runtime: Runtime) -> Summary | None:
    """Return what an earlier run of the same inputs has finished, None if it has not.

    Raises:
        UsageError: it is finished without the model of a step to keep.
    """
    folder = inputs.output.folder
    is_done = (
        inputs.output.is_done(0, inputs.parents)
        and (folder / SUMMARY_FILE).exists()
        and holds_model(folder, runtime.log)
    )
    # All processes go the way of the first: another may see the folder a moment later.
    if not from_first(is_done):
        return None

    refuse_steps_gone_by(folder, inputs.settings, steps_of_finished_run(folder))
    noun = "reward model" if inputs.start.target == "reward" else "policy"
    runtime.log(f"{folder}: the {noun} is trained and kept")
    figures: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    summary = Summary(inputs.output.record.stage, folder, n_parts_kept=1, facts=figures)
    summary.counts.update(inputs.output.footer(0).counts)
    return summary


def write_result(inputs: TrainInputs, result: TrainResult) -> Summary:
    """Save the model, then the row of every response, then the summary.

    The model may be consumed.

    Other processes than the first wait until it has written.
    """
    folder, figures = inputs.output.folder, result.figures
    summary = Summary(inputs.output.record.stage, folder, n_parts_made=1, facts=figures)
    if processes().is_main_process:
        summary.counts.update(_write(inputs.output, inputs.parents, result))
    leave()

    summary.notes += [describe_progress(figures), *describe_evaluation(figures["evaluation"])]
    if "calibration" in figures:
        summary.notes.append(describe_calibration(figures["calibration"]))
    return summary


def keep_step(inputs: TrainInputs, result: TrainResult) -> None:
    """Write the model of an intermediate step, completely or not at all; replace an earlier one.

    The first process writes; the others continue and wait for it later.
    """
    if not processes().is_main_process:
        return
    step = result.figures["n_steps"]
    with atomic_folder(kept_step_folder(inputs.output.folder, step), overwrite=True) as folder:
        record = inputs.output.record
        record = replace(record, context={**record.context, KEPT_STEP: step})
        record.replace_in(folder)
        output = replace(inputs.output, path=folder, record=record)
        _write(output, inputs.parents, result, trains_on=True)


def _write(
    output: Output, parents: Mapping[str, str], result: TrainResult, *, trains_on: bool = False
) -> dict[str, int]:
    """Write a model, its rows and its summary into an open folder, and return rows by status."""
    card = {name: result.figures[name] for name in CARD_FIGURES}
    if result.best_step is not None:
        card["saved_step"] = result.best_step
    result.trainable.save(result.policy, output.folder, card, result.weights, trains_on=trains_on)

    rows = policy_rows(result.data)
    counts = count_by_status(rows)
    table = pa.Table.from_pylist(rows, schema=POLICY.arrow())
    output.write(0, table, counts=counts, parents=parents)
    # Last of all, for `find_result` takes a run without it for unfinished.
    write_summary(output.path, result.figures)
    return counts


def policy_rows(data: TrainingData) -> list[Row]:
    """Return one row of ``POLICY`` for every row of the groups that were trained on."""
    lengths: dict[tuple[str, int], int] = {}
    for group in [*data.groups, *data.eval_groups]:
        for response in group.responses:
            lengths[group.prompt_id, response.sample_idx] = len(response.token_ids)

    rows = []
    for row in data.rows:
        key = row["prompt_id"], row["sample_idx"]
        # a prompt that select rejected has no response, and keeps what select said of it
        status, reason = data.statuses.get(key, (row["status"], row["reason"]))
        ref_logp, _ = data.ref_logps.get(key, (None, 0))
        rows.append(
            {
                "prompt_id": row["prompt_id"],
                "sample_idx": row["sample_idx"],
                "role": row["role"],
                "reward": row["reward"],
                "n_tokens": lengths.get(key, 0),
                "ref_logp": ref_logp,
                "status": status,
                "reason": reason,
            }
        )
    return rows

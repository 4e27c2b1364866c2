"""What a run asked its judge and what that cost, for the summary."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefpipe.artifacts.interchange.judge_batch import write_batch
from prefpipe.backends.judges.judge_desk import JudgeDesk
from prefpipe.configs.judging import JudgingConfig
from prefpipe.stages.shared.runtime import Summary
from prefpipe.text.control_text import note_on_server


def write_open_questions(judges: Iterable[Any], path: Path, summary: Summary) -> None:
    """Write what nobody has answered yet as a batch, for all judges that are language models."""
    desks = [judge.desk for judge in judges if isinstance(getattr(judge, "desk", None), JudgeDesk)]
    questions = {key: body for desk in desks for key, body in desk.open_questions.items()}
    files = write_batch(path, questions.values())
    summary.notes.append(
        f"{len(questions):,} requests are in {', '.join(map(str, files))}; all others are answered already"
    )
    summary.notes.append("run the batch, then pass its output with --ingest-batch")
    summary.facts |= {"n_requests": len(questions), "files": [str(file) for file in files]}


def facts_of_spending(summary: Summary, judge: Any, config: JudgingConfig) -> None:
    """Add a line and figures on what was asked now; nothing for a judge that is no language model."""
    desk = getattr(judge, "desk", None)
    if not isinstance(desk, JudgeDesk):
        return
    spent = desk.spending
    facts: dict[str, Any] = {
        "n_answered_now": spent.n_asked,
        "n_answered_before": spent.n_from_cache,
        "n_prompt_tokens_now": spent.n_prompt_tokens,
        "n_completion_tokens_now": spent.n_completion_tokens,
    }
    what = "answers taken from the batch" if desk.mode == "ingest" else "questions asked now"
    line = (
        f"judge: {spent.n_asked:,} {what} ({spent.n_prompt_tokens:,} prompt and {spent.n_completion_tokens:,} "
        f"answer tokens), {spent.n_from_cache:,} answered before"
    )
    if config.price_in is not None and config.price_out is not None:
        facts["cost_now"] = spent.cost(config.price_in, config.price_out)
        line += f"; cost now {facts['cost_now']:.4f}"
    if spent.n_uncounted:
        line += f"; {spent.n_uncounted:,} answers came without a token count"
        facts["n_uncounted"] = spent.n_uncounted
    if desk.left_out:
        facts["sampled_without"] = desk.left_out
    summary.facts |= facts
    summary.notes.append(line)
    summary.notes += note_on_server(len(desk.spelling_control_tokens), "questions")
    strangers = len(desk.batch.answers) - len(desk.used_of_batch) if desk.mode == "ingest" else 0
    if strangers:
        none = (
            "; none does: was the batch emitted with this judge, prompt and verdict?"
            if not desk.used_of_batch
            else ""
        )
        summary.notes.append(
            f"{strangers:,} answers of the batch belong to no question that was open in this run{none}"
        )

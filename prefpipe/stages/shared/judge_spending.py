"""What a run asked its judge and what that cost, for the summary."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefpipe.artifacts.interchange.judge_batch import write_batch
from prefpipe.backends.judges.answers import Body, JudgeAnswers
from prefpipe.configs.judging import JudgingConfig
from prefpipe.stages.shared.runtime import Summary
from prefpipe.text.control_text import note_on_server


def write_open_questions(judges: Iterable[Any], path: Path, summary: Summary) -> None:
    """Write what nobody has answered yet as a batch, for all judges that are language models."""
    questions: dict[str, Body] = {}
    for judge in judges:
        answers = getattr(judge, "answers", None)
        if isinstance(answers, JudgeAnswers):
            questions |= answers.open_questions
    files = write_batch(path, questions.values())
    summary.notes.append(
        f"{len(questions):,} requests are in {', '.join(map(str, files))}; all others are answered already"
    )
    summary.notes.append("run the batch, then pass its output with --ingest-batch")
    summary.facts |= {"n_requests": len(questions), "files": [str(file) for file in files]}


def facts_of_spending(summary: Summary, judge: Any, config: JudgingConfig) -> None:
    """Add a line and figures on what was asked now; nothing for a judge that is no language model."""
    answers = getattr(judge, "answers", None)
    if not isinstance(answers, JudgeAnswers):
        return
    spent = answers.spending
    facts: dict[str, Any] = {
        "n_answered_now": spent.n_asked,
        "n_answered_before": spent.n_from_cache,
        "n_prompt_tokens_now": spent.n_prompt_tokens,
        "n_completion_tokens_now": spent.n_completion_tokens,
    }
    what = "answers taken from the batch" if answers.mode == "ingest" else "questions asked now"
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
    if answers.left_out:
        facts["sampled_without"] = answers.left_out
    summary.facts |= facts
    summary.notes.append(line)
    summary.notes += note_on_server(len(answers.spelling_control_tokens), "questions")
    strangers = (
        len(answers.batch.answers) - len(answers.used_of_batch) if answers.mode == "ingest" else 0
    )
    if strangers:
        none = (
            "; none does: was the batch emitted with this judge, prompt and verdict?"
            if not answers.used_of_batch
            else ""
        )
        summary.notes.append(
            f"{strangers:,} answers of the batch belong to no question that was open in this run{none}"
        )

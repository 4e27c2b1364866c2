"""What a run asked its judge and what that cost, for the summary."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefpipe.artifacts.interchange.judge_batch import write_batch
from prefpipe.backends.judges.answers import Body, JudgeAnswers
from prefpipe.configs.judging import JudgingConfig
from prefpipe.stages.shared.partwise import Summary
from prefpipe.text.control_text import note_on_server


def write_open_questions(judges: Iterable[Any], path: Path, summary: Summary) -> None:
    """Write what nobody has answered yet as a batch, for all judges that are language models."""
    # By key: what two judges would ask alike is in the batch once.
    questions: dict[str, Body] = {}
    for judge in judges:
        answers = getattr(judge, "answers", None)
        if isinstance(answers, JudgeAnswers):
            questions |= answers.open_questions

    files = write_batch(path, questions.values())
    names = ", ".join(map(str, files))
    summary.notes.append(
        f"{len(questions):,} requests are in {names}; all others are answered already"
    )
    summary.notes.append("run the batch, then pass its output with --ingest-batch")
    summary.facts |= {"n_requests": len(questions), "files": [str(file) for file in files]}


def facts_of_spending(summary: Summary, judge: Any, config: JudgingConfig) -> None:
    """Add a line and figures on what was asked now.

    Of a judge that is no language model there is nothing to add.
    """
    answers = getattr(judge, "answers", None)
    if not isinstance(answers, JudgeAnswers):
        return

    spent = answers.spending
    source = "answers taken from the batch" if answers.mode == "ingest" else "questions asked now"
    line = (
        f"judge: {spent.n_asked:,} {source} ({spent.n_prompt_tokens:,} prompt and "
        f"{spent.n_completion_tokens:,} answer tokens), {spent.n_from_cache:,} answered before"
    )
    summary.facts |= {
        "n_answered_now": spent.n_asked,
        "n_answered_before": spent.n_from_cache,
        "n_prompt_tokens_now": spent.n_prompt_tokens,
        "n_completion_tokens_now": spent.n_completion_tokens,
    }

    if config.price_in is not None and config.price_out is not None:
        cost = spent.cost(config.price_in, config.price_out)
        summary.facts["cost_now"] = cost
        line += f"; cost now {cost:.4f}"

    if spent.n_uncounted:
        summary.facts["n_uncounted"] = spent.n_uncounted
        line += f"; {spent.n_uncounted:,} answers came without a token count"
    if answers.left_out:
        summary.facts["sampled_without"] = answers.left_out

    summary.notes.append(line)
    summary.notes += note_on_server(len(answers.spelling_control_tokens), "questions")
    if answers.mode == "ingest":
        summary.notes += _notes_on_unused_answers(answers)


def _notes_on_unused_answers(answers: JudgeAnswers) -> list[str]:
    """Return how many answers of a batch are to questions that this run did not ask."""
    n_unused = len(answers.batch.answers) - len(answers.used_of_batch)
    if not n_unused:
        return []
    line = f"{n_unused:,} answers of the batch belong to no question that was open in this run"
    if not answers.used_of_batch:
        line += "; none does: was the batch emitted with this judge, prompt and verdict?"
    return [line]

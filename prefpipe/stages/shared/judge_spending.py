"""What a run asked its judge and what that cost, for the summary."""

from collections.abc import Iterable, Mapping
from typing import Any

from prefpipe.artifacts.interchange.judge_batch import read_batch_answers, write_batch
from prefpipe.artifacts.storage.location import Location
from prefpipe.backends.judges.answers import (
    N_ASKED,
    N_COMPLETION_TOKENS,
    N_FROM_CACHE,
    N_OF_BATCH,
    N_PROMPT_TOKENS,
    N_QUESTIONS,
    N_SPELLING,
    N_UNCOUNTED,
    SAMPLED_WITHOUT,
    Body,
    JudgeAnswers,
)
from prefpipe.configs.judging import JudgingConfig
from prefpipe.stages.shared.partwise import Summary
from prefpipe.text.control_text import note_on_server


def write_open_questions(judges: Iterable[Any], place: Location, summary: Summary) -> None:
    """Write the open questions as a batch, for all judges that are language models."""
    # By key: what two judges would ask alike is in the batch once.
    questions: dict[str, Body] = {}
    for judge in judges:
        answers = getattr(judge, "answers", None)
        if isinstance(answers, JudgeAnswers):
            questions |= answers.open_questions

    files = write_batch(place, questions.values())
    names = ", ".join(map(str, files))
    summary.notes.append(
        f"{len(questions):,} requests are in {names}; all others already have answers"
    )
    summary.notes.append("run the batch, then pass its output with --ingest-batch")
    summary.facts |= {"n_requests": len(questions), "files": [str(file) for file in files]}


def facts_of_spending(summary: Summary, tally: Mapping[str, float], config: JudgingConfig) -> None:
    """Add a line and figures on the questions asked in this call.

    Args:
        summary: gets them; nothing where no question was asked: the judge is no language model, or
            no part was made.
        tally: the sum of what the judge counted.
        config: the stage's knobs.
    """
    if N_QUESTIONS not in tally:
        return

    def count(name: str) -> int:
        return int(tally.get(name, 0))

    source = "questions asked now"
    if config.answers_mode == "ingest":
        source = "answers taken from the batch"
    line = (
        f"judge: {count(N_ASKED):,} {source} ({count(N_PROMPT_TOKENS):,} prompt and "
        f"{count(N_COMPLETION_TOKENS):,} answer tokens), {count(N_FROM_CACHE):,} answered before"
    )
    summary.facts |= {
        "n_answered_now": count(N_ASKED),
        "n_answered_before": count(N_FROM_CACHE),
        "n_prompt_tokens_now": count(N_PROMPT_TOKENS),
        "n_completion_tokens_now": count(N_COMPLETION_TOKENS),
    }

    if config.price_in is not None and config.price_out is not None:
        price_of_prompts = count(N_PROMPT_TOKENS) * config.price_in
        price_of_answers = count(N_COMPLETION_TOKENS) * config.price_out
        cost = (price_of_prompts + price_of_answers) / 1e6
        summary.facts["cost_now"] = cost
        line += f"; cost now {cost:.4f}"

    if count(N_UNCOUNTED):
        summary.facts["n_uncounted"] = count(N_UNCOUNTED)
        line += f"; {count(N_UNCOUNTED):,} answers had no token count"
    left_out = [
        name.removeprefix(SAMPLED_WITHOUT) for name in tally if name.startswith(SAMPLED_WITHOUT)
    ]
    if left_out:
        summary.facts["sampled_without"] = left_out

    summary.notes.append(line)
    summary.notes += note_on_server(count(N_SPELLING), "questions")
    if config.answers_mode == "ingest":
        summary.notes += _notes_on_unused_answers(config, count(N_OF_BATCH))


def _notes_on_unused_answers(config: JudgingConfig, n_used: int) -> list[str]:
    """Return how many answers of a batch are to questions that this run did not ask."""
    n_unused = len(read_batch_answers(config.ingest_batch).answers) - n_used
    if not n_unused:
        return []
    line = f"{n_unused:,} answers of the batch match no open question of this run"
    if not n_used:
        line += (
            "; none matches: check that the batch was emitted with the same judge, prompt "
            "and verdict"
        )
    return [line]

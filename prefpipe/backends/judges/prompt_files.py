"""Reads judge prompts: prefpipe's own, by name, or the user's files."""

from importlib import resources

from prefpipe.artifacts.storage.local_copies import local_copy
from prefpipe.artifacts.storage.location import parse_location
from prefpipe.errors import UsageError
from prefpipe.text.judging.judge_prompt import SHIPPED, JudgePrompt, Kind, template_problems

FOLDER = "judge_prompts"


def read_judge_prompt(reference: str, kind: Kind) -> JudgePrompt:
    """Return a checked template by its shipped name (``pairwise-v1``) or from a file.

    Raises:
        UsageError: no such file, a name of the other kind, or a missing or unknown placeholder.
    """
    names = ", ".join(name for name, shipped_kind in SHIPPED.items() if shipped_kind == kind)
    if reference in SHIPPED:
        if SHIPPED[reference] != kind:
            raise UsageError(
                f"--judge-prompt {reference} is a {SHIPPED[reference]} prompt, and this "
                f"judge needs a {kind} prompt",
                hint=f"pass --judge-prompt {names}, or your own file",
            )
        file = resources.files("prefpipe.text.judging").joinpath(FOLDER, f"{reference}.txt")
        return JudgePrompt(reference, file.read_text(encoding="utf-8"), kind)

    try:
        with local_copy(parse_location(reference)) as local:
            text = local.path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--judge-prompt {reference} cannot be read: {error}",
            hint=f"pass a text file, or one of {names}",
        ) from error
    problems = template_problems(text, kind)
    if problems:
        raise UsageError(
            f"--judge-prompt {reference}: {'; '.join(problems)}",
            hint="correct the file; docs/guides/judging.md lists the placeholders",
        )
    return JudgePrompt(reference, text, kind)

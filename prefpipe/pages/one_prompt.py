"""One prompt and its candidates as a page for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from prefpipe.text.numbers import figure
from prefpipe.text.tool_turns import readable_turns
from prefpipe.text.untrusted import visible, visible_line

LINES_SHOWN = 6
LONGEST_LINE = 100
SAMPLES_SHOWN = 8
INDENT = "      "
GLUE = "\N{NO-BREAK SPACE}"
ROLE_STYLES = {"positive": "bold green", "negative": "bold red"}


def one_prompt_page(
    prompt: Mapping[str, Any], *, width: int, full: bool
) -> Iterator[RenderableType]:
    """Yield the page of a prompt: the conversation, then the candidates as they rank.

    Args:
        prompt: what `prefpipe.stages.inspect.one_prompt.one_prompt` returned.
        width: columns of the terminal.
        full: show whole texts instead of their first lines.
    """
    yield heading(prompt)
    for role, text in readable_turns(prompt["messages"]):
        yield Text(f"\n  {visible_line(role)}", style="bold")
        yield body(text, width, full=full)

    ranked_by = "not rated"
    if prompt["ranked_by"]:
        ranked_by = f"ranked by {visible_line(prompt['ranked_by'], 200)}"
    yield Text(f"\n{prompt['n_candidates']} candidates, {ranked_by}", style="bold")

    for entry in prompt["candidates"]:
        yield Text()
        yield _candidate_line(entry, width)
        if entry["response"] is not None:
            yield body(entry["response"], width, full=full)


def heading(prompt: Mapping[str, Any]) -> Text:
    """Return the prompt's id, its part, and what select made of it."""
    text = Text()
    text.append(f"prompt {visible(prompt['prompt_id'])}", style="bold")
    text.append(f"   part {prompt['part']}")

    group = prompt["group"]
    if group is None:
        return text
    if group["status"] == "ok":
        sizes = f"{group['n_positives']} positive + {group['n_negatives']} negative"
        text.append(f"   {group['strategy']}: {sizes}")
    else:
        status, reason = visible_line(group["status"]), visible_line(str(group["reason"]), 400)
        text.append(f"\nrejected by select, {status}: {reason}")
    return text


def body(content: str, width: int, *, full: bool) -> Text:
    """Return a text wrapped and indented.

    Without ``full`` its first ``LINES_SHOWN`` lines, and how many characters it has.
    """
    room = max(20, min(LONGEST_LINE, width - len(INDENT)))
    # What cannot be shown anyway is not wrapped: a response may have 100,000 characters.
    wrapped = content if full else content[: room * LINES_SHOWN * 4]
    lines = []
    for line in visible(wrapped).split("\n"):
        lines += textwrap.wrap(line, room, drop_whitespace=False) or [""]
    shown = lines if full else lines[:LINES_SHOWN]

    text = Text(no_wrap=False)
    text.append("\n".join(INDENT + line.rstrip() for line in shown))
    if len(shown) < len(lines) or len(wrapped) < len(content):
        rest = f"... {len(content):,} characters in all, --full shows them"
        text.append(f"\n{INDENT}{rest}", style="dim")
    if not content:
        text.append("(no text)", style="dim")
    return text


def _candidate_line(entry: Mapping[str, Any], width: int) -> Text:
    """Return the line above a response: rank, reward, role, sample, and whatever is unusual."""
    rank = "-" if entry["rank"] is None else entry["rank"]
    reward = "no reward" if entry["reward"] is None else figure(entry["reward"])
    role = entry["role"] or ""
    text = Text(f"{rank:>4}  {reward:<9}  ", style="bold")
    text.append(f"{role:<8}", style=ROLE_STYLES.get(role, ""))

    # Lines break between details, not within one that fits into a line.
    sample = f"  #{entry['sample_idx']:<3}  "
    room = max(20, width - len(text) - len(sample))
    details = []
    for detail in _details(entry):
        fits = len(detail) <= room
        details.append(detail.replace(" ", GLUE) if fits else detail)
    lines = [line.replace(GLUE, " ") for line in textwrap.wrap("   ".join(details), room)]
    line_start = "\n" + " " * (len(text) + len(sample))
    text.append(sample + line_start.join(lines), style="not bold")

    problems = [f"{name}: {problem}" for name, problem in entry["score_problems"].items()]
    if entry["status"] not in ("ok", "truncated"):
        problems.append(f"{entry['status']}: {entry['reason']}")
    for problem in problems:
        line = visible_line(problem, max(40, width - len(INDENT)))
        text.append(f"\n{INDENT}{line}", style="not bold yellow")
    return text


def _details(entry: Mapping[str, Any]) -> Iterator[str]:
    n_tokens = entry["n_response_tokens"]
    yield "no tokens" if n_tokens is None else f"{n_tokens} tokens"
    yield f"finish {visible_line(str(entry['finish_reason']))}"
    yield visible_line(entry["status"])
    # With one scorer the score is the reward, more often than not.
    if len(entry["scores"]) > 1:
        for name, value in entry["scores"].items():
            yield f"{visible_line(name)} {'-' if value is None else figure(value)}"
    if entry["duplicate_of"] is not None:
        yield f"same text as #{entry['duplicate_of']}"
    yield from selection_details(entry)


def selection_details(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield what select made of a kept candidate.

    That is whom it stands for, what that is worth, its cluster, and its pairs; before that, of
    which earlier round it is.
    """
    if entry.get("earlier"):
        yield f"#{entry['earlier_sample_idx']} of earlier round {entry['earlier']}"
    represents = entry["represents"]
    if represents is not None:
        is_alone = represents == [entry["sample_idx"]]
        yield "stands for itself" if is_alone else f"stands for {listed(represents)}"
    if entry["marginal_gain"] is not None:
        yield f"marginal gain {figure(entry['marginal_gain'])}"
    if entry["cluster"] is not None:
        yield f"cluster {entry['cluster']}"
    if entry["beats"]:
        samples = [pair["sample_idx"] for pair in entry["beats"]]
        margins = [pair["margin"] for pair in entry["beats"]]
        yield f"beats {listed(samples, margins)}"
    if entry["beaten_by"]:
        yield f"beaten by {listed([pair['sample_idx'] for pair in entry['beaten_by']])}"


def listed(samples: Sequence[int], margins: Sequence[float] | None = None) -> str:
    """Return ``#3 #7 #9``, or ``#3 by 0.5 #7 by 1`` with margins.

    At most ``SAMPLES_SHOWN``, then how many more.
    """
    shown = []
    for place, sample_idx in enumerate(samples[:SAMPLES_SHOWN]):
        margin = "" if margins is None else f" by {figure(margins[place])}"
        shown.append(f"#{sample_idx}{margin}")

    n_more = len(samples) - SAMPLES_SHOWN
    more = f" and {n_more} more" if n_more > 0 else ""
    return " ".join(shown) + more

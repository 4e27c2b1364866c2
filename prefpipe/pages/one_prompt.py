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
    found: Mapping[str, Any], *, width: int, full: bool
) -> Iterator[RenderableType]:
    """Yield the page of ``one_prompt``: the conversation, then the candidates as they rank.

    Args:
        found: what ``one_prompt`` returned.
        width: columns of the terminal.
        full: show whole texts instead of their first lines.
    """
    yield heading(found)
    for role, text in readable_turns(found["messages"]):
        yield Text(f"\n  {visible_line(role)}", style="bold")
        yield body(text, width, full=full)
    by = found["ranked_by"]
    title = f"\n{found['n_candidates']} candidates" + (
        f", ranked by {visible_line(by, 200)}" if by else ", not rated"
    )
    yield Text(title, style="bold")
    for entry in found["candidates"]:
        yield Text()
        yield _line(entry, width)
        if entry["response"] is not None:
            yield body(entry["response"], width, full=full)


def heading(found: Mapping[str, Any]) -> Text:
    """Return the prompt's id, its part, and what select made of it."""
    text = Text()
    text.append(f"prompt {visible(found['prompt_id'])}", style="bold")
    text.append(f"   part {found['part']}")
    group = found["group"]
    if group is None:
        return text
    if group["status"] == "ok":
        text.append(
            f"   {group['strategy']}: {group['n_positives']} positive + {group['n_negatives']} negative"
        )
    else:
        text.append(
            f"\nrejected by select, {visible_line(group['status'])}: {visible_line(str(group['reason']), 400)}"
        )
    return text


def _line(entry: Mapping[str, Any], width: int) -> Text:
    """Return the line above a response: rank, reward, role, sample, length, and whatever is unusual."""
    rank, role = entry["rank"], entry["role"] or ""
    reward = "no reward" if entry["reward"] is None else figure(entry["reward"])
    text = Text(f"{'-' if rank is None else rank:>4}  {reward:<9}  ", style="bold")
    text.append(f"{role:<8}", style=ROLE_STYLES.get(role, ""))
    head = f"  #{entry['sample_idx']:<3}  "
    room = max(20, width - len(text) - len(head))
    # lines break between details, not within one that fits into a line
    whole = [
        detail.replace(" ", GLUE) if len(detail) <= room else detail for detail in _details(entry)
    ]
    lines = [line.replace(GLUE, " ") for line in textwrap.wrap("   ".join(whole), room)]
    text.append(head + f"\n{' ' * (len(text) + len(head))}".join(lines), style="not bold")
    problems = [f"{name}: {told}" for name, told in entry["score_problems"].items()]
    if entry["status"] not in ("ok", "truncated"):
        problems.append(f"{entry['status']}: {entry['reason']}")
    for problem in problems:
        text.append(
            f"\n{INDENT}{visible_line(problem, max(40, width - len(INDENT)))}",
            style="not bold yellow",
        )
    return text


def _details(entry: Mapping[str, Any]) -> Iterator[str]:
    n_tokens = entry["n_response_tokens"]
    yield "no tokens" if n_tokens is None else f"{n_tokens} tokens"
    yield f"finish {visible_line(str(entry['finish_reason']))}"
    yield visible_line(entry["status"])
    if len(entry["scores"]) > 1:
        yield from (
            f"{visible_line(name)} {'-' if value is None else figure(value)}"
            for name, value in entry["scores"].items()
        )
    if entry["duplicate_of"] is not None:
        yield f"same text as #{entry['duplicate_of']}"
    yield from worth_knowing(entry)


def worth_knowing(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield what select made of a kept candidate: whom it stands for, what that is worth, its cluster, its pairs."""
    represents = entry["represents"]
    if represents is not None:
        yield (
            "stands for itself"
            if represents == [entry["sample_idx"]]
            else f"stands for {listed(represents)}"
        )
    if entry["marginal_gain"] is not None:
        yield f"marginal gain {figure(entry['marginal_gain'])}"
    if entry["cluster"] is not None:
        yield f"cluster {entry['cluster']}"
    if entry["beats"]:
        yield f"beats {listed([pair['sample_idx'] for pair in entry['beats']], [pair['margin'] for pair in entry['beats']])}"
    if entry["beaten_by"]:
        yield f"beaten by {listed([pair['sample_idx'] for pair in entry['beaten_by']])}"


def listed(samples: Sequence[int], margins: Sequence[float] | None = None) -> str:
    """Return ``#3 #7 #9``, or ``#3 by 0.5 #7 by 1`` with margins: at most ``SAMPLES_SHOWN``, then how many more."""
    told = [
        f"#{idx}" if margins is None else f"#{idx} by {figure(margins[i])}"
        for i, idx in enumerate(samples)
    ]
    more = len(told) - SAMPLES_SHOWN
    return " ".join(told[:SAMPLES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def body(content: str, width: int, *, full: bool) -> Text:
    """Return a text wrapped and indented; without ``full`` its first ``LINES_SHOWN`` lines and how many follow."""
    room = max(20, min(LONGEST_LINE, width - len(INDENT)))
    # what cannot be shown anyway is not wrapped: a response may have 100,000 characters
    shown = content if full else content[: room * LINES_SHOWN * 4]
    lines = [
        piece
        for line in visible(shown).split("\n")
        for piece in textwrap.wrap(line, room, drop_whitespace=False) or [""]
    ]
    text = Text(no_wrap=False)
    kept = lines if full else lines[:LINES_SHOWN]
    text.append("\n".join(INDENT + line.rstrip() for line in kept))
    if len(kept) < len(lines) or len(shown) < len(content):
        text.append(
            f"\n{INDENT}... {len(content):,} characters in all, --full shows them", style="dim"
        )
    if not content:
        text.append("(no text)", style="dim")
    return text

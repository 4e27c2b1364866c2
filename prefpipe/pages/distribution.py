"""A distribution as a plot of characters for the terminal."""

from rich.text import Text

from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.text.numbers import figure

BAR_WIDTH = 32
LABEL_WIDTH = 10
EIGHTHS = "▏▎▍▌▋▊▉█"
"""Left blocks of one to eight eighths of a character."""


def distribution_plot(distribution: Distribution) -> Text:
    """Return a heading with the figures and a bar for each bin.

    A bar is labelled with the bin's lower end and with its count. One value, or a spread that is
    not worth a picture, has the figures alone.
    """
    unit = f", {distribution.unit}" if distribution.unit else ""
    text = Text()
    text.append(f"{distribution.name}{unit}\n", style="bold")
    text.append(f"  {_figures(distribution)}")

    # such bins begin half below their number
    to_number = 0.5 if distribution.has_whole_bins else 0.0
    labels = [figure(edge + to_number) for edge in distribution.edges[:-1]]
    # labels that read the same: the spread is rounding
    if len(labels) < 2 or len(set(labels)) < len(labels):
        return text

    largest = max(distribution.counts)
    n_digits = len(f"{largest:,}")
    for label, count in zip(labels, distribution.counts, strict=True):
        text.append(f"\n  {label:>{LABEL_WIDTH}} ")
        text.append(f"{bar(count / largest):<{BAR_WIDTH}}", style="cyan")
        text.append(f" {count:>{n_digits},}")
    return text


def bar(share: float) -> str:
    """Return a bar of ``share``, in [0, 1], of ``BAR_WIDTH``; anything above zero is seen."""
    eighths = round(share * BAR_WIDTH * 8)
    if share > 0:
        eighths = max(1, eighths)

    full, rest = divmod(eighths, 8)
    if rest == 0:
        return "█" * full
    return "█" * full + EIGHTHS[rest - 1]


def _figures(shown: Distribution) -> str:
    if shown.min is None or shown.median is None or shown.mean is None or shown.max is None:
        return f"no numbers ({shown.n_missing:,} missing)"

    parts = [
        f"min {figure(shown.min)}",
        f"median {figure(shown.median)}",
        f"mean {figure(shown.mean)}",
        f"max {figure(shown.max)}",
        f"n {shown.n:,}",
    ]
    if shown.n_missing:
        parts.append(f"missing {shown.n_missing:,}")
    if shown.n_infinite:
        parts.append(f"infinite {shown.n_infinite:,}")
    return "   ".join(parts)

"""docs/evidence.md: the tables of every study whose results are committed, made again from these.

``make evidence`` writes the page, and fails when a table is another one than it was.
"""

import re
import sys
from pathlib import Path

from prefpipe.pages.study_markdown import study_markdown
from prefpipe.stages.study.figures import figures_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE, RESULTS = DOCS / "evidence.md", DOCS / "evidence"
PLACE = re.compile(
    r"(?P<begin><!-- evidence: (?P<name>\S+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL
)
NOT_RUN = "Not run yet.\n"
MOST_BYTES = 2_000_000


def studies() -> list[str]:
    """Return the names of the studies whose results are there."""
    return sorted(path.parent.name for path in RESULTS.glob("*/study.json"))


def places(text: str) -> list[str]:
    """Return the studies whose tables a page has a place for, in its order."""
    return [match["name"] for match in PLACE.finditer(text)]


def tables() -> dict[str, str]:
    """Return the tables of each study as the page has them."""
    return {name: study_markdown(figures_of(RESULTS / name)) + "\n" for name in studies()}


def page_of(text: str, made: dict[str, str]) -> str:
    """Return a page with its tables made again; a study without results has none."""

    def table(match: re.Match[str]) -> str:
        return match["begin"] + made.get(match["name"], NOT_RUN) + match["end"]

    return PLACE.sub(table, text)


def main() -> int:
    """Write the page; return 1 where a table is another one than it was, or has no place."""
    before, made = PAGE.read_text(encoding="utf-8"), tables()
    homeless = sorted(set(made) - set(places(before)))
    for name in homeless:
        sys.stderr.write(
            f"{name}: docs/evidence.md has no place for it, <!-- evidence: {name} -->\n"
        )

    was = {match["name"]: match["table"] for match in PLACE.finditer(before)}
    changed = [name for name in places(before) if was[name] != made.get(name, NOT_RUN)]
    for name in changed:
        sys.stderr.write(f"{name}: its tables were other ones; docs/evidence.md is written anew\n")
    after = page_of(before, made)
    if after != before:
        PAGE.write_text(after, encoding="utf-8")
    return 1 if changed or homeless else 0


if __name__ == "__main__":
    sys.exit(main())

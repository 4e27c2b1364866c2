"""What the pages show of a terminal: made by running their commands, and compared with them by tests.

A block of commands with a line ``<!-- run: NAME -->`` above it is run by bash, in a fresh folder
that holds a copy of ``sample_data/``. Blocks of one name on one page are run in order in one
folder. The ``text`` block that follows a block of commands is what these print; a block without one
is run, and nothing is compared. ``<!-- run: NAME models -->`` says that real models are loaded, ``<!-- run: NAME s3 -->`` that
there is an S3 server with an empty bucket, ``<!-- run: NAME exit 4 -->`` that the commands end with that code, and ``<!-- file: NAME PATH -->`` above any other block writes it to a file of that folder.
``<!-- quoted: PAGE -->`` above a ``text`` block says that its lines stand on another page.

``make docs-outputs`` runs all and writes the pages again. What differs from run to run (times, rates)
is masked when the two are compared, and lines of progress are left out; of real models every number is masked, as
tests run those with fewer prompts.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.s3_servers import environment_for, running_moto

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"^<!-- (?P<what>run|file): (?P<name>[\w-]+)(?P<rest>[^\n]*?) -->\n"
    r"```\w*\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
QUOTED = re.compile(
    r"^<!-- quoted: (?P<page>\S+) -->\n```text\n(?P<shown>.*?)^```\n", re.MULTILINE | re.DOTALL
)
GAP = "..."
"""A line of a shown text that stands for lines that are left out."""

TIME = re.compile(r"\b\d[\d.,]* ?(?:ms|s|min|h)\b|\b\d[\d.,]*(?= (?:tokens|texts|rows)/s)")
NUMBER = re.compile(r"[-+]?\d[\d.,]*")
PROGRESS = re.compile(
    r"^\w+( \w+)?: [\d,]+ of [\d,]+ \w+ done|^worker \d+ \(pid \d+\)|^compiling the "
)
"""Lines whose number or order depends on the machine, and those that only the first run prints."""
RARE = re.compile(r"^\w+ +# +#%$|^# prompt rejected: ")
"""Lines for rows of some status, with every number masked: fewer prompts may have no such row."""
MODEL_PROMPTS = 4
"""Prompts of each sample file that a test of real models takes."""
SHOWN_SERVER = "http://127.0.0.1:5000"
"""Where pages have the S3 server of a session, which listens on any free port."""


@dataclass(frozen=True)
class Session:
    """The blocks of one name on one page."""

    page: Path
    name: str
    with_models: bool
    with_s3: bool = False

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.name}"


def sessions() -> list[Session]:
    """Return the sessions of all pages, in their order."""
    found: dict[tuple[Path, str], set[str]] = {}
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            words = found.setdefault((page, block["name"]), set())
            words |= set(block["rest"].split())
    return [
        Session(page, name, with_models="models" in words, with_s3="s3" in words)
        for (page, name), words in found.items()
    ]


def run(session: Session, folder: Path, n_prompts: int | None = None) -> list[str | None]:
    """Run a session in a folder.

    Args:
        session: Whose blocks.
        folder: An empty folder, in which the commands are run.
        n_prompts: How many prompts of each sample file there are; all without it.

    Returns:
        What each block printed, stdout and stderr as a terminal has them; None for a file.

    Raises:
        AssertionError: A command failed.
    """
    _copy_sample_data(folder / "sample_data", n_prompts)
    with _server(session) as server:
        return _print_of_blocks(session, folder, server)


@contextmanager
def _server(session: Session) -> Iterator[str | None]:
    """Yield the address of a session's S3 server, None where it has none."""
    if not session.with_s3:
        yield None
        return
    with running_moto() as address:
        yield address


def _print_of_blocks(session: Session, folder: Path, server: str | None) -> list[str | None]:
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **(environment_for(server) if server else {}),
    }
    printed: list[str | None] = []
    for block in _blocks(session):
        if block["what"] == "file":
            place = folder / block["rest"].strip()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block["text"], encoding="utf-8")
            printed.append(None)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block["text"]],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        rest = block["rest"].split()
        code = int(rest[rest.index("exit") + 1]) if "exit" in rest else 0
        assert done.returncode == code, f"{session.id}\n{block['text']}\n{done.stdout}"
        text = done.stdout.replace(str(folder), ".")
        if server is not None:
            text = text.replace(server, SHOWN_SERVER)
        printed.append(_without_progress(text))
    return printed


def _without_progress(printed: str) -> str:
    lines = [line.rstrip() for line in printed.splitlines() if not PROGRESS.match(line)]
    return "\n".join(lines)


def _blocks(session: Session) -> list[re.Match[str]]:
    text = session.page.read_text(encoding="utf-8")
    return [block for block in BLOCK.finditer(text) if block["name"] == session.name]


def _copy_sample_data(folder: Path, n_prompts: int | None) -> None:
    shutil.copytree(REPOSITORY / "sample_data", folder, ignore=shutil.ignore_patterns("studies"))
    if n_prompts is None:
        return
    for table in (folder / "prompts.jsonl", folder / "heldout.jsonl"):
        lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
        table.write_text("".join(lines[:n_prompts]), encoding="utf-8")


def differences(session: Session, printed: list[str | None]) -> list[str]:
    """Return what a page shows and the run did not print, a line each; empty where they agree."""
    found = []
    for block, text in zip(_blocks(session), printed, strict=True):
        if text is not None and block["shown"] is not None:
            missing = lines_missing(block["shown"], text, session.with_models)
            found += [
                f"{session.id} shows, and the run did not print there: {line}" for line in missing
            ]
    return found


def lines_missing(shown: str, printed: str, any_number: bool = False) -> list[str]:
    """Return the shown lines that do not stand in a printed text in that order.

    Without a line ``...`` in the shown text, what was printed beside it is missing from the page.
    """
    have = [masked(line, any_number) for line in printed.splitlines() if line.strip()]
    missing, at = [], 0
    for line in shown.splitlines():
        if not line.strip() or line.strip() == GAP:
            continue
        wanted = masked(line, any_number)
        if wanted in have[at:]:
            at = have.index(wanted, at) + 1
        elif not (any_number and RARE.match(wanted)):
            missing.append(line)
    n_shown = sum(bool(line.strip()) for line in shown.splitlines())
    if not missing and not any_number and GAP not in shown.split("\n") and n_shown != len(have):
        missing.append(f"{len(have) - n_shown} more lines, and no line {GAP} for them")
    return missing


def masked(line: str, any_number: bool = False) -> str:
    """Return a line without what differs from run to run."""
    line = TIME.sub("#", line.rstrip())
    if any_number:
        line = re.sub(r"\b([a-z]{3,})s\b", r"\1", NUMBER.sub("#", line))  # 1 part, 2 parts
        line = re.sub(r"( in # part) of # prompt$", r"\1", line)  # said of more than one part
    return re.sub(r"\s+", " ", line)


def rewritten(session: Session, printed: list[str | None]) -> str:
    """Return the page of a session with what its commands printed.

    A shown text with a gap keeps the lines that it has a like of: it is left as it is where all
    of its lines were printed, else it is the whole print, to be shortened by hand.
    """
    texts = iter(printed)

    def with_print(block: re.Match[str]) -> str:
        if block["name"] != session.name:
            return block[0]
        text = next(texts)
        if text is None or block["shown"] is None:
            return block[0]
        if block["shown"].strip() and not lines_missing(block["shown"], text):
            return block[0]
        if GAP in block["shown"].split("\n"):
            text = _with_gaps(block["shown"], text)
        return block[0].replace(f"```text\n{block['shown']}```", f"```text\n{text.strip()}\n```")

    return BLOCK.sub(with_print, session.page.read_text(encoding="utf-8"))


def _with_gaps(shown: str, printed: str) -> str:
    """Return the printed lines that a shown text with gaps has a like of, all numbers aside."""
    have = [line for line in printed.splitlines() if line.strip()]
    masks = [masked(line, any_number=True) for line in have]
    lines, at = [], 0
    for line in shown.splitlines():
        wanted = masked(line, any_number=True)
        if line.strip() == GAP:
            lines.append(GAP)
        elif wanted in masks[at:]:
            at = masks.index(wanted, at)
            lines.append(have[at])
            at += 1
        else:
            return printed
    return "\n".join(lines)


def quotes() -> list[tuple[Path, Path, str]]:
    """Return each quoting page with the page that it quotes, and the quote."""
    found = []
    for page in PAGES:
        for quote in QUOTED.finditer(page.read_text(encoding="utf-8")):
            found.append((page, (page.parent / quote["page"]).resolve(), quote["shown"]))
    return found


def shown_on(page: Path) -> str:
    """Return all that a page shows in blocks of text, one behind the other."""
    text = page.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```text\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL))


def main() -> int:
    """Run the sessions, those whose id holds a given word, and write their pages again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("words", nargs="*", help="parts of a session's id; all without one")
    words = parser.parse_args().words
    for session in sessions():
        if words and not any(word in session.id for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="shown-") as folder:
            printed = run(session, Path(folder))
        before = session.page.read_text(encoding="utf-8")
        after = rewritten(session, printed)
        session.page.write_text(after, encoding="utf-8")
        sys.stderr.write(f"{session.id}: {'as it was' if after == before else 'written anew'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

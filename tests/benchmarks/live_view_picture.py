"""The live view as a picture, as it stands in docs/: a command at a terminal, at a moment of its run.

python tests/benchmarks/live_view_picture.py docs/images/live-view.svg "5 of 10" -- generate prompts.jsonl -o run/candidates ...

The command is ended when the text has been printed. What stands above the view is of one colour.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.screen import Screen
from support.terminal import AtTerminal

WIDTH = 88
ERASED = "\x1b[2K"
FONTS = re.compile(r"\s*@font-face \{.*?\}(?=\s*(?:@font-face|\.))", re.DOTALL)
"""Addresses of fonts: a picture in docs/ asks no other server for anything."""


def main(picture: Path, moment: str, words: list[str]) -> None:
    """Run the command until the moment, and write the picture."""
    command = AtTerminal(words, Path.cwd(), width=WIDTH)
    try:
        command.read_until(moment)
        # to the end of the view in which the moment is
        command.read_until(ERASED, n_more_than=command.text.count(ERASED))
    finally:
        command.close()

    drawn = command.text.replace("\r\n", "\n").rpartition("\r" + ERASED)[0]
    view = drawn.rpartition(ERASED)[2]
    n_lines_of_view = view.count("\n") + 1
    lines = Screen(WIDTH).write(drawn).lines[:-n_lines_of_view]

    console = Console(record=True, width=WIDTH, file=sys.stderr, force_terminal=True)
    console.print(Text(f"$ prefpipe {' '.join(words)}", style="bold"))
    for line in [*lines, ""]:
        console.print(Text(line))
    console.print(Text.from_ansi(view))
    svg = FONTS.sub("", console.export_svg(title="prefpipe"))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    at = sys.argv.index("--")
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[at + 1 :])

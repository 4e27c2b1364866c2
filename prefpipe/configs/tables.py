"""The knob of reading users' tables, shared by every command that does."""

from dataclasses import dataclass
from typing import Any

from prefpipe.configs.options import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class TablesConfig(StageConfig):
    """What becomes of rows that cannot be used."""

    skip_bad_rows: bool = option(
        False,
        help="leave out rows of a user's file that cannot be used, instead of refusing the file: they are counted by reason and "
        "written beside the output, to OUTPUT.skipped-rows.jsonl",
    )

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: a file that is whole has the fingerprint that it always had."""
        found = super().identity()
        return {name: value for name, value in found.items() if name != "skip_bad_rows" or value}

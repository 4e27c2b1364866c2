"""The knob of reading users' tables, shared by every command that does."""

from dataclasses import dataclass
from typing import Any

from prefpipe.configs.options import option
from prefpipe.configs.stage import StageConfig


@dataclass(frozen=True, kw_only=True)
class TablesConfig(StageConfig):
    """What becomes of rows that cannot be used."""

    skip_bad_rows: bool = option(
        False,
        help="leave out rows of a user's file that cannot be used, instead of refusing the file: "
        "they are counted by reason and written beside the output, to OUTPUT.skipped-rows.jsonl",
    )

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: a file that is whole keeps its fingerprint."""
        identity = super().identity()
        if not self.skip_bad_rows:
            del identity["skip_bad_rows"]
        return identity

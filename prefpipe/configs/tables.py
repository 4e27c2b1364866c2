"""The knob of reading users' tables, shared by every command that does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.configs.options import option
from prefpipe.configs.stage import FILES_HEADING, StageConfig


@dataclass(frozen=True, kw_only=True)
class TablesConfig(StageConfig):
    """How a user's table is read."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        FILES_HEADING: ("skip_bad_rows",),
    }

    skip_bad_rows: bool = option(
        False,
        help="skip unusable rows of your file instead of refusing it; they are counted and "
        "written to OUTPUT.skipped-rows.jsonl",
    )

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: a file that is whole keeps its fingerprint."""
        identity = super().identity()
        if not self.skip_bad_rows:
            del identity["skip_bad_rows"]
        return identity

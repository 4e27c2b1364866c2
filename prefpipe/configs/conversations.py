"""The knobs of reading conversations from a user's file, shared by every command that does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.artifacts.conversations import ReadingRules
from prefpipe.configs.options import option
from prefpipe.configs.stage import FILES_HEADING
from prefpipe.configs.tables import TablesConfig

ON_DUPLICATE = ("mean", "refuse", "first")
"""What several ratings of one response can come to."""


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig(TablesConfig):
    """What counts as the conversation in a user's file."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        FILES_HEADING: ("prompts_are_text", "leave_out"),
    }

    prompts_are_text: bool = option(
        False,
        help="read every prompt as plain text, even if it looks like a chat template's output "
        "or a list of turns",
    )
    leave_out: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="key of the turns (tool_calls, reasoning_content) or column (system, tools) to "
        "leave out of the conversation; repeatable",
    )

    @property
    def reading_rules(self) -> ReadingRules:
        """What the readers need to know."""
        return ReadingRules(self.prompts_are_text, self.leave_out)

    def identity(self) -> dict[str, Any]:
        """Leave out what was not given: files that need none of it keep their fingerprints."""
        identity = super().identity()
        for name in ("prompts_are_text", "leave_out"):
            if not identity[name]:
                del identity[name]
        return identity


def split_columns(text: str) -> list[str]:
    """Return the names of a comma-separated ``--columns``; ``none`` names none."""
    if text == "none":
        return []
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name]

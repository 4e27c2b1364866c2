"""What every command's dataclass can do: check what was given, all at once."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

from prefpipe.configs.options import convert_fields, field_problems, flag_of
from prefpipe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What can be given to a command: a field is an argument or a flag."""

    command: ClassVar[str]
    """The words after ``prefpipe``."""
    panels: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Headings of ``--help``, with the fields that it shows under them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used.

        Raises:
            UsageError: everything that is wrong; where types are wrong, these alone.
        """
        # a value of the wrong type can be held against no bound and no other value
        problems = convert_fields(self) or [*field_problems(self), *self.problems()]
        if problems:
            raise UsageError("; ".join(problems), hint=self.help_hint())

    def problems(self) -> list[str]:
        """Return what is wrong with values taken together, in sentences; subclasses add theirs."""
        return []

    @classmethod
    def from_values(cls, given: Mapping[str, Any]) -> Self:
        """Make the config of what was given, with defaults for the rest.

        Raises:
            UsageError: missing required values, or values that cannot be used; all at once.
        """
        missing = []
        for item in fields(cls):
            if item.default is MISSING and item.name not in given:
                is_argument = item.metadata["positional"]
                missing.append(item.name.upper() if is_argument else flag_of(item))
        if missing:
            raise UsageError(
                f"`prefpipe {cls.command_name()}` needs {', '.join(missing)}", hint=cls.help_hint()
            )
        return cls(**given)

    @classmethod
    def command_name(cls) -> str:
        """Return the words after ``prefpipe``."""
        return cls.command

    @classmethod
    def help_hint(cls) -> str:
        """Return the hint that names the command's help."""
        return f"run `prefpipe {cls.command_name()} --help`"

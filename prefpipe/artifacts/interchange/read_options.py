"""What a user says about a file that is imported, whatever its format."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules


class ColumnNames(NamedTuple):
    """Which columns of ``rows`` hold what; None is the usual name.

    ``rewards`` is scorer to column.
    """

    prompt_id: str | None = None
    prompt: str | None = None
    response: str | None = None
    model: str | None = None
    rewards: Mapping[str, str] = {}


class WideColumns(NamedTuple):
    """Which columns of ``wide`` hold what.

    ``scores``: each scorer's columns, one for each of ``responses``, in their order.
    """

    responses: tuple[str, ...] = ()
    scores: Mapping[str, tuple[str, ...]] = {}
    prompt: str | None = None
    prompt_id: str | None = None
    model: str | None = None


class ReadOptions(NamedTuple):
    """What a user says about a file.

    Attributes:
        columns: the user's columns that pass through; None for all that hold one value for each
            prompt.
        reserved: names that the artifact uses itself, and that cannot pass through.
        rules: how its conversations are read.
        requests: a second file that holds the prompts: the requests of a batch, or the questions
            of Arena-Hard v0.1.
        names: column names of the long form.
        wide: column names of the wide form.
    """

    columns: Sequence[str] | None = None
    reserved: Collection[str] = ()
    rules: ReadingRules = DEFAULT_RULES
    requests: str | None = None
    names: ColumnNames = ColumnNames()
    wide: WideColumns = WideColumns()

"""The date for chat templates that read the clock.

Some templates write today's date into the system turn. The text must not change with the day on
which a command is run again, nor between a policy, its reference and its reward model. So the date
is fixed when a run begins: it is recorded with each model whose template reads the clock, and later
stages take it from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage.location import Location
from prefpipe.errors import PrefpipeError

CLOCK = "strftime_now"
"""The one function of chat templates that reads the clock."""
FIELD = "template_date"


def recorded_date(identity: Any) -> str | None:
    """Return the first day that the identity of a run names, None for none.

    Its own models come before those of its parents.
    """
    return next(_dates_in(identity), None)


def date_for_run(given: str | None, output: Location | None, parents: Sequence[Location]) -> str:
    """Return the date that the chat templates of a run use, ``YYYY-MM-DD``.

    Args:
        given: ``--template-date``.
        output: the run's folder, which names the day where the run is resumed; None if it starts
            again.
        parents: what the run is made from, in the order in which it is asked.
    """
    if given is not None:
        return given

    earlier_runs = parents if output is None else [output, *parents]
    for folder in earlier_runs:
        try:
            known = recorded_date(read_run_record(folder).identity)
        except PrefpipeError:
            continue  # no run is there yet, or none that can be read, which its own stage says
        if known is not None:
            return known
    return datetime.now().astimezone().date().isoformat()


def _dates_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get(FIELD), str):
            yield value[FIELD]
        for each in value.values():
            yield from _dates_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _dates_in(each)

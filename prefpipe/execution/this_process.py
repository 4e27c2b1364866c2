"""Makes all parts of a job in the process that runs the command."""

from collections.abc import Callable, Iterator

from prefpipe.execution.part_loop import PartLoop
from prefpipe.execution.part_maker import PartMade
from prefpipe.execution.part_source import ListedParts, PartSource
from prefpipe.execution.runtime import Job

OpenSource = Callable[[Job], PartSource]
"""Opens the source of a job's parts."""


def listed(job: Job) -> PartSource:
    """Return all parts of a job, in order, for this command."""
    return ListedParts(job.to_do)


class ThisProcess:
    """Makes all parts here.

    Args:
        open_source: opens the source of the parts.
    """

    is_worker = False
    has_workers = False

    def __init__(self, open_source: OpenSource = listed) -> None:
        self._open_source = open_source

    def make_parts(self, job: Job) -> Iterator[PartMade]:
        """Yield the parts as they are made."""
        return PartLoop(self._open_source(job), job.maker, job.runtime).run()

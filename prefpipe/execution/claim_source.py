"""Parts without a driver: a worker claims the next free part.

Any number of copies of one command can share an output this way. Each makes the parts that it
claims, waits for parts that others have claimed, takes over abandoned ones, and ends when all parts
are on disk.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from prefpipe.artifacts.claims import Claimant, ClaimWatch, HeldClaims, SeenClaim, claims_of
from prefpipe.execution.part_maker import PartMade
from prefpipe.execution.runtime import Job
from prefpipe.execution.this_process import OpenSource

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.1, 5.0
"""Bounds of the interval at which a waiting worker looks at the folder; it grows over time."""
LOOKS_A_LEASE = 6
"""At least so many looks per lease, so that abandoned parts are noticed in time."""
MAX_SHOWN = 6
"""The most parts of other workers that a message names."""


def claimed(lease_s: float) -> OpenSource:
    """Return a function that opens a job's parts, claimed with a lease of so many seconds."""

    def open_source(job: Job) -> ClaimSource:
        me = Claimant.this_process(job.output.record.fingerprint, lease_s)
        return ClaimSource(job, me)

    return open_source


class ClaimSource:
    """The parts of a job that are not made or claimed yet.

    Abandoned parts come last: if a part itself kills the process that makes it, the rest is on disk
    before the next worker takes that part.

    Args:
        job: its output, its parts, and how to see that another worker made one.
        me: this process.
    """

    def __init__(self, job: Job, me: Claimant) -> None:
        self._output, self._is_made, self._log = job.output, job.is_done, job.runtime.log
        self._tell_of_others = job.made_by_others
        self._lease_s = me.lease_s
        self._storage = claims_of(job.output.path)
        self._held = HeldClaims(self._storage, me, job.runtime.log)
        self._watch = ClaimWatch(self._storage, me)
        # Workers that start together begin at different parts, so that they do not all try one.
        start = int(me.owner, 16) % max(1, len(job.to_do))
        self._left = _rotated(job.to_do, start)
        """Parts that are neither handed out here nor known to be on disk."""
        self._claimed: Collection[int] = ()
        """Parts that others had claimed at the last look."""
        self._open: set[int] = set()
        """Parts that are being made here."""
        self._n_made_by_others = 0

        self._wake: Callable[[], None] = lambda: None
        self._is_waiting = False
        # A look lists two folders, so a waiting worker takes one only now and then.
        self._is_due = threading.Event()
        self._is_due.set()
        self._is_closed = threading.Event()

    def attach(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when it is time to look again."""
        self._wake = wake
        threading.Thread(target=self._look_now_and_then, daemon=True, name="claimed parts").start()

    def next_part(self) -> int | None:
        """Claim a part for this process and return it.

        Raises:
            PrefpipeError: the claims folder cannot be read or written.
        """
        if not self._is_due.is_set():
            return None
        self._drop_what_others_made()
        claims = self._watch.look()
        self._claimed = claims.keys()
        for index in list(self._left):
            if index not in claims and self._held.take(index) and self._keeps(index):
                return index
        for index in list(self._left):
            seen = claims.get(index)
            if seen is None or not seen.is_expired:
                continue
            if self._held.take_over(seen) and self._keeps(index):
                self._log(self._left_behind(seen))
                return index

        self._is_due.clear()
        if self._left and not self._open and not self._is_waiting:
            self._log(self._waiting_for(claims))
            self._is_waiting = True
        return None

    def upcoming(self) -> Sequence[int]:
        """Return the part that nobody had claimed at the last look, if there was one.

        No more of them: others may take those, and would have fetched them, too.
        """
        return [index for index in self._left if index not in self._claimed][:1]

    def is_over(self) -> bool:
        """Return whether the last look found all parts on disk or handed out here."""
        return not self._left

    def made(self, part: PartMade) -> None:
        """Release the claim: the part is on disk."""
        self._open.discard(part.index)
        self._held.give_back(part.index)

    def failed(self, index: int, error: Exception) -> bool:  # noqa: ARG002
        """Release the claim, so that another worker can try; end this one."""
        self._open.discard(index)
        self._held.give_back(index)
        return False

    def close(self) -> None:
        """Release all claims."""
        self._is_closed.set()
        self._held.close()
        self._storage.remove_if_empty()
        if self._n_made_by_others:
            count = self._n_made_by_others
            noun = "part was" if count == 1 else "parts were"
            self._log(f"{count} {noun} made by other workers meanwhile")

    def _keeps(self, index: int) -> bool:
        """Return whether this process must make a part that it has just claimed.

        Another worker may have made it and removed its claim between the two looks.
        """
        self._left.remove(index)
        if self._is_made(index):
            self._count_other()
            self._held.give_back(index)
            return False
        self._open.add(index)
        self._is_waiting = False
        return True

    def _drop_what_others_made(self) -> None:
        # A listing is fresh over NFS; a lookup of each part by name may be a minute old.
        on_disk = self._output.on_disk()
        for index in list(self._left):
            if index in on_disk and self._is_made(index):
                self._left.remove(index)
                self._count_other()

    def _count_other(self) -> None:
        self._n_made_by_others += 1
        self._tell_of_others(1)

    def _look_now_and_then(self) -> None:
        longest_s = min(max(self._lease_s / LOOKS_A_LEASE, SHORTEST_LOOK_S), LONGEST_LOOK_S)
        look_s = SHORTEST_LOOK_S
        while not self._is_closed.wait(look_s):
            # Set: a part was handed out since the last look, so no worker waits.
            look_s = SHORTEST_LOOK_S if self._is_due.is_set() else min(look_s * 1.5, longest_s)
            self._is_due.set()
            self._wake()

    def _waiting_for(self, claims: Mapping[int, SeenClaim]) -> str:
        by_whom = []
        for index in sorted(self._left)[:MAX_SHOWN]:
            seen = claims.get(index)
            by_whom.append(f"part {index} by {'another worker' if seen is None else seen.worker}")
        if len(self._left) > MAX_SHOWN:
            by_whom.append("...")
        count = len(self._left)
        what = "1 part that another makes" if count == 1 else f"{count} parts that others make"
        return f"waiting for {what}: {', '.join(by_whom)}"

    def _left_behind(self, seen: SeenClaim) -> str:
        line = f"part {seen.part} was left behind by {seen.worker} and is made here now"
        n_before = 0 if seen.claim is None else seen.claim.n_taken_over
        if n_before:
            line += f"; it was left behind {n_before + 1} times in all"
        return line


def _rotated(indices: Sequence[int], start: int) -> list[int]:
    return [*indices[start:], *indices[:start]]

"""Parts that workers have claimed, as ``prefpipe status`` shows them."""

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from prefpipe.artifacts.claims import Claimant, read_claims
from prefpipe.artifacts.storage.location import Location


class ClaimedPart(NamedTuple):
    """A part that is not on disk, and the worker that has claimed it.

    Ages use the clock here and the worker's: clocks that differ by minutes give ages that differ.
    ``is_left_behind``: the claim was not renewed for its lease, or its process is gone.
    """

    part: int
    worker: str
    begun_at: float
    begun_s_ago: float
    renewed_s_ago: float
    lease_s: float
    is_left_behind: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "part": self.part,
            "worker": self.worker,
            "begun_at": self.begun_at,
            "begun_s_ago": round(self.begun_s_ago, 1),
            "renewed_s_ago": round(self.renewed_s_ago, 1),
            "lease_s": self.lease_s,
            "is_left_behind": self.is_left_behind,
        }


def claimed_parts(path: Location, fingerprint: str, to_make: Collection[int]) -> list[ClaimedPart]:
    """Return the parts of ``to_make`` that workers of the run have claimed."""
    # s3fs lists the folder above one that is not there: thousands of parts
    if not to_make:
        return []
    me = Claimant.this_process(fingerprint, lease_s=0)
    now = time.time()
    claimed = []
    for claim in read_claims(path):
        # a part that is on disk is made, and a claim of another configuration says nothing
        if claim.part not in to_make or claim.run != fingerprint:
            continue
        renewed_s_ago = max(0.0, now - claim.renewed_at)
        claimed.append(
            ClaimedPart(
                part=claim.part,
                worker=claim.worker,
                begun_at=claim.begun_at,
                begun_s_ago=max(0.0, now - claim.begun_at),
                renewed_s_ago=renewed_s_ago,
                lease_s=claim.lease_s,
                is_left_behind=me.knows_dead(claim) or renewed_s_ago > claim.lease_s,
            )
        )
    return claimed

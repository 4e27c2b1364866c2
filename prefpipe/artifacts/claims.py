"""Claims: small files beside the parts that record which worker is making which part.

A worker that takes parts without a driver creates ``claims/part-00003.json`` before it makes part 3
and renews it until the part is on disk. Other workers that find the file take another part. A claim
that is no longer renewed may be taken over.

A claim is advice, not a lock. Rows depend only on configuration and keys, and a part appears
complete, so two workers on one part cost time and give one valid part. This file only keeps that
rare: the rows are correct even if a claim is not.

No clock of one machine is compared with that of another. An observer watches the bytes of a claim,
which every renewal changes, on its own monotonic clock: when they have not changed for the lease
that the claim names, nobody renews it. Times in the file are for people.
"""

import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from prefpipe.artifacts import atomic
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.errors import InputError, PrefpipeError

FOLDER_NAME = "claims"
"""Where the claims of an artifact are, inside its folder."""
NAME_PATTERN = re.compile(r"part-(\d{5,})\.json", re.ASCII)
WORKER_PATTERN = re.compile(r"[\w.-]{1,255}/\d{1,10}", re.ASCII)
MAX_TRIES = 10
"""To create a claim in a folder that others remove when it is empty."""
RENEWALS_A_LEASE = 3
"""So that two in a row may fail, or be late, before the claim counts as left behind."""


class Claims(Protocol):
    """The claims of one artifact: what is done to their storage.

    ``create`` and ``replace`` are conditional: they say whether this call wrote.
    """

    def create(self, index: int, data: bytes) -> bool:
        """Write the claim of a part that has none; return whether this call did.

        Raises:
            PrefpipeError: it cannot be written.
        """
        ...

    def replace(self, index: int, data: bytes, *, expected: bytes) -> bool:
        """Write the claim of a part over ``expected``; return False if that has changed.

        Raises:
            PrefpipeError: it cannot be written.
        """
        ...

    def read(self, index: int) -> bytes | None:
        """Return the bytes of a claim, None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        ...

    def list(self) -> set[int]:
        """Return the parts that have a claim."""
        ...

    def delete(self, index: int) -> None:
        """Remove a claim, if it exists."""
        ...

    def remove_if_empty(self) -> None:
        """Remove what is left when no claim is there."""
        ...


def claims_of(artifact: Location) -> Claims:
    """Return the claims of an artifact."""
    return ClaimFolder(artifact) if isinstance(artifact, Path) else BucketClaims(artifact)


class ClaimFolder:
    """The claims of an artifact on a disk."""

    def __init__(self, artifact: Path) -> None:
        self.path = artifact / FOLDER_NAME

    def create(self, index: int, data: bytes) -> bool:
        """Write the claim of a part that has none; return whether this call did.

        The name is taken by a hard link, which is exclusive on every version of NFS. (``O_EXCL`` is
        so from version 3 on, but shows the file before it has its content.)

        Raises:
            PrefpipeError: the disk is full, the folder cannot be written to.
        """
        n_tries = 0
        while True:
            n_tries += 1
            try:
                atomic.make_folder(self.path)
                created = atomic.create_exclusively(self._file(index), data)
            except PrefpipeError as error:
                # another worker, which gave back the last claim, has removed the folder
                if _is_gone(error) and n_tries < MAX_TRIES:
                    continue
                raise
            # a server that did it and whose answer was lost is asked again: the name is taken
            return created or self.read(index) == data

    def replace(self, index: int, data: bytes, *, expected: bytes) -> bool:
        """Write the claim of a part over ``expected``; return False if that has changed.

        On a disk another process may come between the look and the rename: for a millisecond, and
        it costs a part made twice. In a bucket this cannot happen.

        Raises:
            PrefpipeError: the disk is full, the folder cannot be written to.
        """
        if self.read(index) != expected:
            return False
        try:
            with atomic.atomic_write(self._file(index)) as file:
                file.write(data)
        except PrefpipeError as error:
            if _is_gone(error):
                return False
            raise
        return True

    def read(self, index: int) -> bytes | None:
        """Return the bytes of a claim, None if there is none.

        Raises:
            InputError: the file cannot be read.
        """
        path = self._file(index)
        try:
            return path.read_bytes()
        except OSError as error:
            # stale: over NFS, replaced while it was being opened; the next look finds the new one
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}:
                return None
            raise InputError(
                f"{path} cannot be read: {error.strerror or error}",
                hint="check the disk and the file's permissions",
            ) from error

    def list(self) -> set[int]:
        """Return the parts that have a claim."""
        try:
            return _parts_named(path.name for path in self.path.iterdir())
        except OSError:
            return set()

    def delete(self, index: int) -> None:
        """Remove a claim, if it exists."""
        with suppress(OSError):
            self._file(index).unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Remove the folder when no claim is in it, with what killed processes left there."""
        # others may be in it, or have removed it in the middle of this
        with suppress(OSError):
            atomic.sweep_temporary_files(self.path)
            self.path.rmdir()

    def _file(self, index: int) -> Path:
        return self.path / _claim_name(index)


class BucketClaims:
    """The claims of an artifact in a bucket, by conditional writes where it has them."""

    def __init__(self, artifact: Url) -> None:
        self.path = artifact / FOLDER_NAME

    def create(self, index: int, data: bytes) -> bool:
        """Write the claim of a part that has none; return whether this call did.

        Raises:
            PrefpipeError: it cannot be written.
        """
        return files.create(self._file(index), data)

    def replace(self, index: int, data: bytes, *, expected: bytes) -> bool:
        """Write the claim of a part over ``expected``; return False if that has changed.

        Raises:
            PrefpipeError: it cannot be written.
        """
        return files.replace(self._file(index), data, expected=expected)

    def read(self, index: int) -> bytes | None:
        """Return the bytes of a claim, None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        place = self._file(index)
        try:
            return files.read(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(place, error) from error

    def list(self) -> set[int]:
        """Return the parts that have a claim."""
        try:
            return _parts_named(files.names_in(self.path))
        except OSError:
            return set()

    def delete(self, index: int) -> None:
        """Remove a claim, if it exists."""
        with suppress(PrefpipeError):
            files.delete(self._file(index))

    def remove_if_empty(self) -> None:
        """Do nothing: a bucket has no folders."""

    def _file(self, index: int) -> Url:
        return self.path / _claim_name(index)


def _claim_name(index: int) -> str:
    return f"part-{index:05d}.json"


def _parts_named(names: Iterable[str]) -> set[int]:
    matches = map(NAME_PATTERN.fullmatch, names)
    return {int(match[1]) for match in matches if match is not None}


def _is_gone(error: PrefpipeError) -> bool:
    """Return whether the folder was removed before a file was in it, or while it was being made.

    `Path.mkdir` calls a folder that is gone again by the time it looks a file that is in the way.
    """
    return isinstance(error.__cause__, FileNotFoundError | FileExistsError)


def _machine() -> str:
    """Return a name for where process ids mean the same, until the next boot."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{atomic.MACHINE}_{boot}"


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a part that it is making.

    ``run`` is the fingerprint of the run, so that a claim left by another configuration counts for
    nothing. ``worker`` is ``host/pid``, for people. ``machine`` and ``pid`` tell a process of the
    same machine whether the worker lives; ``owner``, which is random, tells apart two processes
    that had the same pid. ``begun_at`` and ``renewed_at`` are seconds since the epoch on the
    worker's clock. ``n_taken_over``: how many workers before this one left the part behind.
    """

    part: int
    run: str
    worker: str
    machine: str
    pid: int
    owner: str
    lease_s: float
    begun_at: float
    renewed_at: float
    n_renewals: int = 0
    n_taken_over: int = 0

    def to_bytes(self) -> bytes:
        """Return the file's content: JSON that people read."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """Return the claim in a file's content, None if it is damaged.

        Anybody can edit the file.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict):
            return None

        # a newer release may say more
        known: dict[str, Any] = {item.name: values.get(item.name) for item in fields(cls)}
        is_whole = all(is_valid(known[name]) for name, is_valid in _VALID.items())
        return cls(**known) if is_whole else None

    def renewed(self) -> Self:
        """Return the claim as the next renewal writes it."""
        return replace(self, renewed_at=_now(), n_renewals=self.n_renewals + 1)


@dataclass(frozen=True)
class Claimant:
    """A process that claims parts of a run; see `Claim` for the fields."""

    run: str
    worker: str
    machine: str
    pid: int
    owner: str
    lease_s: float

    @classmethod
    def this_process(cls, run: str, lease_s: float) -> Self:
        """Return this process with a unique identity."""
        host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:255] or "unnamed"
        pid = os.getpid()
        return cls(run, f"{host}/{pid}", _machine(), pid, secrets.token_hex(8), lease_s)

    def claim(self, index: int, *, n_taken_over: int = 0) -> Claim:
        """Return a new claim of a part."""
        now = _now()
        return Claim(
            part=index,
            **asdict(self),
            begun_at=now,
            renewed_at=now,
            n_taken_over=n_taken_over,
        )

    def knows_dead(self, claim: Claim) -> bool:
        """Return whether a claim belongs to a dead process of this machine."""
        if claim.machine != self.machine or claim.owner == self.owner:
            return False
        # an earlier process had the pid that this one has: in a container often 1
        return claim.pid == self.pid or not atomic.is_alive(claim.pid)


def _now() -> float:
    return round(time.time(), 3)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_worker(value: Any) -> bool:
    return isinstance(value, str) and WORKER_PATTERN.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and isfinite(value) and 0 <= value < 1e11


_VALID: Mapping[str, Callable[[Any], bool]] = {
    "part": _is_count,
    "run": _is_text,
    "worker": _is_worker,
    "machine": _is_text,
    "pid": _is_count,
    "owner": _is_text,
    "lease_s": _is_time,
    "begun_at": _is_time,
    "renewed_at": _is_time,
    "n_renewals": _is_count,
    "n_taken_over": _is_count,
}


class SeenClaim(NamedTuple):
    """A claim of another worker.

    ``claim`` is None if the file is damaged. ``is_expired``: it may be taken over.
    """

    part: int
    data: bytes
    claim: Claim | None
    is_expired: bool

    @property
    def worker(self) -> str:
        """The name of its worker, for people."""
        return "an unknown worker" if self.claim is None else self.claim.worker


class ClaimWatch:
    """Watches the claims of others to learn which are renewed. Only the first look cannot tell.

    Args:
        storage: where the claims are.
        me: this process.
        clock: seconds, monotonic.
    """

    def __init__(
        self, storage: Claims, me: Claimant, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage, self._me, self._clock = storage, me, clock
        self._since: dict[int, tuple[bytes, float]] = {}
        """The bytes of each claim, and when they were first seen."""

    def look(self) -> dict[int, SeenClaim]:
        """Return the claims of others, as they are now, by part.

        Raises:
            InputError: a claim cannot be read.
        """
        # before the files are read: a process that is paused in between must not take the pause for
        # silence of the others
        now = self._clock()
        since, self._since = self._since, {}
        seen: dict[int, SeenClaim] = {}
        for index in sorted(self._storage.list()):
            data = self._storage.read(index)
            if data is None:
                continue
            claim = Claim.from_bytes(data)
            if claim is not None and claim.owner == self._me.owner:
                continue

            data_then, seen_at = since.get(index, (b"", now))
            if data_then != data:
                seen_at = now
            self._since[index] = (data, seen_at)
            is_expired = self._is_expired(claim, now - seen_at)
            seen[index] = SeenClaim(index, data, claim, is_expired)

        return seen

    def _is_expired(self, claim: Claim | None, unchanged_s: float) -> bool:
        if claim is None:
            return unchanged_s >= self._me.lease_s
        if claim.run != self._me.run or self._me.knows_dead(claim):
            return True
        return unchanged_s >= claim.lease_s


class HeldClaims:
    """The claims of this process: taken, renewed by a thread, and given back.

    Args:
        storage: where the claims are.
        me: this process.
        log: where to say that a claim was lost.
    """

    def __init__(
        self, storage: Claims, me: Claimant, log: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._storage, self._me, self._log = storage, me, log
        self._held: dict[int, Claim] = {}
        # of what is held and of its files: the thread renews while parts are taken and given back
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._has_warned = False
        self._thread: threading.Thread | None = None

    def take(self, index: int) -> bool:
        """Claim a free part; return whether this process has it now.

        Raises:
            PrefpipeError: the disk is full, the folder cannot be written to.
        """
        claim = self._me.claim(index)
        with self._lock:
            is_taken = self._storage.create(index, claim.to_bytes())
            if is_taken:
                self._hold(claim)
        return is_taken

    def take_over(self, seen: SeenClaim) -> bool:
        """Claim a part that another worker left behind; False if another worker was faster.

        Raises:
            PrefpipeError: the disk is full, the folder cannot be written to.
        """
        n_before = 0 if seen.claim is None else seen.claim.n_taken_over
        claim = self._me.claim(seen.part, n_taken_over=n_before + 1)
        with self._lock:
            is_taken = self._storage.replace(seen.part, claim.to_bytes(), expected=seen.data)
            if is_taken:
                self._hold(claim)
        return is_taken

    def give_back(self, index: int) -> None:
        """Remove a claim: the part is on disk, or will not be made here.

        One that cannot be removed expires.
        """
        with self._lock, suppress(PrefpipeError):
            claim = self._held.pop(index, None)
            if claim is not None and self._mine_on_disk(index) is not None:
                self._storage.delete(index)

    def renew(self) -> None:
        """Renew all claims now.

        A claim that is gone, or taken over, is dropped: two workers then make the part.
        """
        with self._lock:
            for index in list(self._held):
                try:
                    self._renew(index)
                except PrefpipeError as error:
                    # no reason to stop: at worst another worker makes the part as well
                    self._warn(f"claims cannot be renewed: {error.message}")

    def close(self) -> None:
        """Give back all claims and stop renewing."""
        self._is_closed.set()
        for index in list(self._held):
            self.give_back(index)

    def _renew(self, index: int) -> None:
        claim = self._held[index]
        renewed = claim.renewed()
        if self._storage.replace(index, renewed.to_bytes(), expected=claim.to_bytes()):
            self._held[index] = renewed
            return

        # a renewal that was written although it reported an error
        mine = self._mine_on_disk(index)
        if mine is not None:
            self._held[index] = mine
            return
        del self._held[index]
        self._log(
            f"part {index}: another worker took it over because this worker's claim was not "
            f"renewed within {claim.lease_s:g} s; this worker finishes it anyway"
        )

    def _mine_on_disk(self, index: int) -> Claim | None:
        claim = Claim.from_bytes(self._storage.read(index) or b"")
        return claim if claim is not None and claim.owner == self._me.owner else None

    def _hold(self, claim: Claim) -> None:
        self._held[claim.part] = claim
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name="claims")
            self._thread.start()

    def _keep_renewing(self) -> None:
        while not self._is_closed.wait(self._me.lease_s / RENEWALS_A_LEASE):
            self.renew()

    def _warn(self, line: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log(f"warning: {line}")


def read_claims(artifact: Location) -> list[Claim]:
    """Return the claims of an artifact, by part; damaged ones are left out."""
    storage = claims_of(artifact)
    claims = []
    for index in sorted(storage.list()):
        with suppress(InputError):
            claim = Claim.from_bytes(storage.read(index) or b"")
            if claim is not None and claim.part == index:
                claims.append(claim)
    return claims


def has_worker(artifact: Location) -> bool:
    """Return whether a worker may be making a part: a claim's process is not known to be dead."""
    me = Claimant.this_process(run="", lease_s=0)
    return any(not me.knows_dead(claim) for claim in read_claims(artifact))


def remove_claims(artifact: Location, run: str, made: Collection[int]) -> None:
    """Remove claims without a purpose, and the folder when none is left.

    Those are claims of parts that are on disk, whoever held them, and of other runs.
    """
    storage = claims_of(artifact)
    of_other_runs = {claim.part for claim in read_claims(artifact) if claim.run != run}
    for index in storage.list():
        if index in made or index in of_other_runs:
            storage.delete(index)
    storage.remove_if_empty()

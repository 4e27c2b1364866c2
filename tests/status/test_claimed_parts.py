"""Who is making which part, as ``prefpipe status`` tells it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from support.finished_run import copy_to
from support.pipelines import open_artifact

from prefpipe.artifacts.claims import Claim, Claimant, ClaimFolder
from prefpipe.cli.status import status
from prefpipe.configs.status import StatusConfig
from prefpipe.status.checker import StatusChecker


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """An artifact whose parts 0 and 2 are missing."""
    folder = copy_to(tmp_path) / "candidates"
    for index in (0, 2):
        open_artifact(folder).part_path(index).unlink()
    return folder


Write = Callable[..., Claim]


@pytest.fixture
def write(candidates: Path) -> Write:
    """Write a claim of a living process, 1000 s old, renewed 10 s ago, unless other values are given."""

    def write_claim(index: int, **values: object) -> Claim:
        me = Claimant.this_process(open_artifact(candidates).record.fingerprint, 60)
        now = time.time()
        claim = replace(me.claim(index), begun_at=now - 1000, renewed_at=now - 10)
        claim = replace(claim, pid=os.getppid(), worker=f"here/{os.getppid()}")
        claim = replace(claim, **values)
        ClaimFolder(candidates).create(index, claim.to_bytes())
        return claim

    return write_claim


def shown(path: Path, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    with pytest.raises(typer.Exit) as end:
        status(StatusConfig(paths=(path,), as_json=as_json))
    assert end.value.exit_code == 4
    return "".join(capsys.readouterr())


def test_parts_that_are_being_made_are_listed_with_worker_and_times(
    candidates: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = write(0).worker
    write(2, worker="node7/4123", machine="elsewhere", owner="1" * 16, renewed_at=time.time() - 600)
    text = shown(candidates, capsys)
    assert f"part 0: {worker} is making it for 17 min, renewed 10 s ago" in text
    assert "part 2: left behind by node7/4123, last renewed 10 min ago" in text

    [report] = json.loads(shown(candidates, capsys, as_json=True))
    assert report["missing"] == [0, 2]
    assert [claim["part"] for claim in report["claims"]] == [0, 2]
    assert [claim["is_left_behind"] for claim in report["claims"]] == [False, True]
    assert report["claims"][1]["worker"] == "node7/4123"
    assert report["claims"][1]["lease_s"] == 60
    assert 590 < report["claims"][1]["renewed_s_ago"] < 700


def test_a_process_of_this_machine_that_is_gone_has_left_its_part_behind(
    candidates: Path, write: Write
) -> None:
    write(0, pid=2**22 + 7, owner="1" * 16)
    [claim] = StatusChecker().check(candidates).claims
    assert claim.is_left_behind
    assert claim.renewed_s_ago < 60


def test_a_clock_that_is_ahead_is_no_negative_age(candidates: Path, write: Write) -> None:
    write(0, renewed_at=time.time() + 1e6, begun_at=time.time() + 1e6)
    [claim] = StatusChecker().check(candidates).claims
    assert (claim.begun_s_ago, claim.renewed_s_ago, claim.is_left_behind) == (0, 0, False)


def test_claims_of_parts_on_disk_and_of_other_runs_are_not_shown(
    candidates: Path, write: Write
) -> None:
    write(1)
    write(0, run="e" * 64)
    write(77)
    (candidates / "claims" / "part-00002.json").write_text("{")
    report = StatusChecker().check(candidates)
    assert report.claims == []
    assert (report.state, report.missing) == ("partial", [0, 2])


def test_status_changes_no_file(candidates: Path, write: Write) -> None:
    write(0, pid=2**22 + 7, owner="1" * 16)
    write(1)
    before = {path: path.stat().st_mtime_ns for path in candidates.rglob("*")}
    StatusChecker().check(candidates)
    assert {path: path.stat().st_mtime_ns for path in candidates.rglob("*")} == before


def test_many_claims_are_counted_and_not_all_listed(
    candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefpipe.cli.status import _claim_lines
    from prefpipe.status.claimed_parts import ClaimedPart

    claims = [ClaimedPart(index, f"n/{os.getpid()}", 0, 1, 1, 60, False) for index in range(20)]
    lines = [line for line, _ in _claim_lines(claims)]
    assert len(lines) == 13
    assert lines[-1] == "and 8 more parts that workers have claimed; --json has them all"

"""Every state of an artifact is told, with its reason and what is left to make."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.finished_run import (
    N_PARTS,
    N_PROMPTS,
    PART_SIZE,
    N,
    command,
    copy_to,
    write_run_prompts,
)
from support.pipelines import open_artifact

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.status.artifact_status import ArtifactStatus, ranges
from prefpipe.status.checker import StatusChecker
from prefpipe.status.folders import find_artifacts
from prefpipe.status.origins import locate_parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


def part_of(folder: Path, index: int) -> Path:
    return open_artifact(folder).part_path(index)


def states_of(run: Path) -> dict[str, str]:
    checker = StatusChecker()
    return {path.name: checker.check(path).state for path in find_artifacts(run)}


def again(folder: Path, *more: str) -> None:
    """Run the recorded command once more, with more flags."""
    command([*open_artifact(folder).record.context["command"][1:], *more])


def test_a_finished_run_is_done_without_a_reason(run: Path) -> None:
    checker = StatusChecker()
    reports = [checker.check(path) for path in find_artifacts(run)]
    assert [(report.path.name, report.state) for report in reports] == [
        ("candidates", "done"),
        ("scores", "done"),
        ("embeddings", "done"),
        ("groups", "done"),
    ]
    assert not [line for report in reports for line in (*report.reasons, *report.notes)]
    assert reports[0].n_rows == N_PROMPTS * N
    assert reports[0].n_parts == N_PROMPTS // PART_SIZE


def test_missing_parts_make_it_partial_and_are_listed(run: Path) -> None:
    part_of(run / "scores", 0).unlink()
    part_of(run / "scores", 2).unlink()
    report = StatusChecker().check(run / "scores")
    assert (report.state, report.missing, report.to_make) == ("partial", [0, 2], [0, 2])
    assert report.reasons == ["missing: 2 parts, 0,2"]
    assert report.shards(2) == [0]  # parts 0 and 2 are both of shard 0 of 2
    assert report.shards(None) == [0, 2]
    assert report.shards(8) == [0, 2]


def test_a_changed_byte_is_corrupt_and_only_the_footer_is_read_when_quick(run: Path) -> None:
    part = part_of(run / "embeddings", 1)
    data = bytearray(part.read_bytes())
    data[10] ^= 1
    part.write_bytes(data)
    report = StatusChecker().check(run / "embeddings")
    assert (report.state, report.corrupt_parts, report.to_make) == ("corrupt", [1], [1])
    assert f"{part} is corrupt: its bytes changed after it was written" in report.reasons
    assert StatusChecker().check(run / "embeddings", quick=True).state == "done"


@pytest.mark.parametrize("quick", [False, True])
def test_a_truncated_part_is_corrupt(run: Path, quick: bool) -> None:
    part = part_of(run / "groups", 2)
    part.write_bytes(part.read_bytes()[:-20])
    report = StatusChecker().check(run / "groups", quick=quick)
    assert (report.state, report.corrupt_parts) == ("corrupt", [2])


@pytest.mark.parametrize("quick", [False, True])
def test_a_part_copied_over_another_is_corrupt(run: Path, quick: bool) -> None:
    """Whole, of this run, and the rows of other prompts."""
    shutil.copy(part_of(run / "candidates", 2), part_of(run / "candidates", 1))
    report = StatusChecker().check(run / "candidates", quick=quick)
    assert (report.state, report.corrupt_parts) == ("corrupt", [1])
    assert "under a different name" in report.reasons[0]


def test_an_edited_run_json_is_corrupt(run: Path) -> None:
    record = run / "scores" / "run.json"
    record.write_text(record.read_text().replace('"name": "fake"', '"name": "fakes"'))
    report = StatusChecker().check(run / "scores")
    assert report.state == "corrupt"
    assert "was edited: its identity does not match its fingerprint" in report.reasons[0]


def test_a_parent_of_another_configuration_makes_it_stale_and_the_fields_are_named(
    run: Path, tmp_path: Path
) -> None:
    again(run / "candidates", "--seed", "7", "--overwrite")
    report = StatusChecker().check(run / "scores")
    assert report.state == "stale"
    assert report.to_make == list(range(N_PARTS))
    assert (
        report.reasons[0]
        == f"its candidates, {run / 'candidates'}, have another configuration now:"
    )
    assert report.reasons[1] == "  seed: 0 then, 7 now"
    assert states_of(run) == {
        "candidates": "done",
        "scores": "stale",
        "embeddings": "stale",
        "groups": "stale",
    }


def test_a_parent_part_with_other_bytes_makes_that_part_stale(run: Path) -> None:
    """A retry gives a part of the same run with other rows; here part 1 is written again with a temperature changed."""
    candidates = open_artifact(run / "candidates")
    table, footer = candidates.read(1)
    from prefpipe.artifacts.parts import write_part

    write_part(
        candidates.part_path(1),
        table.slice(1),
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts=footer.counts,
        parents={},
    )
    report = StatusChecker().check(run / "scores")
    assert (report.state, report.outdated, report.to_make) == ("stale", [1], [1])
    assert report.reasons == ["part 1 was made from another version of its candidates"]
    groups = StatusChecker().check(run / "groups")
    assert (groups.state, groups.outdated) == ("stale", [1])
    assert f"its scores, {run / 'scores'}, are stale themselves" in groups.reasons


def test_staleness_reaches_grandchildren(run: Path) -> None:
    """Groups are made from scores: when only the scores' own parent moved on, groups are behind as well."""
    again(run / "candidates", "--seed", "7", "--overwrite")
    shutil.rmtree(run / "embeddings")
    report = StatusChecker().check(run / "groups")
    assert report.state == "stale"
    assert f"its scores, {run / 'scores'}, are stale themselves" in report.reasons


def test_parts_of_another_run_than_run_json_describes_are_stale(run: Path) -> None:
    again(
        run / "candidates", "--n", str(N + 1), "--extend", "--shard-index", "0", "--num-shards", "2"
    )
    report = StatusChecker().check(run / "candidates")
    assert (report.state, report.outdated) == (
        "stale",
        [1],
    )  # parts 0 and 2 were grown by shard 0 of 2
    assert report.reasons == ["from before the last extend: part 1"]
    scores = StatusChecker().check(run / "scores")
    assert f"  n: {N} then, {N + 1} now" in scores.reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:-1], "  prompts removed: 1"),
        (lambda rows: [*rows, {**rows[0], "prompt_id": "p9"}], "  prompts added: 1"),
        (
            lambda rows: [{**rows[0], "prompt": "other"}, *rows[1:]],
            "  prompts with a different text under the same id: 1",
        ),
        (lambda rows: rows[::-1], "  the prompts are in a different order"),
        (
            lambda rows: [{**rows[0], "topic": "x"}, *rows[1:]],
            "  the prompts' own columns, or prompts of parts that are missing",
        ),
        (
            lambda rows: [{**row, "prompt_id": "p0"} for row in rows],
            "  it cannot be read as it was: ",
        ),
    ],
)
def test_changed_prompts_make_candidates_stale_and_say_what_changed(
    run: Path, change, reason: str
) -> None:
    prompts = run.parent / "prompts.jsonl"
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    report = StatusChecker().check(run / "candidates")
    assert report.state == "stale"
    assert report.reasons[0] == f"its prompts, {prompts}, have changed since:"
    assert report.reasons[1].startswith(reason)


def test_prompts_written_anew_with_the_same_content_change_nothing(run: Path) -> None:
    write_run_prompts(run.parent / "prompts.jsonl")
    assert StatusChecker().check(run / "candidates").state == "done"


def test_deleted_parents_are_noted_and_not_judged(run: Path) -> None:
    (run.parent / "prompts.jsonl").unlink()
    shutil.move(run / "candidates", run / "elsewhere")
    scores, candidates = (
        StatusChecker().check(run / "scores"),
        StatusChecker().check(run / "elsewhere"),
    )
    assert (scores.state, candidates.state) == ("done", "done")
    assert scores.notes == [f"its candidates, {run / 'candidates'}, no longer exist"]
    assert candidates.notes == [f"its prompts, {run.parent / 'prompts.jsonl'}, no longer exist"]


def test_a_moved_run_finds_its_parents_beside_it(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(run, moved)
    groups = open_artifact(moved / "groups")
    assert locate_parent(groups, "scores") == moved / "scores"
    assert states_of(moved) == {
        "candidates": "done",
        "scores": "done",
        "embeddings": "done",
        "groups": "done",
    }


def test_a_copy_is_judged_by_its_own_parents_while_the_original_is_there(run: Path) -> None:
    """The copy's candidates are made again: the copy's scores and groups are stale, and the original's are not."""
    copy = run.parent / "copy"
    shutil.copytree(run, copy)
    changed = [
        *open_artifact(run / "candidates").record.context["command"][1:],
        "--seed",
        "5",
        "--overwrite",
    ]
    command(
        [str(copy / "candidates") if word == str(run / "candidates") else word for word in changed]
    )

    assert states_of(run) == {
        "candidates": "done",
        "scores": "done",
        "embeddings": "done",
        "groups": "done",
    }
    assert states_of(copy) == {
        "candidates": "done",
        "scores": "stale",
        "embeddings": "stale",
        "groups": "stale",
    }
    assert locate_parent(open_artifact(copy / "groups"), "scores") == copy / "scores"


def test_a_change_of_the_original_leaves_its_copy_done(run: Path) -> None:
    copy = run.parent / "deeper" / "copy"
    shutil.copytree(run, copy)
    again(run / "candidates", "--seed", "5", "--overwrite")
    assert states_of(run) == {
        "candidates": "done",
        "scores": "stale",
        "embeddings": "stale",
        "groups": "stale",
    }
    assert states_of(copy) == {
        "candidates": "done",
        "scores": "done",
        "embeddings": "done",
        "groups": "done",
    }


def test_a_lost_run_json_is_corrupt_and_the_same_command_mends_it(run: Path) -> None:
    words = open_artifact(run / "candidates").record.context["command"][1:]
    (run / "candidates" / "run.json").unlink()
    assert states_of(run) == {
        "candidates": "corrupt",
        "scores": "done",
        "embeddings": "done",
        "groups": "done",
    }
    report = StatusChecker().check(run / "candidates")
    assert report.reasons[0].startswith(f"{run / 'candidates'} has {N_PARTS} parts and no run.json")
    assert StatusChecker().check(run / "scores").notes == [
        f"its candidates, {run / 'candidates'}, have lost their run.json"
    ]

    before = {part: part.stat().st_mtime_ns for part in (run / "candidates").glob("part-*")}
    command(words)
    assert states_of(run) == {
        "candidates": "done",
        "scores": "done",
        "embeddings": "done",
        "groups": "done",
    }
    assert before == {part: part.stat().st_mtime_ns for part in (run / "candidates").glob("part-*")}


def test_of_an_artifact_that_was_renamed_alone_the_parents_are_where_they_were(run: Path) -> None:
    shutil.move(run / "groups", run.parent / "old-groups")
    groups = open_artifact(run.parent / "old-groups")
    assert locate_parent(groups, "candidates") == run / "candidates"
    assert StatusChecker().check(groups.path).state == "done"


def test_parents_recorded_as_relative_paths_are_found_from_the_recorded_folder(
    run: Path, monkeypatch, tmp_path: Path
) -> None:
    """Recorded as ``candidates`` from within ``run``; looked for from another folder and from ``run`` itself."""
    scores = open_artifact(run / "scores")
    record = scores.record
    record.parents["candidates"] = "candidates"
    record.context["folder"] = str(run)
    monkeypatch.chdir(tmp_path)
    assert locate_parent(Artifact(scores.path, record), "candidates") == Path("run/candidates")
    monkeypatch.chdir(run)
    assert locate_parent(Artifact(scores.path, record), "candidates") == Path("candidates")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert locate_parent(Artifact(scores.path, record), "candidates") == run / "candidates"


def test_an_artifact_that_names_itself_as_parent_ends(run: Path) -> None:
    record = json.loads((run / "scores" / "run.json").read_text())
    record["parents"]["candidates"] = str(run / "scores")
    (run / "scores" / "run.json").write_text(json.dumps(record))
    assert StatusChecker().check(run / "scores").state == "done"


def test_a_parent_that_lacks_parts_is_noted(run: Path) -> None:
    part_of(run / "candidates", 0).unlink()
    report = StatusChecker().check(run / "scores")
    assert report.state == "done"
    assert report.notes == ["1 part could not be compared with its candidates, which lack it"]


@pytest.mark.slow
def test_an_evaluation_without_its_summary_is_partial(run: Path) -> None:
    """``summary.json`` is what eval writes last."""
    sides = ["--policy", str(run / "candidates"), "--baseline", str(run / "candidates")]
    scores = ["--policy-scores", str(run / "scores"), "--baseline-scores", str(run / "scores")]
    command(["eval", *sides, *scores, "--reward", "fake", "-o", str(run / "eval")])
    assert StatusChecker().check(run / "eval").state == "done"
    (run / "eval" / "summary.json").unlink()
    report = StatusChecker().check(run / "eval")
    assert (report.state, report.reasons) == (
        "partial",
        ["it has no summary.json, which is written last"],
    )
    (run / "eval" / "checkpoint-9").mkdir()
    (run / "eval" / "checkpoint-10").mkdir()
    assert (
        StatusChecker()
        .check(run / "eval")
        .reasons[0]
        .endswith("training resumes from checkpoint-10")
    )


@pytest.mark.slow
def test_an_evaluation_of_candidates_that_were_made_again_is_stale(run: Path) -> None:
    sides = ["--policy", str(run / "candidates"), "--baseline", str(run / "candidates")]
    scores = ["--policy-scores", str(run / "scores"), "--baseline-scores", str(run / "scores")]
    command(["eval", *sides, *scores, "--reward", "fake", "-o", str(run / "eval")])
    again(run / "candidates", "--seed", "7", "--overwrite")
    report = StatusChecker().check(run / "eval")
    assert report.state == "stale"
    assert any("policy_candidates" in reason for reason in report.reasons)


def test_artifacts_are_found_in_the_order_of_the_pipeline(run: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_artifacts(tmp_path)] == [
        "candidates",
        "scores",
        "embeddings",
        "groups",
    ]
    assert find_artifacts(run / "groups") == [run / "groups"]
    (tmp_path / "empty").mkdir()
    assert find_artifacts(tmp_path / "empty") == []


def test_what_is_no_artifact_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_artifacts(tmp_path / "absent")
    with pytest.raises(InputError, match=r"prompts\.jsonl is a file, and an artifact is a folder"):
        find_artifacts(tmp_path / "prompts.jsonl")
    with pytest.raises(InputError, match=r"is a file") as caught:
        find_artifacts(run / "scores" / "run.json")
    assert caught.value.hint == f"pass {run / 'scores'}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is not a prefpipe artifact: it has no run\.json"):
        StatusChecker().check(tmp_path / "empty")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([3, 7], "3,7"), ([0, 1, 2], "0-2"), ([0, 2, 3, 4, 9], "0,2-4,9")],
)
def test_ranges_read_as_slurm_reads_them(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_the_gravest_state_wins() -> None:
    status = ArtifactStatus(Path("x"), n_parts=4)
    assert status.state == "done"
    status = replace(status, missing=[3])
    assert status.state == "partial"
    status = replace(status, outdated=[1])
    assert status.state == "stale"
    status = replace(status, corrupt_parts=[0])
    assert status.state == "corrupt"
    assert status.to_make == [0, 1, 3]


def test_the_command_that_made_it_can_be_pasted(run: Path) -> None:
    """``checks + 0.5 * fake`` has spaces and a star, and comes back as one word."""
    report = StatusChecker().check(run / "groups")
    assert shlex.split(report.command) == open_artifact(run / "groups").record.context["command"]

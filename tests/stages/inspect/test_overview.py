"""The overview of an artifact is what its rows say, and its page shows it at any width."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console
from support.finished_run import N_PARTS, N_PROMPTS, K, N, copy_to, original
from support.pipelines import open_artifact, table_of

from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.errors import CorruptPartError, UsageError
from prefpipe.pages.overview import overview_page
from prefpipe.stages.inspect.overview import overview, type_words

KINDS = ("candidates", "scores", "embeddings", "groups")


def found_of(kind: str) -> dict:
    return overview(open_artifact(original() / "run" / kind))


def page_of(found: dict, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for item in overview_page(found, width=width):
        console.print(item)
    return console.file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_nulls_are_those_of_the_rows(kind: str) -> None:
    table, found = table_of(original() / "run" / kind), found_of(kind)
    assert found["n_rows"] == table.num_rows
    assert found["parts"] == {"n": N_PARTS, "n_present": N_PARTS}
    assert {name: entry["n_null"] for name, entry in found["columns"].items()} == {
        name: table[name].null_count for name in table.column_names
    }
    statuses = table["status"].to_pylist()
    assert found["statuses"] == {status: statuses.count(status) for status in set(statuses)}
    assert found["n_bytes"] == sum(
        path.stat().st_size for path in (original() / "run" / kind).glob("part-*")
    )


def test_reward_distributions_are_those_of_the_rows() -> None:
    table, found = table_of(original() / "run" / "scores"), found_of("scores")
    for scorer in ("checks", "fake"):
        rewards = table.filter(pc.equal(table["scorer"], scorer))["reward"].to_numpy()
        item = next(
            item for item in found["distributions"] if item["name"] == f"reward of {scorer}"
        )
        assert (item["min"], item["max"], item["mean"]) == pytest.approx(
            (rewards.min(), rewards.max(), rewards.mean())
        )


def test_reasons_stand_under_their_status() -> None:
    """Responses of the fake back-end that are cut at 64 tokens have one reason."""
    found = found_of("candidates")
    assert found["reasons"]["truncated"]["reasons"] == {
        "reached the limit of 64 tokens": found["statuses"]["truncated"]
    }


def test_columns_have_types_and_meanings_and_the_users_own_are_called_so() -> None:
    columns = found_of("candidates")["columns"]
    assert list(columns)[: len(CANDIDATES.column_names)] == CANDIDATES.column_names
    assert columns["seed"]["meaning"] == next(
        column.meaning for column in CANDIDATES.columns if column.name == "seed"
    )
    assert columns["topic"]["meaning"] == "the user's own column"
    assert columns["messages"]["type"] == "list<struct<role, content>>"
    assert columns["prompt_token_ids"]["type"] == "list<int32>"


def test_overview_counts_groups_by_size() -> None:
    facts = found_of("groups")["facts"]
    assert facts["n_groups"] + facts["n_prompts_rejected"] == N_PROMPTS
    assert facts["sizes"] == {f"1+{K}": facts["n_groups"]}
    assert facts["roles"] == {"positive": facts["n_groups"], "negative": K * facts["n_groups"]}


def test_run_facts_name_parents_versions_and_command() -> None:
    found = found_of("scores")
    assert found["parents"] == {"candidates": str(original() / "run" / "candidates")}
    assert found["run"]["context"]["versions"]["prefpipe"]
    assert found["run"]["context"]["command"][:2] == ["prefpipe", "score"]
    assert "candidates" not in found["run"]["settings"]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits_its_width_and_holds_the_figures(kind: str, width: int) -> None:
    found = found_of(kind)
    page = page_of(found, width)
    assert f"{found['n_rows']:,} rows" in page
    assert found["fingerprint"][:12] in page
    for name in found["columns"]:
        assert name in page
    if width >= 80:
        assert all(len(line) <= width for line in page.splitlines() if not line.startswith("/"))
    assert ("key of the prompt" in page) is (width >= 110)


def test_a_partial_artifact_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    run = copy_to(tmp_path)
    open_artifact(run / "candidates").part_path(1).unlink()
    found = overview(open_artifact(run / "candidates"))
    assert found["parts"] == {"n": N_PARTS, "n_present": N_PARTS - 1}
    assert found["n_rows"] == (N_PROMPTS - 2) * N
    assert "in 2 of 3 parts" in page_of(found, 80)


def test_an_artifact_without_parts_has_a_page(tmp_path: Path) -> None:
    run = copy_to(tmp_path)
    for part in (run / "groups").glob("part-*"):
        part.unlink()
    page = page_of(overview(open_artifact(run / "groups")), 80)
    assert "0 rows in 0 of 3 parts" in page


def test_a_damaged_part_is_an_error(tmp_path: Path) -> None:
    run = copy_to(tmp_path)
    part = open_artifact(run / "scores").part_path(0)
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(CorruptPartError, match="its bytes changed after it was written"):
        overview(open_artifact(run / "scores"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pa.list_(pa.float32(), 384), "float[384]"),
        (pa.list_(pa.list_(pa.int32())), "list<list<int32>>"),
        (pa.struct([("a", pa.int8())]), "struct<a>"),
        (pa.large_string(), "large_string"),
    ],
)
def test_type_words_are_short(kind: pa.DataType, words: str) -> None:
    assert type_words(kind) == words


def test_groups_without_a_bound_have_a_page() -> None:
    found = found_of("groups")
    found["facts"]["largest_gap_to_lower_bound"] = None
    assert "largest gap to lower bound  -" in page_of(found, 120)


def test_a_gamma_adds_the_targets_to_the_page_of_groups_and_is_refused_elsewhere() -> None:
    groups = open_artifact(original() / "run" / "groups")
    found = overview(groups, gamma=2.0, n_bins=4)
    (targets,) = [each for each in found["distributions"] if each["name"] == "MMPO target"]
    assert targets["edges"] == (0.5, 0.625, 0.75, 0.875, 1.0)
    assert sum(targets["counts"]) == targets["n"] == found["facts"]["roles"]["negative"]
    assert "MMPO target, sigma(2 x margin) of each pair" in page_of(found, 80)
    with pytest.raises(UsageError, match=r"--gamma applies only to groups, and .* holds scores"):
        overview(open_artifact(original() / "run" / "scores"), gamma=2.0)

"""Damaged parts, changed parents and changed configurations: what is made again, what is kept, what is refused."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.pipelines import (
    assert_same_artifact,
    identities_of,
    open_artifact,
    rows_of,
    write_prompts,
)
from support.stage_server import StageServer

from prefpipe.artifacts import parts
from prefpipe.artifacts.run_record import read_run_record

pytestmark = pytest.mark.slow

STAGES = ("generate", "score", "embed", "select")
PART = "part-00002-of-00005.parquet"


def commands(folder: Path) -> dict[str, list[str]]:
    candidates = folder / "generate"
    words = {
        "generate": [
            "generate",
            folder / "prompts.jsonl",
            "--backend",
            "fake",
            "--model",
            "fake",
            "--n",
            4,
            "--part-size",
            2,
            "-o",
            candidates,
        ],
        "score": ["score", candidates, "--scorer", "fake", "-o", folder / "score"],
        "embed": ["embed", candidates, "--model", "fake", "-o", folder / "embed"],
        "select": [
            "select",
            candidates,
            "--scores",
            folder / "score",
            "--embeddings",
            folder / "embed",
            "--k",
            2,
            "-o",
            folder / "select",
        ],
    }
    return {stage: [str(word) for word in line] for stage, line in words.items()}


@pytest.fixture(scope="module")
def pristine(stages: StageServer, fast_root: Path) -> Path:
    folder = fast_root / "pristine"
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", 10)
    for words in commands(folder).values():
        assert stages.run(*words).code == 0
    return folder


@pytest.fixture
def work(pristine: Path, folder: Path) -> Path:
    """A copy of the finished chain; its run records name the pristine folder, which is no identity."""
    return Path(shutil.copytree(pristine, folder / "work"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_in_data(path: Path) -> None:
    flip(path, parts.read_footer(path).data_bytes // 2)


def flip_in_footer(path: Path) -> None:
    flip(path, parts.read_footer(path).data_bytes + 40)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << random.Random(place).randrange(8)
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_a_neighbour_there(path: Path) -> None:
    shutil.copy(path.parent / "part-00001-of-00005.parquet", path)


DAMAGES = [truncate, flip_in_data, flip_in_footer, empty, put_a_neighbour_there, Path.unlink]
damages = pytest.mark.parametrize(
    "damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", " ")
)


@damages
@pytest.mark.parametrize("stage", STAGES)
def test_only_the_damaged_part_is_made_again(
    stages: StageServer, pristine: Path, work: Path, stage: str, damage: Callable[[Path], None]
) -> None:
    path = work / stage / PART
    before = identities_of(work / stage)
    damage(path)
    outcome = stages.run(*commands(work)[stage])
    assert outcome.code == 0, outcome.stderr
    assert "4 of 5 parts are finished and kept" in outcome.stderr
    after = identities_of(work / stage)
    assert {name for name in after if after[name] != before[name]} == {PART}
    assert_same_artifact(work / stage, pristine / stage)


@damages
def test_a_stage_refuses_a_damaged_input_and_says_how_to_mend_it(
    stages: StageServer, work: Path, damage: Callable[[Path], None]
) -> None:
    """Nothing is computed from bytes that were not written; the mended input gives the old digest, so the rest is kept."""
    path = work / "generate" / PART
    damage(path)
    shutil.rmtree(work / "score")
    refused = stages.run(*commands(work)["score"])
    assert refused.code in (1, 4)
    assert "part 2" in refused.stderr or str(path) in refused.stderr
    assert (
        "run the command that made it again" in refused.stderr
        or "finish that stage" in refused.stderr
    )
    assert stages.run(*commands(work)["generate"]).code == 0
    assert stages.run(*commands(work)["score"]).code == 0
    for stage in ("embed", "select"):
        before = identities_of(work / stage)
        assert stages.run(*commands(work)[stage]).code == 0
        assert identities_of(work / stage) == before


def change_a_response(folder: Path) -> None:
    """Write a whole, honest part whose rows differ, as another sampling of the same run would be."""
    artifact = open_artifact(folder)
    table, footer = artifact.read(2)
    responses = pc.binary_join_element_wise(table["response"], "!", "")
    table = table.set_column(
        table.column_names.index("response"), table.schema.field("response"), responses
    )
    parts.write_part(
        artifact.part_path(2),
        table,
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts=footer.counts,
        parents={},
    )


def test_a_part_made_from_a_changed_parent_part_is_made_again_and_no_other(
    stages: StageServer, pristine: Path, work: Path
) -> None:
    change_a_response(work / "generate")
    for stage in ("score", "embed", "select"):
        before = identities_of(work / stage)
        outcome = stages.run(*commands(work)[stage])
        assert outcome.code == 0, outcome.stderr
        after = identities_of(work / stage)
        assert {name for name in after if after[name] != before[name]} == {PART}
    selected = [row for row in rows_of(work / "select") if row["prompt_id"] in ("p004", "p005")]
    assert all(row["response"].endswith("!") for row in selected)
    assert [row for row in rows_of(work / "select") if row not in selected] == [
        row for row in rows_of(pristine / "select") if row["prompt_id"] not in ("p004", "p005")
    ]


@pytest.mark.parametrize(("stale", "fresh"), [("score", "embed"), ("embed", "score")])
def test_select_refuses_a_parent_that_is_older_than_the_candidates_and_names_the_command(
    stages: StageServer, work: Path, stale: str, fresh: str
) -> None:
    change_a_response(work / "generate")
    assert stages.run(*commands(work)[fresh]).code == 0
    refused = stages.run(*commands(work)["select"])
    assert refused.code == 1
    assert (
        f"{work / stale / PART} was made from another version of {work / 'generate' / PART}"
        in refused.stderr
    )
    assert f"run the `prefpipe {stale}` command again: it makes this part again" in refused.stderr


IDENTITY_CHANGES = [
    ("generate", ["--temperature", "1.0"], "temperature: [0.8] on disk, [1.0] requested"),
    ("generate", ["--seed", "5"], "seed: 0 on disk, 5 requested"),
    ("generate", ["--n", "8"], "n: 4 on disk, 8 requested"),
    ("generate", ["--max-tokens", "64"], "max_tokens: 1024 on disk, 64 requested"),
    ("generate", ["--part-size", "3"], "part_size: 2 on disk, 3 requested"),
    ("generate", ["--model", "other"], 'models.1.fake: absent on disk, "other" requested'),
    (
        "generate",
        ["--system-prompt", "Be brief."],
        'system_prompt: null on disk, "Be brief." requested',
    ),
    ("score", ["--scorer", "other=fake"], 'scorers.1.name: absent on disk, "other" requested'),
    (
        "embed",
        ["--text", "prompt+response"],
        'text: "response" on disk, "prompt+response" requested',
    ),
    ("embed", ["--dtype", "float16"], 'dtype: "float32" on disk, "float16" requested'),
    ("select", ["--k", "3"], "k: 2 on disk, 3 requested"),
    ("select", ["--strategy", "random"], 'strategy: "opt-select" on disk, "random" requested'),
]


@pytest.mark.parametrize(
    ("stage", "flags", "line"),
    IDENTITY_CHANGES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_configuration_in_the_same_folder_is_refused_with_the_field_and_both_values(
    stages: StageServer, work: Path, stage: str, flags: list[str], line: str
) -> None:
    before = identities_of(work / stage)
    refused = stages.run(*commands(work)[stage], *flags)
    assert refused.code == 2
    assert f"{work / stage} holds the result of a different configuration:" in refused.stderr
    assert line in refused.stderr
    assert (
        "choose another folder with -o, restore the old values, or start again with --overwrite"
        in refused.stderr
    )
    assert identities_of(work / stage) == before


def test_the_refusal_names_nothing_but_what_differs(stages: StageServer, work: Path) -> None:
    refused = stages.run(*commands(work)["generate"], "--seed", 5, "--top-p", 0.9)
    differences = [line.strip() for line in refused.stderr.splitlines() if "on disk" in line]
    assert differences == ["seed: 0 on disk, 5 requested", "top_p: 1.0 on disk, 0.9 requested"]


def test_changed_prompts_are_another_configuration(stages: StageServer, work: Path) -> None:
    write_prompts(work / "prompts.jsonl", 9)
    refused = stages.run(*commands(work)["generate"])
    assert refused.code == 2
    assert "prompts: " in refused.stderr


def test_a_change_of_the_parent_run_is_named_in_the_child(stages: StageServer, work: Path) -> None:
    """Other candidates under the same path: score refuses with the field of generate that differs."""
    assert stages.run(*commands(work)["generate"], "--seed", 5, "--overwrite").code == 0
    refused = stages.run(*commands(work)["score"])
    assert refused.code == 2
    assert "candidates.seed: 0 on disk, 5 requested" in refused.stderr
    select = stages.run(*commands(work)["select"])
    assert select.code == 1
    assert f"--scores {work / 'score'} was not made for {work / 'generate'}" in select.stderr
    assert f"prefpipe score {work / 'generate'} ..." in select.stderr


OTHER_FLAGS = [
    (
        "generate",
        [
            "--batch-size",
            "3",
            "--device",
            "cpu",
            "--gpu-memory-utilization",
            "0.5",
            "--max-error-rate",
            "0.5",
        ],
    ),
    ("score", ["--batch-size", "3", "--device", "cpu"]),
    ("embed", ["--batch-size", "3", "--device", "cpu"]),
    ("select", ["--workers", "1"]),
]


@pytest.mark.parametrize(("stage", "flags"), OTHER_FLAGS, ids=STAGES)
def test_a_field_that_cannot_change_the_rows_keeps_every_part(
    stages: StageServer, work: Path, stage: str, flags: list[str]
) -> None:
    before = identities_of(work / stage)
    outcome = stages.run(*commands(work)[stage], *flags)
    assert outcome.code == 0, outcome.stderr
    assert "5 of 5 parts are finished and kept" in outcome.stderr
    assert "loading" not in outcome.stderr
    assert identities_of(work / stage) == before


def test_paths_are_no_identity_and_relative_ones_work(
    stages: StageServer, pristine: Path, work: Path
) -> None:
    """The same chain under another folder, and called from inside it, is the same chain."""
    words = commands(Path())
    for stage in STAGES:
        outcome = stages.run(*words[stage], cwd=str(work))
        assert outcome.code == 0, outcome.stderr
        assert "5 of 5 parts are finished and kept" in outcome.stderr
        assert_same_artifact(work / stage, pristine / stage)


def test_a_delay_of_the_fake_engine_is_no_identity_and_an_error_rate_is(
    stages: StageServer, work: Path
) -> None:
    words = [
        word.replace("fake", "fake:delay_s=0.5") if word == "fake" else word
        for word in commands(work)["generate"]
    ]
    words[words.index("--backend") + 1] = "fake"
    assert "5 of 5 parts are finished and kept" in stages.run(*words).stderr
    failing = [word.replace("delay_s=0.5", "error_rate=0.5") for word in words]
    assert stages.run(*failing).code == 2


def test_overwrite_starts_again(stages: StageServer, work: Path) -> None:
    assert stages.run(*commands(work)["generate"], "--n", 2, "--overwrite").code == 0
    assert {row["sample_idx"] for row in rows_of(work / "generate")} == {0, 1}
    assert read_run_record(work / "generate").identity["n"] == 2


def test_an_extension_samples_only_what_is_new_and_is_recorded(
    stages: StageServer, pristine: Path, work: Path
) -> None:
    """The tokens sampled are those of sample 4 and 5; rows 0 to 3 are kept as they were; other differences are refused."""
    grown = stages.run(*commands(work)["generate"], "--n", 6, "--extend", "--json")
    assert grown.code == 0, grown.stderr
    rows = rows_of(work / "generate")
    new = [row for row in rows if row["sample_idx"] >= 4]
    assert f'"n_tokens": {sum(row["n_response_tokens"] for row in new)},' in grown.stdout
    old = [{**row, "duplicate_of": None} for row in rows if row["sample_idx"] < 4]
    assert old == [{**row, "duplicate_of": None} for row in rows_of(pristine / "generate")]
    [step] = read_run_record(work / "generate").history
    assert step == {
        "operation": "extend",
        "from": read_run_record(pristine / "generate").fingerprint,
        "n_before": 4,
        "n": 6,
    }
    smaller = stages.run(*commands(work)["generate"], "--extend")
    assert smaller.code == 2
    assert "already has n = 6; --n 4 is not larger" in smaller.stderr
    warmer = stages.run(*commands(work)["generate"], "--n", 8, "--temperature", 1, "--extend")
    assert warmer.code == 2
    assert "--extend changes only --n" in warmer.stderr
    assert "temperature: [0.8] on disk, [1.0] requested" in warmer.stderr
    nowhere = stages.run(*commands(work)["generate"][:-1], work / "nowhere", "--extend")
    assert nowhere.code == 2
    assert "--extend: there is no run to extend" in nowhere.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("{}", "cannot be read"),
        (
            '{"fingerprint": "00", "stage": "generate", "schema": "candidates/2", "n_parts": 5, "identity": {"n": 4}}',
            "was edited",
        ),
    ],
    ids=["empty", "without fields", "edited"],
)
def test_a_damaged_run_json_is_refused_and_overwrite_helps(
    stages: StageServer, pristine: Path, work: Path, content: str, message: str
) -> None:
    (work / "generate" / "run.json").write_text(content)
    for stage in ("generate", "score"):
        refused = stages.run(*commands(work)[stage])
        assert refused.code == 1
        assert str(work / "generate" / "run.json") in refused.stderr
        assert message in refused.stderr
        assert "--overwrite" in refused.stderr
    assert stages.run(*commands(work)["generate"], "--overwrite").code == 0
    assert_same_artifact(work / "generate", pristine / "generate")


def test_a_release_that_writes_another_schema_is_told_apart(
    stages: StageServer, work: Path
) -> None:
    path = work / "generate" / "run.json"
    path.write_text(path.read_text().replace('"candidates/2"', '"candidates/7"'))
    refused = stages.run(*commands(work)["score"])
    assert refused.code == 1
    assert "has schema candidates/7, and this release reads candidates/1" in refused.stderr


def test_a_part_with_another_schema_is_refused(stages: StageServer, work: Path) -> None:
    """Mixed schemas: a part of scores under the name and the fingerprint of a part of candidates."""
    artifact = open_artifact(work / "generate")
    table = open_artifact(work / "score").read(2)[0]
    fingerprint = artifact.record.fingerprint
    parts.write_part(
        artifact.part_path(2),
        table,
        fingerprint=fingerprint,
        schema="scores/1",
        counts={},
        parents={},
    )
    for stage in ("generate", "score"):
        refused = stages.run(*commands(work)[stage])
        assert refused.code == 1
        assert (
            f"{artifact.part_path(2)} has schema scores/1, its artifact says candidates/2"
            in refused.stderr
        )
        assert "rerun the stage that made it with --overwrite" in refused.stderr


def test_a_part_of_another_run_is_told_apart(
    stages: StageServer, pristine: Path, work: Path
) -> None:
    """A part copied in from another folder has its own fingerprint: refused as an input, made again as an output."""
    other = [*commands(work)["generate"][:-1], str(work / "other"), "--seed", "9"]
    assert stages.run(*other).code == 0
    shutil.copy(work / "other" / PART, work / "generate" / PART)
    refused = stages.run(*commands(work)["score"])
    assert refused.code == 1
    assert "was not made by the run that its run.json describes" in refused.stderr
    assert stages.run(*commands(work)["generate"]).code == 0
    assert_same_artifact(work / "generate", pristine / "generate")


def test_read_all_refuses_parts_with_other_columns(work: Path) -> None:
    artifact = open_artifact(work / "generate")
    table, footer = artifact.read(2)
    more = table.append_column("mine", pa.array(range(table.num_rows)))
    parts.write_part(
        artifact.part_path(2),
        more,
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts=footer.counts,
        parents={},
    )
    with pytest.raises(
        Exception,
        match=r"part-00002-of-00005.parquet differs from part-00000-of-00005.parquet in columns or types",
    ):
        artifact.read_all()

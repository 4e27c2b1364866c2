"""A prompts file is compared as ``generate`` would read it: with the run's system prompt and columns."""

from pathlib import Path

from support.finished_run import command
from support.pipelines import open_artifact, write_json_lines

from prefpipe.artifacts.prompt_changes import changes_of_prompts

ROWS = [{"prompt": "one", "topic": "x", "note": "a"}, {"prompt": "two", "topic": "y", "note": "b"}]


def candidates_of(tmp_path: Path, *flags: str):
    prompts = write_json_lines(tmp_path / "p.jsonl", ROWS)
    command(
        [
            "generate",
            str(prompts),
            "-o",
            str(tmp_path / "c"),
            "--backend",
            "fake",
            "--model",
            "fake",
            "--n",
            "1",
            *flags,
        ]
    )
    return open_artifact(tmp_path / "c"), prompts


def test_the_same_file_has_not_changed(tmp_path: Path) -> None:
    assert changes_of_prompts(*candidates_of(tmp_path)) == []


def test_the_runs_settings_are_used_to_read_the_file(tmp_path: Path) -> None:
    """A system prompt and chosen columns are in the recorded hash, so the file is read with both."""
    assert (
        changes_of_prompts(
            *candidates_of(tmp_path, "--system-prompt", "be kind", "--columns", "topic")
        )
        == []
    )


def test_a_column_that_was_left_out_may_change(tmp_path: Path) -> None:
    candidates, prompts = candidates_of(tmp_path, "--columns", "topic")
    write_json_lines(prompts, [{**row, "note": "other"} for row in ROWS])
    assert changes_of_prompts(candidates, prompts) == []
    write_json_lines(prompts, [{**row, "topic": "other"} for row in ROWS])
    assert changes_of_prompts(candidates, prompts) == [
        "the prompts' own columns, or prompts of parts that are missing, are different"
    ]


def test_without_columns_none_is_compared(tmp_path: Path) -> None:
    candidates, prompts = candidates_of(tmp_path, "--columns", "none")
    write_json_lines(prompts, [{**row, "topic": "other"} for row in ROWS])
    assert changes_of_prompts(candidates, prompts) == []


def test_another_text_without_an_id_is_a_new_prompt_and_a_gone_one(tmp_path: Path) -> None:
    """The id is the hash of the text, so a changed text is another prompt."""
    candidates, prompts = candidates_of(tmp_path)
    write_json_lines(prompts, [ROWS[0], {**ROWS[1], "prompt": "three"}])
    assert changes_of_prompts(candidates, prompts) == [
        "prompts added: 1",
        "prompts removed: 1",
    ]


def test_a_broken_file_says_what_is_wrong(tmp_path: Path) -> None:
    candidates, prompts = candidates_of(tmp_path)
    prompts.write_text('{"prompt": "one"\n')
    [line] = changes_of_prompts(candidates, prompts)
    assert line.startswith("it cannot be read as it was: ")


def test_what_was_said_of_the_conversations_is_used_to_read_the_file(tmp_path: Path) -> None:
    """Each of these files is refused, or other prompts, without the run's flags."""
    rows = [
        {"prompt": "[INST] one [/INST]", "system": "Be kind."},
        {"prompt": "two", "tools": [{"name": "look"}]},
    ]
    prompts = write_json_lines(tmp_path / "p.jsonl", rows)
    flags = ["--prompts-are-text", "--leave-out", "system", "--leave-out", "tools"]
    words = [
        "generate",
        str(prompts),
        "-o",
        str(tmp_path / "c"),
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        "1",
    ]
    command([*words, *flags])
    candidates = open_artifact(tmp_path / "c")
    assert changes_of_prompts(candidates, prompts) == []
    assert candidates.record.identity["leave_out"] == ["system", "tools"]
    assert candidates.record.identity["prompts_are_text"] is True


def test_runs_that_need_none_of_it_have_the_identity_that_they_always_had(tmp_path: Path) -> None:
    candidates, _ = candidates_of(tmp_path)
    assert not {"leave_out", "prompts_are_text"} & candidates.record.identity.keys()

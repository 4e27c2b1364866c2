"""HelpSteer2, HelpSteer3, PKU-SafeRLHF and NeMo-RL's completions, from small files written by hand."""

from pathlib import Path
from typing import Any

import pytest
from support.finished_run import command
from support.interchange_files import held, kept, lines, read, user, write_groups
from support.pipelines import rows_of

from prefpipe.artifacts.interchange.formats import FORMATS as READERS
from prefpipe.cli.main import run
from prefpipe.configs.import_files import FORMATS
from prefpipe.errors import InputError

TALK = "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nName a sea."
HELPSTEER2 = [
    {
        "prompt": prompt,
        "response": text,
        "helpfulness": mark,
        "correctness": mark,
        "coherence": 4,
        "complexity": 1,
        "verbosity": 2,
    }
    for prompt, text, mark in (
        ("Name a lake.", "Chad.", 4),
        ("Name a lake.", "Nile.", 0),
        (TALK, "Black Sea.", 3),
        (TALK, "Alps.", 1),
    )
]


def scores_of(pool: Any) -> dict[str, dict[str, float | None]]:
    return {
        response.text: dict(response.scores) for members in pool.responses for response in members
    }


def test_helpsteer2_rows_become_prompts_with_two_responses_and_five_scores(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "a.jsonl", *HELPSTEER2), "helpsteer2")
    assert pool.scorers == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    assert scores_of(pool)["Black Sea."] == {
        "helpfulness": 3.0,
        "correctness": 3.0,
        "coherence": 4.0,
        "complexity": 1.0,
        "verbosity": 2.0,
    }
    assert [len(members) for members in pool.responses] == [2, 2]


def test_helpsteer2_turn_markers_are_turns(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "a.jsonl", *HELPSTEER2), "helpsteer2")
    assert pool.prompts.rows[0].messages == user("Name a lake.")
    assert pool.prompts.rows[1].messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Name a sea."},
    ]


def test_helpsteer2_may_lack_some_scores(tmp_path: Path) -> None:
    rows = [
        {
            name: value
            for name, value in row.items()
            if name in ("prompt", "response", "helpfulness")
        }
        for row in HELPSTEER2
    ]
    assert read(lines(tmp_path / "a.jsonl", *rows), "helpsteer2").scorers == ("helpfulness",)


@pytest.mark.parametrize(
    ("preference", "first", "second"),
    [(-3, 3.0, 0.0), (2, 0.0, 2.0), (0, 0.0, 0.0), (None, None, None)],
)
def test_helpsteer3_preference_is_the_reward_of_the_preferred(
    tmp_path: Path, preference: int | None, first: float | None, second: float | None
) -> None:
    """Negative numbers are for the first response."""
    row = {
        "domain": "general",
        "context": user("q"),
        "response1": "one",
        "response2": "two",
        "overall_preference": preference,
    }
    found = scores_of(read(lines(tmp_path / "a.jsonl", row), "helpsteer3"))
    assert found == {"one": {"overall_preference": first}, "two": {"overall_preference": second}}


def test_helpsteer3_individual_preferences_are_a_second_scorer(tmp_path: Path) -> None:
    raters = [
        {"score": -3, "reasoning": "r"},
        {"score": -2, "reasoning": "r"},
        {"score": 1, "reasoning": "r"},
    ]
    talk = [*user("Hi"), {"role": "assistant", "content": "Hello!"}, *user("q")]
    row = {
        "context": talk,
        "response1": "one",
        "response2": "two",
        "overall_preference": -2,
        "individual_preference": raters,
    }
    pool = read(lines(tmp_path / "a.jsonl", row), "helpsteer3")
    assert pool.prompts.rows[0].messages == talk
    assert scores_of(pool) == {
        "one": {"overall_preference": 2.0, "mean_preference": pytest.approx(4 / 3)},
        "two": {"overall_preference": 0.0, "mean_preference": 0.0},
    }


def test_helpsteer2_preferences_are_read_alike(tmp_path: Path) -> None:
    row = {
        "prompt": TALK,
        "response_1": "one",
        "response_2": "two",
        "preference_strength": 1,
        "split": "train",
    }
    assert scores_of(read(lines(tmp_path / "a.jsonl", row), "helpsteer2")) == {
        "one": {"preference_strength": 0.0},
        "two": {"preference_strength": 1.0},
    }


@pytest.mark.parametrize("value", [4, -3.5, "much better"])
def test_a_preference_that_is_none_is_refused_with_its_row(tmp_path: Path, value: Any) -> None:
    row = {
        "context": user("q"),
        "response1": "one",
        "response2": "two",
        "overall_preference": value,
    }
    with pytest.raises(InputError, match="line 1: `overall_preference`"):
        read(lines(tmp_path / "a.jsonl", row), "helpsteer3")


def pku(**more: Any) -> dict[str, Any]:
    return {
        "prompt": "How do I pick a lock?",
        "response_0": "Call a locksmith.",
        "response_1": "Use a pick.",
        "better_response_id": 1,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        **more,
    }


def test_pku_better_and_safer_are_two_scorers(tmp_path: Path) -> None:
    row = pku(
        response_0_severity_level=0,
        response_1_severity_level=2,
        response_0_source="Alpaca-7B",
        response_1_source="Alpaca2-7B",
    )
    pool = read(lines(tmp_path / "a.jsonl", row), "pku-saferlhf")
    assert scores_of(pool) == {
        "Call a locksmith.": {"better": 0.0, "safer": 1.0, "safe": 1.0, "minus_severity": 0.0},
        "Use a pick.": {"better": 1.0, "safer": 0.0, "safe": 0.0, "minus_severity": -2.0},
    }
    assert [response.model for response in pool.responses[0]] == ["Alpaca-7B", "Alpaca2-7B"]


def test_a_response_of_several_comparisons_has_the_mean(tmp_path: Path) -> None:
    """Won one of two: 1/2. The prompt is one, with three responses."""
    rows = [pku(), pku(response_1="I do not know.", better_response_id=0)]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "pku-saferlhf")
    assert [len(members) for members in pool.responses] == [3]
    assert scores_of(pool)["Call a locksmith."]["better"] == 0.5


def test_two_responses_of_one_text_in_a_row_are_one_and_none_vanishes(tmp_path: Path) -> None:
    """Better and not better: the mean of both."""
    pool = read(lines(tmp_path / "a.jsonl", pku(response_1="Call a locksmith.")), "pku-saferlhf")
    assert scores_of(pool)["Call a locksmith."]["better"] == 0.5
    assert [len(members) for members in pool.responses] == [1]


@pytest.mark.parametrize(("change", "message"), [
    ({"better_response_id": 2}, "`better_response_id` is 2, which is neither 0 nor 1"),
    ({"is_response_1_safe": "no"}, "`is_response_1_safe` is 'no', which is neither true nor false"),
    ({"response_1": None}, "`response_1` is null"),
])  # fmt: skip
def test_what_pku_rows_cannot_hold_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(lines(tmp_path / "a.jsonl", pku(**change)), "pku-saferlhf")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("words", [(), ("--whole-groups",)])
def test_what_is_exported_for_nemo_rl_comes_back(
    tmp_path: Path, suffix: str, words: tuple[str, ...]
) -> None:
    """Keys, texts, models and rewards; a response of several pairs is one candidate."""
    groups = write_groups(
        tmp_path / "groups",
        [
            kept("a", 0, "positive", 2.0),
            kept("a", 1, "negative", 1.0),
            kept("a", 2, "negative", -1.0),
            kept("c", 3, "positive", 0.5),
            kept("c", 0, "negative", 0.25),
        ],
    )
    out = tmp_path / f"a{suffix}"
    command(["export", str(groups), "-o", str(out), "--format", "nemo-rl", *words])
    command(["import", str(out), "-o", str(tmp_path / "run"), "--format", "nemo-rl"])
    candidates, scores = (
        rows_of(tmp_path / "run" / "candidates"),
        rows_of(tmp_path / "run" / "scores"),
    )
    assert [
        (row["prompt_id"], row["sample_idx"], row["response"], row["model"]) for row in candidates
    ] == [
        ("a", 0, "answer a.0", "m0"),
        ("a", 1, "answer a.1", "m1"),
        ("a", 2, "answer a.2", "m0"),
        ("c", 0, "answer c.0", "m0"),
        ("c", 3, "answer c.3", "m1"),
    ]
    assert [row["reward"] for row in scores] == [2.0, 1.0, -1.0, 0.25, 0.5]
    assert {row["scorer"] for row in scores} == {"score"}


def ranked(*completions: dict[str, Any]) -> dict[str, Any]:
    return {"context": user("q"), "completions": list(completions)}


def completion(rank: int, text: str, **more: Any) -> dict[str, Any]:
    return {"rank": rank, "completion": [{"role": "assistant", "content": text}], **more}


def test_nemo_rl_ranks_alone_become_rewards(tmp_path: Path) -> None:
    pool = read(
        lines(tmp_path / "a.jsonl", ranked(completion(0, "good"), completion(1, "bad"))), "nemo-rl"
    )
    assert scores_of(pool) == {"good": {"minus_rank": 0.0}, "bad": {"minus_rank": -1.0}}
    assert (
        "the file holds ranks instead of scores: the reward of a response is minus its rank"
        in pool.notes
    )


def test_rewards_of_nemo_rls_own_conversions_are_scores(tmp_path: Path) -> None:
    pool = read(
        lines(
            tmp_path / "a.jsonl",
            ranked(completion(0, "good", reward=2), completion(1, "bad", reward=0)),
        ),
        "nemo-rl",
    )
    assert held(pool) == {
        (pool.prompts.rows[0].prompt_id, 0): ("good", None, {"reward": 2.0}),
        (pool.prompts.rows[0].prompt_id, 1): ("bad", None, {"reward": 0.0}),
    }


def test_an_index_of_nemo_rl_that_is_no_number_is_refused_with_its_row(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", ranked(completion(0, "good", sample_idx=[1])))
    with pytest.raises(
        InputError, match=r"sample_idx` is \[1\], which is not a whole number of at least 0"
    ):
        read(source, "nemo-rl")


@pytest.mark.parametrize(("value", "message"), [
    ({"rank": 0, "completion": [{"role": "user", "content": "x"}]}, "one assistant turn is needed"),
    ({"rank": 0, "completion": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "has `tool_calls`"),
    ({"completion": [{"role": "assistant", "content": "x"}]}, "`completions\\[0\\].rank` is null"),
    ("x", "but an object with `rank` and `completion` is needed"),
])  # fmt: skip
def test_completions_that_cannot_be_read_are_refused(
    tmp_path: Path, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(lines(tmp_path / "a.jsonl", ranked(value)), "nemo-rl")


@pytest.mark.parametrize(("row", "wrong", "right"), [
    (HELPSTEER2[0], "simpo", "helpsteer2"), (pku(), "trl", "pku-saferlhf"), (ranked(completion(0, "a")), "trl", "nemo-rl"),
    ({"context": "q", "response1": "a", "response2": "b", "overall_preference": 1}, "rows", "helpsteer3"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "rows", "trl"), ({"prompt": "q", "response": "a"}, "simpo", "rows"),
    ({"prompt": "q", "all_generated_responses": ["a"], "all_rm_scores": [1]}, "helpsteer2", "simpo"),
])  # fmt: skip
def test_a_wrong_format_gets_the_right_one_as_a_hint(
    tmp_path: Path, row: dict[str, Any], wrong: str, right: str, capsys
) -> None:
    assert (
        run(
            [
                "import",
                lines(tmp_path / "a.jsonl", row),
                "-o",
                str(tmp_path / "run"),
                "--format",
                wrong,
            ]
        )
        == 1
    )
    assert f"hint: these are the columns of --format {right}" in capsys.readouterr().err


@pytest.mark.parametrize(("row", "hint"), [
    ({"prompt": "q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "a prompts file of IFEval: prefpipe generate"),
    ({"prompt": "q", "chosen": ["a"], "rejected": ["b"], "num_correct": 1}, "a file of RewardBench 2: prefpipe eval rewardbench --pairs"),
])  # fmt: skip
def test_a_file_of_another_command_gets_that_command(
    tmp_path: Path, row: dict[str, Any], hint: str, capsys
) -> None:
    assert (
        run(
            [
                "import",
                lines(tmp_path / "a.jsonl", row),
                "-o",
                str(tmp_path / "run"),
                "--format",
                "rows",
            ]
        )
        == 1
    )
    assert hint in capsys.readouterr().err


def test_every_format_has_its_signs_and_its_lines_on_the_page() -> None:
    known = {name for name, form in READERS.items() if form.known_by}
    assert known == set(FORMATS) - {"wide"}
    page = (Path(__file__).parents[3] / "docs" / "guides" / "interchange.md").read_text(
        encoding="utf-8"
    )
    assert all(f"### {name}" in page for name in FORMATS)


def test_helpsteer2_is_read_from_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "prompt,response,helpfulness\nName a lake.,Chad.,4\nName a lake.,Nile.,0\n"
    )
    assert scores_of(read(str(tmp_path / "a.csv"), "helpsteer2")) == {
        "Chad.": {"helpfulness": 4.0},
        "Nile.": {"helpfulness": 0.0},
    }


def test_answers_of_csv_that_are_numbers_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response_0,response_1,better_response_id\n1+1?,2,3,0\n")
    assert scores_of(read(str(path), "pku-saferlhf")) == {
        "2": {"better": 1.0},
        "3": {"better": 0.0},
    }
    path.write_text("prompt,response_1,response_2,preference_strength\n1+1?,2,3.0,-2\n")
    assert scores_of(read(str(path), "helpsteer2")) == {
        "2": {"preference_strength": 2.0},
        "3.0": {"preference_strength": 0.0},
    }


def test_rewardbench_2_as_pairs_of_texts_gets_its_own_command(tmp_path: Path, capsys) -> None:
    source = lines(
        tmp_path / "a.jsonl",
        {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1},
    )
    assert run(["import", source, "-o", f"{tmp_path}/out", "--format", "trl"]) == 1
    assert (
        f"hint: these are the columns of a file of RewardBench 2: prefpipe eval rewardbench --pairs {source}"
        in capsys.readouterr().err
    )

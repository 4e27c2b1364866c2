"""One prompt with all its candidates: found by the beginning of its id, joined by key, ranked, and safe to print."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from support.finished_run import HOSTILE, K, N, command, original
from support.pipelines import open_artifact, rows_of

from prefpipe.errors import UsageError
from prefpipe.pages.one_prompt import one_prompt_page
from prefpipe.stages.inspect.one_prompt import PromptSources, find_prompt, one_prompt


def artifact(kind: str):
    return open_artifact(original() / "run" / kind)


def sources(*kinds: str) -> PromptSources:
    return PromptSources(
        **{kind: artifact(kind) for kind in kinds or ("candidates", "groups", "scores")}
    )


def page_of(found: dict, width: int = 80, *, full: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    for item in one_prompt_page(found, width=width, full=full):
        console.print(item, soft_wrap=True)
    return console.file.getvalue()


def test_rewards_are_the_expression_of_the_groups_over_the_scores() -> None:
    """The groups were selected with ``checks + 0.5 * fake``; every candidate has it, kept or not, the best first."""
    found = one_prompt(sources(), "p3")
    assert found["ranked_by"] == "checks + 0.5 * fake"
    assert found["n_candidates"] == len(found["candidates"]) == N
    for entry in found["candidates"]:
        assert entry["reward"] == pytest.approx(
            entry["scores"]["checks"] + 0.5 * entry["scores"]["fake"]
        )
    rewards = [entry["reward"] for entry in found["candidates"]]
    assert rewards == sorted(rewards, reverse=True)
    assert [entry["rank"] for entry in found["candidates"]] == list(range(1, N + 1))


def test_roles_and_texts_are_joined_by_key() -> None:
    found = one_prompt(sources(), "p3")
    kept = {
        row["sample_idx"]: row
        for row in rows_of(original() / "run" / "groups")
        if row["prompt_id"] == "p3" and row["role"]
    }
    texts = {
        row["sample_idx"]: row["response"]
        for row in rows_of(original() / "run" / "candidates")
        if row["prompt_id"] == "p3"
    }
    for entry in found["candidates"]:
        row = kept.get(entry["sample_idx"])
        assert entry["role"] == (row["role"] if row else None)
        assert entry["response"] == texts[entry["sample_idx"]]
        if row:
            assert entry["reward"] == pytest.approx(row["reward"])
    assert found["group"] == {
        "strategy": "opt-select",
        "status": "ok",
        "n_positives": 1,
        "n_negatives": K,
    }


def test_another_expression_ranks_otherwise() -> None:
    found = one_prompt(sources(), "p3", "0 - fake")
    assert found["ranked_by"] == "0 - fake"
    worst_first = [entry["scores"]["fake"] for entry in found["candidates"]]
    assert worst_first == sorted(worst_first)
    with pytest.raises(UsageError, match="nosuch"):
        one_prompt(sources(), "p3", "nosuch")
    with pytest.raises(UsageError, match="--reward needs the scores of the candidates"):
        one_prompt(sources("candidates"), "p3", "fake")


def test_candidates_alone_are_shown_unrated() -> None:
    found = one_prompt(sources("candidates"), "p0")
    assert found["ranked_by"] is None
    assert {entry["reward"] for entry in found["candidates"]} == {None}
    assert [entry["sample_idx"] for entry in found["candidates"]] == list(range(N))
    assert "4 candidates, not rated" in page_of(found)


def test_groups_alone_show_what_was_kept() -> None:
    found = one_prompt(sources("groups"), "p0")
    assert {entry["role"] for entry in found["candidates"]} == {"positive", "negative"}
    assert found["candidates"][0]["role"] == "positive"
    assert found["ranked_by"] == "reward in the groups"


def test_the_beginning_of_an_id_is_enough_when_it_is_the_only_one() -> None:
    assert find_prompt(artifact("candidates"), "p5") == ("p5", 2)
    with pytest.raises(
        UsageError, match=r"--prompt-id p: .* has 6 prompts with an id that starts with this"
    ) as caught:
        find_prompt(artifact("candidates"), "p")
    assert caught.value.hint == "pass more characters of the id: p0, p1, p2, p3, p4"


def test_an_unknown_id_is_an_error_that_names_a_few() -> None:
    with pytest.raises(
        UsageError, match="has no prompt with an id that starts with this"
    ) as caught:
        find_prompt(artifact("candidates"), "zzz")
    assert caught.value.hint == "ids in it are, for example: p0, p1, p2, p3, p4"


def test_a_page_names_rank_role_length_and_text() -> None:
    found = one_prompt(sources(), "p3")
    page = page_of(found)
    assert page.startswith("prompt p3   part 1   opt-select: 1 positive + 2 negative\n")
    assert "question 3" in page
    best = found["candidates"][0]
    line = next(line for line in page.splitlines() if line.startswith("   1  "))
    assert f"#{best['sample_idx']}" in line
    assert f"{best['n_response_tokens']} tokens" in line
    assert best["response"][:20] in page
    assert all(len(line) <= 80 for line in page.splitlines())


def test_hostile_text_reaches_the_page_as_signs() -> None:
    """The prompt's escape sequences, NUL, direction marks and markup are shown and do nothing."""
    found = one_prompt(sources(), "p4")
    assert found["messages"][-1]["content"] == HOSTILE
    page = page_of(found, full=True)
    assert not set(page) & {"\x1b", "\x00", "\u202e", "\u202c"}
    assert "␛[31mred␛[0m [bold]not bold[/bold] ␀ \\u202ereversed\\u202c שלום 🎉" in page


def entry(**changes) -> dict:
    return {
        "rank": 1,
        "sample_idx": 0,
        "reward": 1.0,
        "role": None,
        "cluster": None,
        "represents": None,
        "scores": {},
        "marginal_gain": None,
        "beats": None,
        "beaten_by": None,
        "score_problems": {},
        "status": "ok",
        "reason": None,
        "n_response_tokens": 1,
        "finish_reason": "stop",
        "logp": None,
        "model": "m",
        "temperature": 1.0,
        "duplicate_of": None,
        "response": "text",
        **changes,
    }


def shown(**changes) -> str:
    found = {
        "prompt_id": "p",
        "part": 0,
        "messages": [{"role": "user", "content": "q"}],
        "ranked_by": "x",
        "group": None,
    }
    full = changes.pop("full", False)
    return page_of({**found, "n_candidates": 1, "candidates": [entry(**changes)]}, full=full)


def test_a_long_text_is_cut_and_shown_whole_on_request() -> None:
    text = "word " * 20_000
    page = shown(response=text)
    assert len(page) < 2000
    assert "... 100,000 characters in all, --full shows them" in page
    whole = shown(response=text, full=True)
    assert whole.split().count("word") == 20_000


def test_page_names_problems_duplicates_and_single_scores() -> None:
    assert "same text as #3" in shown(duplicate_of=3)
    assert "cluster 2" in shown(cluster=2)
    assert "empty: the response has no text" in shown(
        status="empty", reason="the response has no text", response=""
    )
    assert "(no text)" in shown(response="")
    assert "rm: error: out of memory" in shown(
        score_problems={"rm": "error: out of memory"}, rank=None, reward=None
    )
    assert "no reward" in shown(rank=None, reward=None)
    assert "checks 0.5   rm -" in shown(scores={"checks": 0.5, "rm": None})


def test_page_names_samples_that_a_negative_represents() -> None:
    assert "stands for #0 #3 #7" in shown(represents=[0, 3, 7])
    assert "stands for itself" in shown(represents=[0])
    assert "stands for #0 #1 #2 #3 #4 #5 #6 #7 and 2 more" in shown(represents=list(range(10)))
    assert "#7 and" not in shown(represents=list(range(8)))
    assert "marginal gain 0.25" in shown(marginal_gain=0.25)
    assert "marginal gain 0\n" in shown(marginal_gain=0.0)
    assert "stands for" not in shown()


def test_page_names_pairs_of_both_their_responses() -> None:
    assert "beats #3 by 0.5 #4 by 1.25" in shown(
        beats=[{"sample_idx": 3, "margin": 0.5}, {"sample_idx": 4, "margin": 1.25}]
    )
    assert "beaten by #1 #2" in shown(
        beaten_by=[{"sample_idx": 1, "margin": 0.5}, {"sample_idx": 2, "margin": 2.0}]
    )
    assert "beat" not in shown(beats=[], beaten_by=[])
    many = [{"sample_idx": idx, "margin": 0.123456 * idx} for idx in range(20)]
    assert "and 12 more" in shown(beats=many)
    assert all(
        len(line) <= 80
        for line in shown(beats=many, beaten_by=many, represents=list(range(100, 140))).splitlines()
    )


def test_what_a_negative_stands_for_comes_from_its_row() -> None:
    found = one_prompt(sources(), "p3")
    kept = {
        row["sample_idx"]: row
        for row in rows_of(original() / "run" / "groups")
        if row["prompt_id"] == "p3"
    }
    told = {entry["sample_idx"]: entry for entry in found["candidates"]}
    for idx, row in kept.items():
        assert told[idx]["represents"] == row["represents"]
        assert told[idx]["marginal_gain"] == row["marginal_gain"]
        assert (row["represents"] is None) == (row["role"] == "positive")
    negatives = [entry for entry in found["candidates"] if entry["role"] == "negative"]
    assert sorted(idx for entry in negatives for idx in entry["represents"]) == sorted(
        entry["sample_idx"] for entry in found["candidates"] if entry["role"] != "positive"
    )
    assert {entry["beats"] for entry in found["candidates"]} == {None}  # no pairs were asked for
    assert page_of(found).count("stands for") == K


def test_pairs_come_from_the_rows_of_the_group(tmp_path: Path) -> None:
    run = original() / "run"
    words = [
        "select",
        str(run / "candidates"),
        "--scores",
        str(run / "scores"),
        "-o",
        str(tmp_path / "groups"),
        "--k",
        "2",
        "--strategy",
        "bottom-k",
        "--reward",
        "fake",
        "--pairs",
        "all-ordered",
    ]
    command(words)
    found = one_prompt(
        PromptSources(artifact("candidates"), open_artifact(tmp_path / "groups")), "p3"
    )
    by_sample = {entry["sample_idx"]: entry for entry in found["candidates"]}
    pairs = {
        (idx, pair["sample_idx"]): pair["margin"]
        for idx, entry in by_sample.items()
        for pair in entry["beats"] or ()
    }
    assert len(pairs) == 3  # of three kept ones
    for (better, worse), margin in pairs.items():
        assert margin == pytest.approx(by_sample[better]["reward"] - by_sample[worse]["reward"])
        assert {"sample_idx": better, "margin": margin} in by_sample[worse]["beaten_by"]
    assert [entry["beats"] for entry in found["candidates"] if entry["role"] is None] == [None]


@pytest.mark.slow
def test_lines_break_between_details_and_not_within_one() -> None:
    """A name and its figure stay together, whichever of them would have met the edge."""
    for width in range(60, 120):
        page = page_of({**one_prompt(sources(), "p3")}, width)
        lines = page.partition(" candidates, ranked by")[2].splitlines()[1:]
        assert not [
            line for line in lines if line.rstrip().endswith(("  fake", "  checks", "  finish"))
        ]


def test_page_of_rejected_prompt_says_why(tmp_path: Path) -> None:
    found = one_prompt(sources("candidates"), "p0")
    found["group"] = {
        "strategy": "coreset",
        "status": "tie",
        "reason": "4 candidates, 4 usable; rewards 1 to 1",
    }
    assert "rejected by select, tie: 4 candidates, 4 usable; rewards 1 to 1" in page_of(found)

"""judge: pairs, orders, preferences, figures; a real HTTP server plays the judge."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.judge_server import first_wins, logprobs_of, longer_wins, running_judge, shown
from support.judged_sides import judge_command, two_sides, verdicts_of, write_side
from support.pipelines import identities_of, rows_of

from prefpipe.cli.main import run


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


@pytest.mark.slow
def test_both_orders_are_asked_and_a_fair_judge_agrees_with_itself(tmp_path):
    """A is longer on three of four prompts: preferences 1, 1, 1, 0 whatever the order, win rate 0.75, se = s / sqrt(4)."""
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
    rows = verdicts_of(tmp_path / "out")
    assert [rows[f"p{i}"]["preference"] for i in range(4)] == [1.0, 1.0, 1.0, 0.0]
    assert [rows[f"p{i}"]["a_first_verdict"] for i in range(4)] == ["a", "a", "a", "b"]
    assert [rows[f"p{i}"]["b_first_verdict"] for i in range(4)] == ["a", "a", "a", "b"]
    assert len(server.bodies) == 8
    assert {(shown(p)["A"][7], shown(p)["B"][7]) for p in server.prompts} == {
        ("a", "b"),
        ("b", "a"),
    }
    assert (rows["p0"]["a_length_chars"], rows["p0"]["b_length_chars"]) == (
        len("answer a0 ") + 10,
        len("answer b0 ") + 5,
    )
    figures = summary_of(tmp_path / "out")
    assert (
        figures["win_rate_a"],
        figures["share_orders_disagree"],
        figures["preference_for_first_shown"],
    ) == (0.75, 0, 0.5)
    assert figures["win_rate_se"] == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
    assert figures["win_rate_low"] < 0.75 < figures["win_rate_high"]


@pytest.mark.slow
def test_swapping_the_sides_gives_one_minus_the_preference(tmp_path):
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "ab", server.url)) == 0
        assert run(judge_command(b, a, tmp_path / "ba", server.url)) == 0
    forth, back = verdicts_of(tmp_path / "ab"), verdicts_of(tmp_path / "ba")
    assert {key: row["preference"] for key, row in forth.items()} == {
        key: 1 - row["preference"] for key, row in back.items()
    }


@pytest.mark.slow
def test_a_judge_with_position_bias_is_found_out(tmp_path, capsys):
    """Always the first: each pair ties over its orders, every pair disagrees, the first shown wins all."""
    a, b = two_sides(tmp_path)
    with running_judge(answer=first_wins) as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
    rows = verdicts_of(tmp_path / "out").values()
    assert {
        (row["preference"], row["disagree"], row["a_first_preference"], row["b_first_preference"])
        for row in rows
    } == {(0.5, True, 1.0, 0.0)}
    figures = summary_of(tmp_path / "out")
    assert (
        figures["share_orders_disagree"],
        figures["preference_for_first_shown"],
        figures["n_pairs_tied"],
    ) == (1, 1, 4)
    assert "the two orders name different winners in 100.0% of 4 pairs" in capsys.readouterr().err


@pytest.mark.slow
def test_one_order_costs_half_and_is_another_run(tmp_path):
    a, b = two_sides(tmp_path)
    with running_judge(answer=first_wins) as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url, "--orders", "b-first")) == 0
        assert len(server.bodies) == 4
        rows = rows_of(tmp_path / "out")
        assert {(row["preference"], row["disagree"], row["a_first_status"]) for row in rows} == {
            (0.0, None, None)
        }
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 2


@pytest.mark.slow
def test_equal_texts_tie_and_cost_nothing(tmp_path):
    a = write_side(tmp_path, "a", {"p0": "the same", "p1": "longer than b"})
    b = write_side(tmp_path, "b", {"p0": "the same", "p1": "short"})
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
    row = verdicts_of(tmp_path / "out")["p0"]
    assert (row["preference"], row["a_first_verdict"], row["a_first_raw"], row["status"]) == (
        0.5,
        "identical",
        None,
        "ok",
    )
    assert len(server.bodies) == 2
    assert summary_of(tmp_path / "out")["win_rate_a"] == 0.75


@pytest.mark.slow
def test_sides_are_joined_by_prompt_and_nothing_vanishes(tmp_path):
    """B has the prompts in another order and other parts, lacks one, and has one of its own."""
    a = write_side(
        tmp_path,
        "a",
        {"p0": "longer answer", "p1": "longer answer", "p2": "longer answer"},
        part_size=2,
    )
    b = write_side(tmp_path, "b", {"p9": "who?", "p2": "short", "p0": "short"}, part_size=1)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
    rows = verdicts_of(tmp_path / "out")
    assert {key: row["status"] for key, row in rows.items()} == {
        "p0": "ok",
        "p1": "no_partner",
        "p2": "ok",
        "p9": "no_partner",
    }
    assert "B has no response" in rows["p1"]["reason"]
    assert (rows["p9"]["a_sample_idx"], rows["p9"]["b_sample_idx"]) == (None, 0)
    assert (rows["p1"]["preference"], rows["p0"]["preference"]) == (None, 1.0)


@pytest.mark.slow
def test_one_prompt_id_with_two_conversations_is_refused(tmp_path, capsys):
    a, b = two_sides(tmp_path)
    text = (tmp_path / "b.jsonl").read_text().replace("question p3", "another question")
    (tmp_path / "b.jsonl").write_text(text)
    other = ["import", str(tmp_path / "b.jsonl"), "--format", "rows", "-o", str(tmp_path / "c")]
    assert run(other) == 0
    with running_judge() as server:
        assert (
            run(judge_command(a, tmp_path / "c" / "candidates", tmp_path / "out", server.url)) == 1
        )
    assert "prompt 'p3' has different conversations in A and B" in capsys.readouterr().err
    del b


@pytest.mark.slow
def test_several_samples_pair_by_index_or_each_with_each(tmp_path):
    """Equal sample_idx by default; with --pairing all each with each, and prompts still count once in the win rate."""
    a = write_side(tmp_path, "a", {"p0": ["aaaa", "aaaaaa"], "p1": ["aaaa", "aa"]})
    b = write_side(tmp_path, "b", {"p0": ["bbb", "bbbbb", "bbbbbbb"], "p1": ["bbb"]})
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "same", server.url)) == 0
        assert run(judge_command(a, b, tmp_path / "all", server.url, "--pairing", "all")) == 0
    same = [
        (row["prompt_id"], row["a_sample_idx"], row["b_sample_idx"], row["preference"])
        for row in rows_of(tmp_path / "same")
    ]
    assert same == [
        ("p0", 0, 0, 1.0),
        ("p0", 1, 1, 1.0),
        ("p0", None, 2, None),
        ("p1", 0, 0, 1.0),
        ("p1", 1, None, None),
    ]
    pairs = [row["preference"] for row in rows_of(tmp_path / "all")]
    assert pairs == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    figures = summary_of(tmp_path / "all")
    assert figures["win_rate_a"] == pytest.approx((3 / 6 + 1 / 2) / 2)
    assert figures["n_prompts_judged"] == 2


@pytest.mark.slow
def test_preferences_are_graded_by_the_judges_probabilities(tmp_path):
    """p(A) 0.6, p(B) 0.1, p(C) 0.1, the rest elsewhere: (0.6 + 0.05) / 0.8; shown the other way round one minus that."""
    a = write_side(tmp_path, "a", {"p0": "one answer"})
    b = write_side(tmp_path, "b", {"p0": "another"})
    distribution = {"A": 0.5, " A": 0.1, "B": 0.1, "C": 0.1, "The": 0.05}
    with running_judge(answer=lambda _prompt: ("A", logprobs_of(distribution))) as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url, "--verdict", "logprobs")) == 0
    (row,) = rows_of(tmp_path / "out")
    assert row["a_first_preference"] == pytest.approx(0.65 / 0.8)
    assert row["b_first_preference"] == pytest.approx(1 - 0.65 / 0.8)
    assert row["preference"] == pytest.approx(0.5)
    assert row["a_first_mass"] == pytest.approx(0.8)
    assert {
        (body["logprobs"], body["top_logprobs"], body["max_tokens"]) for body in server.bodies
    } == {(True, 20, 8)}


@pytest.mark.slow
def test_probabilities_count_only_where_the_answer_is_a_verdict(tmp_path):
    """A judge that repeats a response which begins with the word A has said nothing, however probable its first token."""
    a = write_side(tmp_path, "a", {"p0": "A cat is an animal."})
    b = write_side(tmp_path, "b", {"p0": "A dog."})
    with running_judge(
        answer=lambda prompt: (shown(prompt)["A"], logprobs_of({"A": 0.9, "B": 0.05}))
    ) as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url, "--verdict", "logprobs")) == 3
    (row,) = rows_of(tmp_path / "out")
    assert (row["preference"], row["status"], row["a_first_raw"]) == (
        None,
        "parse_error",
        "A cat is an animal.",
    )


@pytest.mark.slow
def test_a_server_without_log_probabilities_is_asked_once_and_not_for_all(tmp_path, capsys):
    """Each answer would be paid for, and none would be a verdict. One that comes without them later is a row."""
    a, b = two_sides(tmp_path)
    words = ("--verdict", "logprobs", "--max-error-rate", 1)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url, *words)) == 1
        assert len(server.bodies) == 1
    told = capsys.readouterr().err
    assert "returns no log-probabilities" in told
    assert "pass --verdict text" in told
    answers = iter([("A", logprobs_of({"A": 0.9, "B": 0.1})), *["B"] * 7])
    with running_judge(answer=lambda _prompt: next(answers)) as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url, *words)) == 0
        assert len(server.bodies) == 8
    rows = rows_of(tmp_path / "out")
    assert {row["status"] for row in rows} == {"no_logprobs"}
    assert [row["a_first_status"] for row in rows].count("ok") == 1


@pytest.mark.slow
def test_unparsable_verdicts_are_null_with_their_text_and_asked_again_on_the_next_run(
    tmp_path, capsys
):
    """The first answers about p1 say nothing clear. The next run asks those two questions again and no other."""
    a, b = two_sides(tmp_path)
    answers = iter(["I like both!", "Hmm."])

    def moody(prompt):
        return (
            next(answers, None) or longer_wins(prompt) if "a1 " in prompt else longer_wins(prompt)
        )

    with running_judge(answer=moody) as server:
        command = judge_command(a, b, tmp_path / "out", server.url)
        assert run(command) == 3
        row = verdicts_of(tmp_path / "out")["p1"]
        assert (row["preference"], row["status"], row["a_first_status"]) == (
            None,
            "parse_error",
            "parse_error",
        )
        assert {row["a_first_raw"], row["b_first_raw"]} == {"I like both!", "Hmm."}
        assert summary_of(tmp_path / "out")["share_unparsable"] == 0.25
        assert "25.0% of 8 verdicts could not be parsed" in capsys.readouterr().err
        assert len(server.bodies) == 8
        kept = identities_of(tmp_path / "out")
        assert run(command) == 0
        assert len(server.bodies) == 10
        assert all("a1 " in prompt for prompt in server.prompts[8:])
        assert verdicts_of(tmp_path / "out")["p1"]["preference"] == 1.0
        changed = {
            name
            for name, identity in identities_of(tmp_path / "out").items()
            if kept[name] != identity
        }
        assert changed == {"part-00000-of-00002.parquet"}
        assert run(command) == 0
        assert len(server.bodies) == 10


@pytest.mark.slow
def test_failed_rows_stay_where_asked_to(tmp_path):
    a, b = two_sides(tmp_path)
    with running_judge(answer=lambda _prompt: "no idea") as server:
        command = judge_command(a, b, tmp_path / "out", server.url, "--max-error-rate", "1")
        assert run(command) == 0
        assert run([*command, "--no-retry-errors"]) == 0
        assert len(server.bodies) == 8


@pytest.mark.slow
def test_the_same_request_is_never_paid_twice(tmp_path, capsys):
    """Equal responses share a question; --cache is shared between output folders; --overwrite pays nothing again."""
    a = write_side(tmp_path, "a", {"p0": ["longer answer"] * 3})
    b = write_side(tmp_path, "b", {"p0": ["short"] * 3})
    with running_judge() as server:
        command = judge_command(a, b, tmp_path / "out", server.url, "--cache", tmp_path / "cache")
        assert run(command) == 0
        assert len(server.bodies) == 2
        assert [row["preference"] for row in rows_of(tmp_path / "out")] == [1.0] * 3
        assert run([*command, "--overwrite"]) == 0
        assert (
            run(
                judge_command(
                    a,
                    b,
                    tmp_path / "out2",
                    server.url,
                    "--cache",
                    tmp_path / "cache",
                    "--pairing",
                    "all",
                )
            )
            == 0
        )
        assert len(server.bodies) == 2
        assert "0 questions asked now" in capsys.readouterr().err
        assert run(judge_command(a, b, tmp_path / "out3", server.url)) == 0
        assert len(server.bodies) == 4


@pytest.mark.slow
def test_tokens_and_cost_are_told(tmp_path, capsys):
    """8 questions of 100 and 10 tokens at 2 and 30 a million: 8 * (200 + 300) / 1e6."""
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        command = judge_command(
            a, b, tmp_path / "out", server.url, "--price-in", 2, "--price-out", 30
        )
        assert run(command) == 0
        told = capsys.readouterr().err
        assert (
            "8 questions asked now (800 prompt and 80 answer tokens), 0 answered before; cost now 0.0040"
            in told
        )
        figures = summary_of(tmp_path / "out")
        assert (figures["n_prompt_tokens"], figures["n_completion_tokens"]) == (800, 80)
        assert figures["cost"] == pytest.approx(0.004)
    assert run([*command[:-4], "--price-in", "2"]) == 2


@pytest.mark.slow
def test_shards_make_what_one_run_makes(tmp_path):
    """The figures of the whole are written by whichever shard finds all parts there."""
    a, b = two_sides(tmp_path, n=6)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "one", server.url)) == 0
        for index in (1, 0):
            assert not (tmp_path / "two" / "summary.json").exists()
            shard = ["--shard-index", str(index), "--num-shards", "2"]
            assert run(judge_command(a, b, tmp_path / "two", server.url, *shard)) == 0
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    assert summary_of(tmp_path / "one") == summary_of(tmp_path / "two")


@pytest.mark.slow
def test_another_prompt_or_model_is_another_run(tmp_path, capsys):
    a, b = two_sides(tmp_path)
    own = tmp_path / "mine.txt"
    own.write_text("{conversation} {first} {second} Say A, B or C.")
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
        assert run(judge_command(a, b, tmp_path / "out", server.url, "--judge-prompt", own)) == 2
        assert "judge.prompt" in capsys.readouterr().err
        other = judge_command(a, b, tmp_path / "out", server.url)
        other[other.index("openai:the-judge")] = "openai:another"
        assert run(other) == 2
        assert "judge.served" in capsys.readouterr().err
        assert run(judge_command(a, b, tmp_path / "mine", server.url, "--judge-prompt", own)) == 0
    assert server.prompts[-1].endswith("Say A, B or C.")


@pytest.mark.slow
def test_status_knows_verdicts(tmp_path, capsys):
    """Done; then B's candidates change, and the verdicts are stale."""
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
    assert run(["status", str(tmp_path / "out")]) == 0
    assert run(["inspect", str(tmp_path / "out")]) == 0
    assert "preference for A" in capsys.readouterr().out
    (tmp_path / "out" / "summary.json").unlink()
    assert run(["status", str(tmp_path / "out")]) == 4


@pytest.mark.slow
def test_verdicts_of_other_responses_are_stale_and_made_again(tmp_path, capsys):
    """B's responses change under the same name: status says so, and the run is another one."""
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        command = judge_command(a, b, tmp_path / "out", server.url)
        assert run(command) == 0
        source = tmp_path / "b.jsonl"
        source.write_text(source.read_text().replace("answer b0", "a much, much longer answer b0"))
        again = [
            "import",
            str(source),
            "--format",
            "rows",
            "-o",
            str(tmp_path / "b-run"),
            "--part-size",
            "2",
            "--overwrite",
        ]
        assert run(again) == 0
        capsys.readouterr()
        assert run(["status", str(tmp_path / "out")]) == 4
        assert "have another configuration now" in capsys.readouterr().out
        assert run(command) == 2
        n_before = len(server.bodies)
        assert run([*command, "--overwrite"]) == 0
        assert len(server.bodies) == n_before + 2
    assert verdicts_of(tmp_path / "out")["p0"]["preference"] == 0.0


@pytest.mark.slow
def test_incomplete_sides_are_refused_or_named(tmp_path):
    """A part of B is missing: exit 4; with --allow-partial its prompts are rows, and they are judged when it is back."""
    a, b = two_sides(tmp_path)
    lost = b / "part-00001-of-00002.parquet"
    data = lost.read_bytes()
    lost.unlink()
    with running_judge() as server:
        command = judge_command(a, b, tmp_path / "out", server.url)
        assert run(command) == 4
        assert run([*command, "--allow-partial"]) == 0
        assert [row["status"] for row in rows_of(tmp_path / "out")] == [
            "ok",
            "ok",
            "no_partner",
            "no_partner",
        ]
        lost.write_bytes(data)
        assert run(command) == 0
        assert len(server.bodies) == 8
    assert {row["status"] for row in rows_of(tmp_path / "out")} == {"ok"}

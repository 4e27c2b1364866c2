"""Filters of prompts over parts of odd sizes: every row by plain loops, however the parts are made."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.pipelines import digests_of, identities_of, open_artifact, rows_of
from support.written_pools import candidate, write_pools

from prefpipe.artifacts.store import Shard, open_output
from prefpipe.cli.main import run

N_PROMPTS, PART_SIZE = 131, 18
FLAGS = {
    "--min-pass-rate": 0.1,
    "--max-pass-rate": 0.9,
    "--pass-reward": 4.0,
    "--min-spread": 1.0,
    "--min-rejected-reward": 0.25,
    "--min-rejected-tokens": 0.15,
    "--max-gap": 0.6,
}
Pools = dict[str, list[dict]]


def make_pools() -> Pools:
    """Pools of 1 to 9 responses, some unrated, some copies, rewards of whole numbers that tie."""
    randomness = random.Random(7)
    pools = {}
    for p in range(N_PROMPTS):
        pool, least = [], randomness.randrange(0, 4)
        for _ in range(randomness.randrange(1, 10)):
            reward = float(randomness.randrange(least, 10)) if randomness.random() < 0.9 else None
            text = randomness.choice("abcdefgh") * randomness.randrange(1, 12)
            pool.append(candidate(text, {"rm": reward}))
        pools[f"p{p:03}"] = pool
    return pools


def by_loops(pools: Pools) -> dict[str, str]:
    """The status of each prompt: why it was left out, or ``kept``."""
    facts, statuses = {}, {}
    for name, pool in pools.items():
        rated = [each for each in pool if each["rewards"]["rm"] is not None]
        usable, seen = [], set()
        for each in rated:
            if each["text"] not in seen:
                usable.append((each["rewards"]["rm"], len(each["text"])))
            seen.add(each["text"])
        rewards = [reward for reward, _ in usable]
        if not rated:
            statuses[name] = "no_rewards"
        elif len(usable) < 2:
            statuses[name] = "too_few_candidates"
        elif min(rewards) == max(rewards):
            statuses[name] = "tie"
        else:
            lowest = rewards.index(min(rewards))
            passed = [each["rewards"]["rm"] >= FLAGS["--pass-reward"] for each in rated]
            facts[name] = {
                "rate": sum(passed) / len(passed),
                "low": rewards[lowest],
                "tokens": usable[lowest][1],
                "gap": max(rewards) - min(rewards),
            }

    def quantile(name: str, level: float) -> float:
        """Linear between the two nearest of the sorted values."""
        values = sorted(each[name] for each in facts.values())
        place = level * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])

    low = quantile("low", FLAGS["--min-rejected-reward"])
    tokens = quantile("tokens", FLAGS["--min-rejected-tokens"])
    gap = quantile("gap", FLAGS["--max-gap"])
    for name, fact in facts.items():
        reasons = {
            "low_pass_rate": fact["rate"] < FLAGS["--min-pass-rate"],
            "high_pass_rate": fact["rate"] > FLAGS["--max-pass-rate"],
            "small_spread": fact["gap"] < FLAGS["--min-spread"],
            "low_rejected_reward": fact["low"] < low,
            "short_rejected": fact["tokens"] < tokens,
            "large_gap": fact["gap"] > gap,
        }
        statuses[name] = next((reason for reason, holds in reasons.items() if holds), "kept")
    return statuses


def statuses_of(folder: Path) -> dict[str, str]:
    statuses: dict[str, str] = {}
    for row in rows_of(folder):
        statuses[row["prompt_id"]] = "kept" if row["role"] is not None else row["status"]
    return statuses


def select(folder: Path, *more: object, output: str) -> int:
    words = ["select", folder / "candidates", "--scores", folder / "scores", "-o", folder / output]
    words += ["--strategy", "best-worst"]
    for flag, value in FLAGS.items():
        words += [flag, value]
    return run([str(word) for word in [*words, *more]])


@pytest.fixture(scope="module")
def pools() -> Pools:
    return make_pools()


def test_every_reason_comes_up(pools: Pools) -> None:
    found = by_loops(pools)
    assert set(found.values()) >= {
        "kept",
        "tie",
        "too_few_candidates",
        "low_pass_rate",
        "high_pass_rate",
        "low_rejected_reward",
        "short_rejected",
        "large_gap",
    }
    assert list(found.values()).count("kept") > 20


@pytest.mark.slow
@pytest.mark.parametrize("part_size", [PART_SIZE, 7, N_PROMPTS])
def test_every_prompt_has_the_status_of_plain_loops(
    pools: Pools, tmp_path: Path, part_size: int
) -> None:
    write_pools(tmp_path, pools, part_size=part_size)
    assert select(tmp_path, output="groups") == 0
    assert statuses_of(tmp_path / "groups") == by_loops(pools)


@pytest.mark.slow
def test_shards_and_workers_write_the_same_bytes(pools: Pools, tmp_path: Path) -> None:
    """Eight parts, the last of five prompts; shards in any order."""
    write_pools(tmp_path, pools, part_size=PART_SIZE)
    assert select(tmp_path, output="alone") == 0
    assert select(tmp_path, "--workers", 3, output="workers") == 0
    for index in (2, 0, 1):
        more = ("--shard-index", index, "--num-shards", 3)
        assert select(tmp_path, *more, output="shards") == 0
    expected = digests_of(tmp_path / "alone")
    assert len(expected) == 8
    assert digests_of(tmp_path / "workers") == expected
    assert digests_of(tmp_path / "shards") == expected


def _replace_rewards(folder: Path, index: int, change: dict[tuple[str, int], float]) -> None:
    """Write one part of the scores again with other rewards."""
    scores = open_artifact(folder / "scores")
    table, footer = scores.read(index)
    rows = table.to_pylist()
    for row in rows:
        key = row["prompt_id"], row["sample_idx"]
        row["reward"] = change.get(key, row["reward"])
    output = open_output(folder / "scores", scores.record, shard=Shard(), overwrite=False)
    other = pa.Table.from_pylist(rows, schema=table.schema)
    output.write(index, other, counts={"ok": len(rows)}, parents=footer.parents)


@pytest.mark.slow
def test_scores_that_change_make_what_they_must_again(tmp_path: Path) -> None:
    """Thresholds that stay: the one part alone. Thresholds that move: all, with --overwrite=stale."""
    pools = make_pools()
    write_pools(tmp_path, pools, part_size=PART_SIZE)
    assert select(tmp_path, output="groups") == 0
    before = identities_of(tmp_path / "groups")

    # A reward in the middle of its pool is no lowest, no highest and passes as before.
    statuses = by_loops(pools)
    name, place = _middling(pools, statuses)
    index = list(pools).index(name) // PART_SIZE
    pools[name][place]["rewards"]["rm"] += 0.25
    assert by_loops(pools) == statuses
    _replace_rewards(tmp_path, index, {(name, place): pools[name][place]["rewards"]["rm"]})
    assert select(tmp_path, output="groups") == 0
    after = identities_of(tmp_path / "groups")
    changed = [part for part, identity in after.items() if identity != before[part]]
    assert [f"part-{index:05}" in part for part in changed] == [True]
    assert statuses_of(tmp_path / "groups") == statuses

    # Every gap of the first five parts grows.
    for index in range(5):
        change = {}
        for name in list(pools)[index * PART_SIZE : (index + 1) * PART_SIZE]:
            for place, each in enumerate(pools[name]):
                if each["rewards"]["rm"] is not None:
                    each["rewards"]["rm"] *= 3.0
                    change[name, place] = each["rewards"]["rm"]
        _replace_rewards(tmp_path, index, change)
    assert select(tmp_path, output="groups") == 2
    assert identities_of(tmp_path / "groups") == after
    assert select(tmp_path, "--overwrite=stale", output="groups") == 0
    assert statuses_of(tmp_path / "groups") == by_loops(pools)
    assert by_loops(pools) != statuses


def _middling(pools: Pools, statuses: dict[str, str]) -> tuple[str, int]:
    """A kept prompt's response whose reward lies well between, and above what passes."""
    for name, pool in pools.items():
        rewards = [each["rewards"]["rm"] for each in pool]
        known = [reward for reward in rewards if reward is not None]
        if statuses[name] != "kept" or len({each["text"] for each in pool}) < len(pool):
            continue
        for place, reward in enumerate(rewards):
            if reward is not None and max(min(known), 4.0) < reward < max(known) - 1:
                return name, place
    raise AssertionError("no such response")


def test_the_quantile_of_the_loops_is_numpys() -> None:
    values = [3.0, 1.0, 7.0, 7.0, 2.5]
    place = 0.3 * 4
    by_hand = sorted(values)[1] + (place - 1) * (sorted(values)[2] - sorted(values)[1])
    assert by_hand == pytest.approx(np.quantile(values, 0.3))

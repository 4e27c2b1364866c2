"""Keys and seeds come from content and never from position."""

import hashlib
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefpipe.artifacts.ids import PROMPT_ID_HEX_DIGITS, SEED_BITS, prompt_id_of, seed_for

HALF = "\ud83d"


def test_a_prompt_id_is_the_start_of_a_sha256_of_roles_and_contents() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "Grüße"}]
    text = '[["system","s"],["user","Gr\\u00fc\\u00dfe"]]'
    assert prompt_id_of(turns) == hashlib.sha256(text.encode()).hexdigest()[:PROMPT_ID_HEX_DIGITS]


def test_a_prompt_id_ignores_the_order_of_keys_and_other_keys() -> None:
    assert prompt_id_of([{"content": "q", "role": "user"}]) == prompt_id_of(
        [{"role": "user", "content": "q", "name": "x"}]
    )


def test_different_conversations_have_different_ids() -> None:
    """Also where the joined texts are equal: borders between turns and roles count."""
    conversations = [
        [("user", "ab")],
        [("user", "a"), ("user", "b")],
        [("user", "a"), ("assistant", "b")],
        [("assistant", "a"), ("user", "b")],
        [("user", 'a"],["user","b')],
        [("user", "ab ")],
        [("user", "a\0b")],
        [("user", "e\u0301")],
        [("user", "\u00e9")],
    ]
    ids = {
        prompt_id_of([{"role": role, "content": content} for role, content in turns])
        for turns in conversations
    }
    assert len(ids) == len(conversations)


def test_a_seed_is_48_bits_of_a_sha256_of_run_seed_and_key() -> None:
    digest = hashlib.sha256(b'[7, "p", 3]').hexdigest()
    assert seed_for(7, "p", 3) == int(digest[:12], 16)
    assert SEED_BITS == 12 * 4


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**63), st.text(), st.integers(0, 10_000))
def test_seeds_fit_json_numbers_and_any_prompt_id_has_one(
    run_seed: int, prompt_id: str, sample_idx: int
) -> None:
    seed = seed_for(run_seed, prompt_id + HALF, sample_idx)
    assert 0 <= seed < 2**SEED_BITS
    assert json.loads(json.dumps(float(seed))) == seed


def test_seeds_of_a_run_do_not_repeat_and_neighbouring_run_seeds_share_none() -> None:
    """seed + i, which vLLM uses for the children of a request, would share n - 1 of n seeds with the next run seed."""
    runs = [
        {seed_for(run_seed, f"p{p}", i) for p in range(50) for i in range(32)}
        for run_seed in (0, 1)
    ]
    assert [len(seeds) for seeds in runs] == [50 * 32] * 2
    assert not runs[0] & runs[1]


def test_keys_that_look_alike_when_joined_have_different_seeds() -> None:
    assert (
        len(
            {
                seed_for(1, "1", 1),
                seed_for(11, "", 1),
                seed_for(1, "", 11),
                seed_for(1, "11", 1),
                seed_for(1, "1", 11),
            }
        )
        == 5
    )

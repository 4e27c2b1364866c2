"""Whatever JSON stands in a file: it is read, or refused with an error that is prefpipe's own; never a traceback."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.interchange_files import assistant, read, user

from prefpipe.errors import PrefpipeError

COLUMNS = {
    "rows": ["prompt", "messages", "prompt_id", "response", "sample_idx", "finish_reason", "model", "score"],
    "simpo": ["prompt", "prompt_id", "all_generated_responses", "all_rm_scores"],
    "ultrafeedback": ["instruction", "completions", "generations", "ratings", "generation_models", "prompt_id"],
    "online-rlhf": ["prompt", "responses", "rewards"],
    "trl": ["prompt", "chosen", "rejected", "completion", "label", "prompt_id", "chosen_sample_idx", "score_chosen", "score_rejected", "model"],
    "jsonl": ["prompt_id", "messages", "responses", "pairs"],
    "openai-batch": ["custom_id", "response", "error"],
}  # fmt: skip
KEYS = (
    "role",
    "content",
    "response",
    "overall_score",
    "sample_idx",
    "reward",
    "model",
    "body",
    "choices",
    "message",
    "index",
    "status_code",
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["q", "", " ", "[", "user", "r1", "<|im_start|>", "\ud83d"])
)
usual = st.sampled_from(
    [
        user("q"),
        assistant("a"),
        user("q") + assistant("a"),
        "q",
        ["a", "b"],
        [1.0, 2.0],
        0,
        1,
        True,
        {"body": {"choices": []}},
    ]
)
values = usual | st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", COLUMNS)
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_any_row_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(COLUMNS[kind]), unique=True, min_size=1))
    rows: list[Any] = data.draw(
        st.lists(st.fixed_dictionaries(dict.fromkeys(names, values)), max_size=3)
    )
    bodies = data.draw(st.lists(values, max_size=2))
    with tempfile.TemporaryDirectory() as folder:
        source, requests = Path(folder) / "a.jsonl", Path(folder) / "in.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fine = {"custom_id": "r1", "body": {"messages": user("q")}}
        requests.write_text(
            "".join(
                json.dumps(row) + "\n"
                for row in [fine, *({"custom_id": "r2", "body": body} for body in bodies)]
            )
        )
        more = {"rewards": {"score": "score"}} if kind == "rows" and "score" in names else {}
        pool: Any = None
        with suppress(PrefpipeError):
            pool = read(
                str(source),
                kind,
                requests=str(requests) if kind == "openai-batch" else None,
                **more,
            )
    if pool is None:
        return
    assert pool.n_responses >= len(pool.prompts) >= 1
    for prompt, members in zip(pool.prompts.rows, pool.responses, strict=True):
        assert prompt.messages[-1]["role"] == "user"
        assert len({response.sample_idx for response in members}) == len(members)
        assert all(response.text is None or isinstance(response.text, str) for response in members)
        assert all(
            (response.text is None) == (response.failure is not None) for response in members
        )
        assert all(
            f"{response.text}{response.failure}{response.model}{response.finish_reason}".encode()
            for response in members
        )

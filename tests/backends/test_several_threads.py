"""Back-ends that rate, embed and measure say the same from several threads as from one, bit for bit.

What they count is in their answers, so nothing is lost between threads.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.tiny_groups import make_groups
from support.tiny_models import (
    make_tiny_causal_lm,
    make_tiny_encoder,
    make_tiny_reward_model,
    make_tiny_tokenizer,
)

from prefpipe.artifacts.store import add_tallies
from prefpipe.backends.embedders.sentence_embedder import SentenceEmbedder
from prefpipe.backends.judges.reward_judge import RewardJudge
from prefpipe.backends.open_calls import OpenCalls
from prefpipe.backends.protocol import PairRequest, ScoreRequest
from prefpipe.backends.scorers.checks_scorer import ChecksScorer
from prefpipe.backends.scorers.reward_model import RewardModelScorer
from prefpipe.errors import PrefpipeWarning
from prefpipe.models.files import ModelFiles
from prefpipe.training.encoding import Encoder

N_THREADS = 4
WORDS = [
    "a",
    "few",
    "words",
    "of",
    "a",
    "response",
    "that",
    "grows",
    "<|im_end|>",
    "longer",
    "and",
    "longer",
]


def from_threads(call, items):
    """Return what ``call`` says of each item, all threads at once for as long as it takes."""
    barrier = threading.Barrier(N_THREADS)

    def call_at_once(item):
        if items.index(item) < N_THREADS:
            barrier.wait(timeout=60)
        return call(item)

    with ThreadPoolExecutor(N_THREADS) as threads:
        return list(threads.map(call_at_once, items))


def text(number):
    return " ".join(WORDS[: 1 + number % len(WORDS)]) + f" {number}"


def requests_of(part):
    question = [{"role": "user", "content": f"What is part {part}?"}]
    return [ScoreRequest(f"p{part}", i, question, text(part + i), {}) for i in range(6)]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = make_tiny_reward_model(tmp_path_factory.mktemp("models") / "reward")
    files = ModelFiles("my/reward", folder, "sequence-classification", None, "", None, None)
    return RewardModelScorer(files, device="cpu", batch_size=2)


def test_a_reward_model(scorer):
    parts = [requests_of(part) for part in range(24)]
    expected = [scorer.score(part) for part in parts]
    scored = from_threads(scorer.score, parts)
    assert scored == expected
    tally = add_tallies(score.tally for part in scored for score in part)
    n_spelling = sum("<|im_end|>" in request.response for part in parts for request in part)
    assert tally == {"n_read": 24 * 6, "n_with_control_text/<|im_end|>": n_spelling}
    assert n_spelling > 0


def test_a_reward_model_as_a_judge(scorer):
    judge = RewardJudge(scorer, rule="sigmoid", tie_tolerance=0.0)
    pairs = [
        [PairRequest(one.messages, one.response, "No.") for one in requests_of(part)]
        for part in range(12)
    ]
    assert from_threads(judge.judge, pairs) == [judge.judge(part) for part in pairs]


def test_an_embedder_and_its_vectors_are_those_of_its_library(tmp_path):
    folder = make_tiny_encoder(tmp_path / "encoder")
    files = ModelFiles("my/encoder", folder, "sentence-transformer", None, "", None, None)
    with pytest.warns(PrefpipeWarning, match=r"no modules\.json"):
        embedder = SentenceEmbedder(files, device="cpu", batch_size=3, max_length=12)
    parts = [[text(part + i) for i in range(8)] for part in range(24)]
    embedded = from_threads(embedder.embed, parts)
    for part, (vectors, n_tokens, truncated) in zip(parts, embedded, strict=True):
        alone = embedder.embed(part)
        assert np.array_equal(vectors, alone.vectors)
        assert np.array_equal(n_tokens, alone.n_tokens)
        assert np.array_equal(truncated, alone.n_tokens > 12)
        by_library = embedder._model.encode(
            part, batch_size=3, normalize_embeddings=True, show_progress_bar=False
        )
        assert np.array_equal(vectors, by_library)
    assert any(part.truncated.any() for part in embedded)


def test_log_probabilities(tmp_path):
    from prefpipe.configs.logprobs import LogprobsConfig
    from prefpipe.stages.logprobs import ReferenceModel

    folder = make_tiny_causal_lm(tmp_path / "lm")
    reference = object.__new__(ReferenceModel)
    reference.config = LogprobsConfig(
        groups=tmp_path, model=str(folder), output=tmp_path / "out", dtype="float32"
    )
    reference.device = torch.device("cpu")
    reference._calls = OpenCalls()
    from transformers import AutoModelForCausalLM

    reference.model = AutoModelForCausalLM.from_pretrained(folder)
    parts = [make_groups(4, seed=seed) for seed in range(12)]
    expected = [reference.measure(part) for part in parts]
    for alone, together in zip(expected, from_threads(reference.measure, parts), strict=True):
        assert {key: each.logp for key, each in alone.items()} == {
            key: each.logp for key, each in together.items()
        }


def test_encoders_with_one_template():
    first = Encoder(make_tiny_tokenizer(), [])
    questions = [[{"role": "user", "content": f"Question {n}?"}] for n in range(40)]

    def encode(number):
        encoder = first.anew()
        encoded = [
            encoder.encode("p", questions[(number + step) % 40], text(step), finished=True)
            for step in range(10)
        ]
        return encoded, encoder.tally()

    numbers = list(range(40))
    assert from_threads(encode, numbers) == [encode(number) for number in numbers]
    assert first.n_encoded == 0


def test_a_users_own_check_is_called_by_one_thread_at_a_time(monkeypatch, tmp_path):
    (tmp_path / "careless_checks.py").write_text(
        "import time\nopen_calls = 0\n\n"
        "def alone(response, messages, columns):\n"
        "    global open_calls\n    open_calls += 1\n    time.sleep(0.002)\n"
        "    others = open_calls - 1\n    open_calls -= 1\n    return float(others == 0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = ChecksScorer(trust_python_checks=True)
    columns = {"checks": [{"type": "python", "function": "careless_checks:alone"}]}
    parts = [
        [one._replace(columns=columns) for one in requests_of(part)] for part in range(N_THREADS)
    ]
    scored = from_threads(scorer.score, parts)
    assert [score.reward for part in scored for score in part] == [1.0] * 24

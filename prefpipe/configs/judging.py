"""The knobs of language models that judge, shared by ``prefpipe judge`` and ``prefpipe score``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from prefpipe.configs.options import TemplatedConfig, option

ENGINES = ("openai", "vllm", "transformers")
"""What can run a language model that judges; ``openai`` is any OpenAI-compatible server."""


class JudgeSpec(NamedTuple):
    """A judge as it is given: ``openai:gpt-4.1`` is kind ``openai``, model ``gpt-4.1``."""

    kind: str
    model: str


def parse_judge(text: str) -> JudgeSpec:
    """Return ``JudgeSpec`` of ``KIND[:MODEL]``."""
    kind, _, model = text.partition(":")
    return JudgeSpec(kind.strip(), model.strip())


def judge_problems(flag: str, text: str, kinds: Sequence[str]) -> list[str]:
    """Return what is wrong with a judge's name."""
    spec = parse_judge(text)
    if spec.kind not in kinds:
        return [
            f"{flag} {text}: the judges are {', '.join(f'{kind}:MODEL' for kind in kinds if kind != 'fake')}"
        ]
    if not spec.model and spec.kind != "fake":
        return [f"{flag} {text} needs a model, {spec.kind}:MODEL"]
    return []


@dataclass(frozen=True, kw_only=True)
class JudgingConfig(TemplatedConfig):
    """How a language model is asked for verdicts."""

    judge_prompt: str | None = option(
        None,
        identity=False,
        metavar="NAME|FILE",
        help="judge prompt: a name from docs/judging.md or a file of yours",
    )
    judge_max_tokens: int | None = option(
        None,
        help="longest answer of a judge, in tokens; default 8, or 1024 where the prompt lets it reason",
    )
    judge_temperature: float = option(0.0, help="sampling temperature of a judge")
    base_url: str | None = option(
        None, identity=False, help="address of the judge's server, default OPENAI_BASE_URL"
    )
    concurrency: int = option(
        16, identity=False, help="requests to a judge's server on their way at a time"
    )
    requests_per_minute: float | None = option(
        None, identity=False, help="most requests to a judge's server a minute"
    )
    timeout_s: float = option(
        120.0, identity=False, help="seconds that one try may take, to the last byte of the answer"
    )
    max_tries: int = option(
        6, identity=False, help="tries of a request that times out, or meets 429 or 5xx"
    )
    cache: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder of paid answers, to share between runs; default OUTPUT/answers",
    )
    emit_batch: Path | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="ask nobody: write what is still to be asked as an OpenAI batch file",
    )
    ingest_batch: tuple[Path, ...] = option(
        (),
        identity=False,
        metavar="FILE",
        help="ask nobody: take answers from output and error files of a batch; repeatable",
    )
    price_in: float | None = option(
        None, identity=False, help="price of a million prompt tokens, to tell the cost"
    )
    price_out: float | None = option(
        None, identity=False, help="price of a million answer tokens, to tell the cost"
    )

    def problems(self) -> list[str]:
        found = super().problems()
        prices = [price for price in (self.price_in, self.price_out) if price is not None]
        checks = (
            (
                self.judge_max_tokens is None or self.judge_max_tokens >= 1,
                "--judge-max-tokens must be 1 or more",
            ),
            (
                0 <= self.judge_temperature <= 2,
                f"--judge-temperature must be within 0 and 2, not {self.judge_temperature}",
            ),
            (
                1 <= self.concurrency <= 1024,
                f"--concurrency must be within 1 and 1024, not {self.concurrency}",
            ),
            (
                self.requests_per_minute is None or self.requests_per_minute > 0,
                "--requests-per-minute must be above 0",
            ),
            (self.timeout_s > 0, f"--timeout-s must be above 0, not {self.timeout_s}"),
            (self.max_tries >= 1, f"--max-tries must be 1 or more, not {self.max_tries}"),
            (len(prices) != 1, "--price-in and --price-out go together"),
            (all(price >= 0 for price in prices), "--price-in and --price-out must be 0 or more"),
            (
                not (self.emit_batch and self.ingest_batch),
                "--emit-batch and --ingest-batch are two steps: emit, run it, ingest",
            ),
        )
        return found + [sentence for holds, sentence in checks if not holds]

    @property
    def answers_mode(self) -> Literal["ask", "collect", "ingest"]:
        """Where answers come from: asked for, left for a batch to bring, or brought by one."""
        if self.emit_batch:
            return "collect"
        return "ingest" if self.ingest_batch else "ask"

    @property
    def asks_again(self) -> bool:
        """Whether an answer of an earlier run that holds no verdict is asked for again."""
        return True

"""The knobs of language models that judge, shared by ``prefpipe judge`` and ``prefpipe score``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.options import option
from prefpipe.configs.stage import TemplatedConfig

ENGINES = ("openai", "vllm", "transformers")
"""What can run a language model that judges; ``openai`` is any OpenAI-compatible server."""


class JudgeSpec(NamedTuple):
    """A judge as it is given: ``openai:gpt-4.1`` is kind ``openai``, model ``gpt-4.1``."""

    kind: str
    model: str


def parse_judge(text: str) -> JudgeSpec:
    """Read ``KIND[:MODEL]``."""
    kind, _, model = text.partition(":")
    return JudgeSpec(kind.strip(), model.strip())


def judge_problems(flag: str, text: str, kinds: Sequence[str]) -> list[str]:
    """Return what is wrong with a judge's name."""
    spec = parse_judge(text)
    if spec.kind not in kinds:
        shown = ", ".join(f"{kind}:MODEL" for kind in kinds if kind != "fake")
        return [f"{flag} {text}: the judges are {shown}"]
    if not spec.model and spec.kind != "fake":
        return [f"{flag} {text} needs a model, {spec.kind}:MODEL"]
    return []


@dataclass(frozen=True, kw_only=True)
class JudgingConfig(TemplatedConfig):
    """How a language model is asked for verdicts."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Judges": (
            "judge_prompt",
            "base_url",
            "judge_max_tokens",
            "judge_temperature",
            "concurrency",
            "requests_per_minute",
            "timeout_s",
            "max_tries",
            "cache",
            "emit_batch",
            "ingest_batch",
            "price_in",
            "price_out",
        ),
    }

    judge_prompt: str | None = option(
        None,
        identity=False,
        metavar="NAME|FILE",
        common=True,
        help="judge prompt: a name from docs/guides/judging.md, or your own file; default: the "
        "command's standard prompt",
    )
    judge_max_tokens: int | None = option(
        None,
        minimum=1,
        help="longest answer of a judge, in tokens; default: 8, or 1024 if the prompt lets the "
        "judge reason",
    )
    judge_temperature: float = option(
        0.0, minimum=0, maximum=2, help="sampling temperature of a judge"
    )
    base_url: str | None = option(
        None,
        identity=False,
        common=True,
        help="address of the judge's server; default: OPENAI_BASE_URL",
    )
    concurrency: int = option(
        16,
        identity=False,
        minimum=1,
        maximum=1024,
        help="parallel requests to a judge's server",
    )
    requests_per_minute: float | None = option(
        None,
        identity=False,
        above=0,
        help="most requests per minute to a judge's server; default: no limit",
    )
    timeout_s: float = option(
        120.0,
        identity=False,
        above=0,
        help="seconds one request may take, up to the last byte of its answer",
    )
    max_tries: int = option(
        6,
        identity=False,
        minimum=1,
        help="attempts for a request that times out or gets status 429 or 5xx",
    )
    cache: Path | None = option(
        None,
        identity=False,
        metavar="DIR",
        help="folder of paid answers, to share among runs; default: OUTPUT/answers",
    )
    emit_batch: Location | None = option(
        None,
        identity=False,
        metavar="FILE",
        help="send no requests: write the open ones as an OpenAI batch file",
    )
    ingest_batch: tuple[Location, ...] = option(
        (),
        identity=False,
        metavar="FILE",
        help="send no requests: read answers from a batch's output and error files; repeatable",
    )
    price_in: float | None = option(
        None, identity=False, minimum=0, help="price of a million prompt tokens, to report the cost"
    )
    price_out: float | None = option(
        None, identity=False, minimum=0, help="price of a million answer tokens, to report the cost"
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if (self.price_in is None) != (self.price_out is None):
            problems.append("--price-in and --price-out go together")
        if self.emit_batch and self.ingest_batch:
            problems.append("--emit-batch and --ingest-batch are two steps: emit, run it, ingest")
        return problems

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

"""The knobs of ``prefpipe score``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, get_args

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.conversations import ON_DUPLICATE
from prefpipe.configs.judging import ENGINES, JudgingConfig, judge_problems
from prefpipe.configs.options import Dtype, option
from prefpipe.configs.stage import ENGINE_HEADING, FILES_HEADING, ErrorRateConfig, PartwiseConfig
from prefpipe.configs.tables import TablesConfig
from prefpipe.configs.workers import WorkersConfig

KINDS = ("checks", "reward-model", "ratings", "judge", "fake")
REWARD_FUNCTIONS = ("z", "logit", "min", "max", "clip")
NEEDS_TARGET = {
    "reward-model": "a model, reward-model:org/name",
    "ratings": "a file, ratings:human.jsonl",
    "judge": "a judge, judge:openai:gpt-4.1",
}


class ScorerSpec(NamedTuple):
    """One ``--scorer``: the name its rows carry, what kind it is, and what it is made from."""

    name: str
    kind: str
    target: str


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(JudgingConfig, PartwiseConfig, WorkersConfig, ErrorRateConfig, TablesConfig):
    """Rate every response with one or more scorers.

    Scorers are verifiable checks, reward models, ratings in a file, and language models as judges.
    """

    stage: ClassVar[str] = "score"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "scorer", "overwrite", "retry_errors"),
        "Judges": (),
        ENGINE_HEADING: (
            "batch_size",
            "device",
            "dtype",
            "max_length",
            "trust_remote_code",
            "trust_python_checks",
        ),
        FILES_HEADING: ("rating_column", "on_duplicate", "skip_bad_rows"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe score run/candidates -o run/scores --scorer "
            "reward-model:Skywork/Skywork-Reward-V2-Qwen3-4B"
        ),
        "prefpipe score run/candidates -o run/scores --scorer checks --scorer judge:openai:gpt-4.1",
    )

    candidates: Location = option(
        positional=True,
        identity=False,
        metavar="CANDIDATES",
        common=True,
        help="folder written by generate or import",
    )
    scorer: tuple[str, ...] = option(
        identity=False,
        metavar="[NAME=]KIND[:TARGET]",
        common=True,
        help="checks, reward-model:MODEL, ratings:FILE or judge:KIND:MODEL (1 to 10); NAME= "
        "names its rows; repeat for several scorers",
    )
    rating_column: str = option("rating", help="column of the ratings file that holds the rating")
    on_duplicate: str | None = option(
        None,
        choices=ON_DUPLICATE,
        help="several ratings of one candidate in a ratings file: use the mean or the first, "
        "or refuse the file (the default)",
    )
    max_length: int | None = option(
        None,
        help="longest prompt plus response, in tokens; default: the model's limit",
    )
    dtype: Dtype = option(
        "auto",
        choices=get_args(Dtype),
        help="number format of a local model",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    trust_python_checks: bool = option(
        False, identity=False, help="run Python functions that the prompts file names"
    )
    retry_errors: bool = option(
        False, identity=False, help="score the parts that hold failed rows again"
    )
    batch_size: int = option(
        16,
        identity=False,
        minimum=1,
        common=True,
        help="sequences per forward pass of a reward model",
    )
    device: str = option("auto", identity=False, common=True, help="auto, cpu, cuda or cuda:N")

    def problems(self) -> list[str]:
        problems = super().problems() + scorer_problems(self.scorer)
        if not self.scorer:
            problems.append("--scorer is needed")
        if (self.emit_batch or self.ingest_batch) and not self._asks_server():
            problems.append("--emit-batch and --ingest-batch go with --scorer judge:openai:MODEL")
        return problems

    def _asks_server(self) -> bool:
        specs = [parse_scorer(text) for text in self.scorer]
        return any(spec.kind == "judge" and spec.target.startswith("openai:") for spec in specs)


def scorer_problems(scorers: Sequence[str]) -> list[str]:
    """Return what is wrong with the ``--scorer`` values."""
    problems = []
    for text in scorers:
        spec = parse_scorer(text)
        if spec.kind not in KINDS:
            problems.append(f"--scorer {text}: the kinds are {', '.join(KINDS)}")
        elif spec.kind == "judge" and spec.target:
            problems += judge_problems("--scorer judge:...", spec.target, ENGINES)
        elif spec.kind in NEEDS_TARGET and not spec.target:
            problems.append(f"--scorer {text} needs {NEEDS_TARGET[spec.kind]}")
        elif spec.kind not in NEEDS_TARGET and spec.target:
            problems.append(
                f"--scorer {text}: {spec.kind} takes no target, and {spec.target!r} was given"
            )

        # a reward expression names its scorers
        if spec.name in REWARD_FUNCTIONS:
            problems.append(
                f"--scorer {text}: `{spec.name}` is a function of --reward; choose another name"
            )
        if not spec.name.isidentifier():
            problems.append(
                f"--scorer {text}: the name `{spec.name}` must be letters, digits and _ so that "
                "--reward can use it"
            )

    names = [parse_scorer(text).name for text in scorers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(
            f"two scorers are called `{twice[0]}`: name one of them, --scorer other={twice[0]}..."
        )
    return problems


def parse_scorer(text: str) -> ScorerSpec:
    """Read ``[NAME=]KIND[:TARGET]``; the default name is the kind with ``_`` for ``-``."""
    head, colon, target = text.partition(":")
    name, equals, kind = head.partition("=")
    if not equals:
        name, kind = head.replace("-", "_"), head
    return ScorerSpec(name.strip(), kind.strip(), target.strip() if colon else "")

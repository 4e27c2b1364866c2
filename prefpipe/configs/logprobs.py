"""The knobs of ``prefpipe logprobs``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefpipe.configs.options import option
from prefpipe.configs.stage import ErrorRateConfig, PartwiseConfig
from prefpipe.configs.template_args import PolicyTemplateConfig
from prefpipe.configs.workers import WorkersConfig

DTYPES = ("float32", "mixed", "bfloat16", "nf4-float32", "nf4-bfloat16")


@dataclass(frozen=True, kw_only=True)
class LogprobsConfig(PolicyTemplateConfig, PartwiseConfig, WorkersConfig, ErrorRateConfig):
    """Measure the log-probability of every response under a model, the reference of training.

    The responses are those of groups or of candidates.
    """

    stage: ClassVar[str] = "logprobs"
    VERSION: ClassVar[int] = 1

    groups: Path = option(
        positional=True,
        identity=False,
        metavar="GROUPS",
        help="folder written by select, or candidates: every response of them",
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        help="the reference: a folder, bundled:NAME, org/name[@revision], or an adapter",
    )
    dtype: str = option(
        "float32",
        choices=DTYPES,
        help="float32; mixed: bfloat16 computation on float32 weights, as `train --bf16`; "
        "bfloat16: weights too, as with LoRA; nf4-float32, nf4-bfloat16: 4-bit weights, as "
        "`train --load-in-4bit`",
    )
    merge_adapter: bool = option(
        False,
        identity=False,
        help="add an adapter to its base first, as `train` without --lora-r does, instead of "
        "computing it beside; part of what the artifact is where the model is an adapter",
    )
    max_length: int = option(2048, minimum=2, help="longest prompt plus response, in tokens")
    on_too_long: str = option(
        "drop",
        identity=False,
        choices=("drop", "truncate", "error"),
        help="what to do with a longer response; whether it is measured in part belongs to what "
        "the artifact is",
    )
    per_token: bool = option(False, help="keep the log-probability of each token as well")
    max_batch_tokens: int = option(
        16_384, identity=False, minimum=1, help="tokens that are computed at once"
    )
    shared_prompt: bool = option(
        True,
        identity=False,
        help="compute each prompt once for all its responses, where the model allows",
    )
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.merge_adapter and self.dtype.startswith("nf4"):
            problems.append(
                f"--merge-adapter and --dtype {self.dtype} exclude each other: 4-bit weights take "
                "no adapter in"
            )
        return problems

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows.

        Of ``--on-too-long`` it is whether longer responses are measured in part.
        """
        return super().identity() | {"truncates": self.on_too_long == "truncate"}

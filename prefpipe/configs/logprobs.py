"""The knobs of ``prefpipe logprobs``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.options import option
from prefpipe.configs.stage import ENGINE_HEADING, ErrorRateConfig, PartwiseConfig
from prefpipe.configs.template_args import PolicyTemplateConfig
from prefpipe.configs.workers import WorkersConfig

DTYPES = ("float32", "mixed", "bfloat16", "nf4-float32", "nf4-bfloat16")


@dataclass(frozen=True, kw_only=True)
class LogprobsConfig(PolicyTemplateConfig, PartwiseConfig, WorkersConfig, ErrorRateConfig):
    """Precompute reference log-probabilities of responses.

    The result is for `train --reference`, and can be reused across training runs.
    """

    stage: ClassVar[str] = "logprobs"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "model", "overwrite"),
        "Measurement": ("dtype", "max_length", "on_too_long", "per_token", "merge_adapter"),
        ENGINE_HEADING: ("device", "max_batch_tokens", "shared_prompt", "trust_remote_code"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe logprobs run/groups -o run/reference --model Qwen/Qwen3-4B",
        (
            "prefpipe train run/groups -o run/policy --model Qwen/Qwen3-4B --objective dpo "
            "--reference run/reference"
        ),
    )

    groups: Location = option(
        positional=True,
        identity=False,
        metavar="GROUPS",
        common=True,
        help="folder written by select, or candidates, of which every response is measured",
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        common=True,
        help="the reference: a folder, bundled:NAME, org/name[@revision], or an adapter",
    )
    dtype: str = option(
        "float32",
        choices=DTYPES,
        common=True,
        help="float32; mixed: bfloat16 compute on float32 weights, as `train --bf16`; "
        "bfloat16: as with LoRA; nf4-*: as `train --load-in-4bit`",
    )
    merge_adapter: bool = option(
        False,
        identity=False,
        help="merge an adapter into its base first, as `train` without --lora-r does; part of "
        "the fingerprint if the model is an adapter",
    )
    max_length: int = option(
        2048, minimum=2, common=True, help="longest prompt plus response, in tokens"
    )
    on_too_long: str = option(
        "drop",
        identity=False,
        choices=("drop", "truncate", "error"),
        common=True,
        help="what to do with a longer response; the fingerprint records whether such "
        "responses are truncated",
    )
    per_token: bool = option(False, help="also store the log-probability of each token")
    max_batch_tokens: int = option(
        16_384, identity=False, minimum=1, common=True, help="tokens computed at once"
    )
    shared_prompt: bool = option(
        True,
        identity=False,
        help="compute each prompt once for all its responses, if the model allows it",
    )
    device: str = option("auto", identity=False, common=True, help="auto, cpu, cuda or cuda:N")
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

"""The knobs of ``prefpipe embed``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.command import OUTPUT_HEADING
from prefpipe.configs.options import option
from prefpipe.configs.stage import ENGINE_HEADING, ErrorRateConfig, PartwiseConfig
from prefpipe.configs.workers import WorkersConfig


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(PartwiseConfig, WorkersConfig, ErrorRateConfig):
    """Turn every response into a vector.

    `select` uses the vectors to keep responses that differ.
    """

    stage: ClassVar[str] = "embed"
    VERSION: ClassVar[int] = 1
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        OUTPUT_HEADING: ("output", "model", "text", "dtype", "overwrite"),
        ENGINE_HEADING: ("batch_size", "device", "max_length", "trust_remote_code"),
    }
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe embed run/candidates -o run/embeddings --model "
            "sentence-transformers/all-MiniLM-L6-v2"
        ),
    )

    candidates: Location = option(
        positional=True,
        identity=False,
        metavar="CANDIDATES",
        common=True,
        help="folder written by generate or import",
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        common=True,
        help="sentence-transformers model: folder, org/name[@revision], bundled:minilm, or fake",
    )
    text: str = option(
        "response",
        choices=("response", "prompt+response"),
        common=True,
        help="text to embed: the response, or the conversation and the response",
    )
    dtype: str = option(
        "float32", choices=("float32", "float16"), help="number format of the stored vectors"
    )
    max_length: int | None = option(
        None,
        minimum=8,
        common=True,
        help="longest text, in tokens; the rest is cut off; default: the model's limit",
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(
        64, identity=False, minimum=1, common=True, help="texts per forward pass"
    )
    device: str = option("auto", identity=False, common=True, help="auto, cpu, cuda or cuda:N")

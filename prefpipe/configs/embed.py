"""The knobs of ``prefpipe embed``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.options import option
from prefpipe.configs.stage import ErrorRateConfig, PartwiseConfig
from prefpipe.configs.workers import WorkersConfig


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(PartwiseConfig, WorkersConfig, ErrorRateConfig):
    """Turn every response into a vector."""

    stage: ClassVar[str] = "embed"
    VERSION: ClassVar[int] = 1

    candidates: Path = option(
        positional=True,
        identity=False,
        metavar="CANDIDATES",
        help="folder written by generate or import",
    )
    model: str = option(
        identity=False,
        metavar="MODEL",
        help="sentence-transformers model: folder, org/name[@revision], bundled:minilm, or fake",
    )
    text: str = option(
        "response",
        choices=("response", "prompt+response"),
        help="what is embedded: the response alone, or the conversation and the response",
    )
    dtype: str = option(
        "float32", choices=("float32", "float16"), help="number format of the vectors on disk"
    )
    max_length: int | None = option(
        None, minimum=8, help="tokens after which the embedder cuts; default the model's own limit"
    )
    trust_remote_code: bool = option(False, help="run Python code that comes with the model")
    batch_size: int = option(64, identity=False, minimum=1, help="texts in one forward pass")
    device: str = option("auto", identity=False, help="auto, cpu, cuda or cuda:N")

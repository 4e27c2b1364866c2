"""All stages, in the order in which a pipeline runs them."""

from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.export import ExportConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.pairs import CalibrationConfig, RewardBenchConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.train import TrainConfig

STAGES: tuple[type[StageConfig], ...] = (
    GenerateConfig,
    ScoreConfig,
    EmbedConfig,
    SelectConfig,
    TrainConfig,
    EvalConfig,
    JudgeConfig,
    LogprobsConfig,
    ImportConfig,
    ExportConfig,
)
EVALUATIONS: tuple[type[StageConfig], ...] = (RewardBenchConfig, CalibrationConfig)
"""Commands of ``prefpipe eval`` that are stages themselves: they write a folder and resume."""

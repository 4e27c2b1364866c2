"""prefpipe: prompts, a language model and a rater in; a better language model out.

``prefpipe.run`` runs a stage, and ``prefpipe.read`` gives an artifact as a frame. For arrays and
tensors of your own there are ``prefpipe.preference_loss``, ``prefpipe.reward_model_loss``,
``prefpipe.select_responses``, ``prefpipe.scorer_spread``, ``prefpipe.filter_prompts``,
``prefpipe.build_pairs``, ``prefpipe.win_rate``, ``prefpipe.length_controlled_win_rate``,
``prefpipe.rewardbench_accuracy`` and ``prefpipe.calibration_figures``.

Importing the package imports nothing else, so that ``prefpipe --help`` stays instant; a public name
is imported when it is first used.
"""

from importlib import import_module

# as `typing` has it, whose import would take longer than until the first signal can come
TYPE_CHECKING = False

if TYPE_CHECKING:
    from prefpipe.frames import read
    from prefpipe.maths.objectives.tensor_losses import preference_loss, reward_model_loss
    from prefpipe.maths.selection.pairs import Pair, build_pairs
    from prefpipe.maths.selection.prompt_filters import filter_prompts
    from prefpipe.maths.selection.select_pools import Selection
    from prefpipe.maths.selection.select_responses import select_responses
    from prefpipe.maths.selection.uncertainty import scorer_spread
    from prefpipe.maths.statistics.bootstrap import Bootstrap
    from prefpipe.maths.statistics.calibration import calibration_figures, measure_calibration
    from prefpipe.maths.statistics.length_control import (
        LengthControlled,
        PartlyJudged,
        RegularisingRows,
        length_controlled_difference,
        length_controlled_win_rate,
    )
    from prefpipe.maths.statistics.rewardbench import RewardBench, rewardbench_accuracy
    from prefpipe.maths.statistics.winrate import WinRate, win_rate, win_rate_difference
    from prefpipe.running import StageRun, run
    from prefpipe.version import __version__

__all__ = [
    "Bootstrap",
    "LengthControlled",
    "Pair",
    "PartlyJudged",
    "RegularisingRows",
    "RewardBench",
    "Selection",
    "StageRun",
    "WinRate",
    "__version__",
    "build_pairs",
    "calibration_figures",
    "filter_prompts",
    "length_controlled_difference",
    "length_controlled_win_rate",
    "measure_calibration",
    "preference_loss",
    "read",
    "reward_model_loss",
    "rewardbench_accuracy",
    "run",
    "scorer_spread",
    "select_responses",
    "win_rate",
    "win_rate_difference",
]

_PUBLIC = {
    "__version__": "prefpipe.version",
    "Bootstrap": "prefpipe.maths.statistics.bootstrap",
    "LengthControlled": "prefpipe.maths.statistics.length_control",
    "Pair": "prefpipe.maths.selection.pairs",
    "PartlyJudged": "prefpipe.maths.statistics.length_control",
    "RegularisingRows": "prefpipe.maths.statistics.length_control",
    "RewardBench": "prefpipe.maths.statistics.rewardbench",
    "Selection": "prefpipe.maths.selection.select_pools",
    "WinRate": "prefpipe.maths.statistics.winrate",
    "build_pairs": "prefpipe.maths.selection.pairs",
    "calibration_figures": "prefpipe.maths.statistics.calibration",
    "filter_prompts": "prefpipe.maths.selection.prompt_filters",
    "measure_calibration": "prefpipe.maths.statistics.calibration",
    "preference_loss": "prefpipe.maths.objectives.tensor_losses",
    "read": "prefpipe.frames",
    "reward_model_loss": "prefpipe.maths.objectives.tensor_losses",
    "rewardbench_accuracy": "prefpipe.maths.statistics.rewardbench",
    "length_controlled_difference": "prefpipe.maths.statistics.length_control",
    "length_controlled_win_rate": "prefpipe.maths.statistics.length_control",
    "StageRun": "prefpipe.running",
    "run": "prefpipe.running",
    "scorer_spread": "prefpipe.maths.selection.uncertainty",
    "select_responses": "prefpipe.maths.selection.select_responses",
    "win_rate": "prefpipe.maths.statistics.winrate",
    "win_rate_difference": "prefpipe.maths.statistics.winrate",
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prefpipe' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

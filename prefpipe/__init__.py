"""prefpipe: prompts, a language model and a rater in; a better language model out.

``prefpipe.read`` gives an artifact as a frame. For arrays of one's own: ``prefpipe.select_responses``,
``prefpipe.build_pairs``, ``prefpipe.win_rate``, ``prefpipe.length_controlled_win_rate``, ``prefpipe.rewardbench_accuracy`` and
``prefpipe.calibration_figures``. Importing the
package imports nothing else, so that ``prefpipe --help`` stays instant; a public name is imported when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, whose import would take longer than until the first signal can come

if TYPE_CHECKING:
    from prefpipe.frames import read
    from prefpipe.maths.calibration_figures import calibration_figures
    from prefpipe.maths.calibration_measures import measure_calibration
    from prefpipe.maths.intervals import Bootstrap
    from prefpipe.maths.length_control import (
        LengthControlled,
        PartlyJudged,
        RegularisingRows,
        length_controlled_difference,
        length_controlled_win_rate,
    )
    from prefpipe.maths.pairs import Pair, build_pairs
    from prefpipe.maths.rewardbench import RewardBench, rewardbench_accuracy
    from prefpipe.maths.selection import Selection, select_responses
    from prefpipe.maths.winrate import WinRate, win_rate, win_rate_difference

__all__ = [
    "Bootstrap",
    "LengthControlled",
    "Pair",
    "PartlyJudged",
    "RegularisingRows",
    "RewardBench",
    "Selection",
    "WinRate",
    "__version__",
    "build_pairs",
    "calibration_figures",
    "length_controlled_difference",
    "length_controlled_win_rate",
    "measure_calibration",
    "read",
    "rewardbench_accuracy",
    "select_responses",
    "win_rate",
    "win_rate_difference",
]
__version__ = "0.1.0"

_PUBLIC = {
    "Bootstrap": "prefpipe.maths.intervals", "LengthControlled": "prefpipe.maths.length_control", "Pair": "prefpipe.maths.pairs",
    "PartlyJudged": "prefpipe.maths.length_control",
    "RegularisingRows": "prefpipe.maths.length_control", "RewardBench": "prefpipe.maths.rewardbench",
    "Selection": "prefpipe.maths.selection",
    "WinRate": "prefpipe.maths.winrate", "build_pairs": "prefpipe.maths.pairs",
    "calibration_figures": "prefpipe.maths.calibration_figures", "measure_calibration": "prefpipe.maths.calibration_measures",
    "read": "prefpipe.frames", "rewardbench_accuracy": "prefpipe.maths.rewardbench",
    "length_controlled_difference": "prefpipe.maths.length_control",
    "length_controlled_win_rate": "prefpipe.maths.length_control", "select_responses": "prefpipe.maths.selection",
    "win_rate": "prefpipe.maths.winrate", "win_rate_difference": "prefpipe.maths.winrate",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prefpipe' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

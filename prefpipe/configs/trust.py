"""What a file with settings turns on that runs code: who wrote the file, decides, not who runs it.

A flag is typed by the person whose rights the code gets. A key in a plan or in the file of
``--config`` may be a stranger's, so each is named in a warning before anything runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefpipe.configs.stage import StageConfig

TRUST_KEYS = {
    "trust_python_checks": "lets prompts files run Python with your rights",
    "trust_remote_code": "lets models run the Python code that comes with them with your rights",
}
TRAINER_KEY = "trainer"
_OFF = ("false", "no", "off", "n", "f", "0")
"""Words that a switch reads as off."""


def trust_warnings_of_plan(path: Path, values: Mapping[Any, Any]) -> list[str]:
    """Return a line for each way in which a plan lets code of others run.

    Args:
        path: of the plan.
        values: what the plan says, sections within sections.
    """
    lines = []
    for key, meaning in TRUST_KEYS.items():
        places = dict.fromkeys(_places(key, values))
        if places:
            lines.append(f"warning: the plan {path} {meaning} ({', '.join(places)})")

    trainers = list(_trainers(values))
    if trainers:
        lines.append(
            f"warning: the plan {path} runs commands of its own with your rights "
            f"({', '.join(trainers)})"
        )
    return lines


def trust_warnings_of_config(
    path: Path, config: StageConfig, flags: Mapping[str, Any]
) -> list[str]:
    """Return a line for each trust flag that the file of ``--config`` turned on.

    Args:
        path: of the file.
        config: made of flags and the file.
        flags: what was typed, by field.
    """
    lines = []
    for key, meaning in TRUST_KEYS.items():
        if getattr(config, key, False) and key not in flags:
            lines.append(f"warning: the config file {path} {meaning} ({key})")
    return lines


def _places(key: str, values: Any, place: Sequence[str] = ()) -> Iterator[str]:
    """Yield where a key is on, ``score: trust_python_checks``, in sections at any depth."""
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        here = (*place, str(name))
        if str(name).replace("-", "_") == key:
            if value and str(value).lower() not in _OFF:
                yield ": ".join([*place, key])
        else:
            yield from _places(key, value, here)


def _trainers(values: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the arms of a study that another program trains, with its command."""
    arms = values.get("arms")
    for name, arm in arms.items() if isinstance(arms, Mapping) else ():
        trainer = arm.get(TRAINER_KEY) if isinstance(arm, Mapping) else None
        if trainer is not None:
            yield f"arms: {name}: {TRAINER_KEY}: {trainer}"

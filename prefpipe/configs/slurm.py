"""The flags of ``prefpipe slurm``."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.options import flag_of, option, resolved_types
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.select import SelectConfig

PARTWISE = (GenerateConfig, ScoreConfig, EmbedConfig, SelectConfig, JudgeConfig, LogprobsConfig)
"""The stages whose parts an array can make."""
EXAMPLE = "prefpipe slurm --array 8 --time 4:00:00 -- generate prompts.jsonl -o run/candidates ..."
DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
"""A time limit of Slurm: 90, 90:30, 4:00:00, 1-12, 1-12:30, 1-12:30:00."""
OWN_DIRECTIVES = {
    "array": "--array",
    "gres": "--gpus-per-worker",
    "cpus-per-task": "--cpus-per-worker",
    "mem": "--mem",
    "time": "--time",
    "partition": "--partition",
    "account": "--account",
    "output": "--log-folder",
    "signal": "--signal-seconds",
    "requeue": "",
    "no-requeue": "",
    "open-mode": "",
    "nodes": "",
    "ntasks": "",
    "chdir": "",
}
"""What the script says of itself, with the flag that changes it, "" where none does."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(CommandConfig):
    """Print an sbatch script that runs a stage as a Slurm array.

    Put the stage's command after `--`, and pipe the script into sbatch. The script lists the
    unfinished shards and requeues a task before its time limit. After a failure, run the same
    command again. If no part is missing, it prints nothing.
    """

    command: ClassVar[str] = "slurm"
    examples: ClassVar[tuple[str, ...]] = (
        (
            "prefpipe slurm --array 8 --time 4:00:00 -- generate prompts.jsonl -o run/candidates "
            "--model Qwen/Qwen3-4B --n 32 | sbatch"
        ),
    )

    stage_words: tuple[str, ...] = option(
        (),
        positional=True,
        metavar="COMMAND...",
        common=True,
        help="generate, score, embed, select, judge or logprobs, with its arguments and flags",
    )
    array: int = option(
        1,
        minimum=1,
        metavar="N",
        common=True,
        help="workers, one array task each: worker i makes parts i, i + N, i + 2 N, ...",
    )
    gpus_per_worker: int | None = option(
        None,
        minimum=0,
        metavar="N",
        common=True,
        help="GPUs per task; default: 1 or --tensor-parallel-size if the command runs a local "
        "model, else 0",
    )
    cpus_per_worker: int | None = option(
        None, minimum=1, metavar="N", common=True, help="CPU cores per task; default: the cluster's"
    )
    mem: str | None = option(
        None,
        metavar="SIZE",
        common=True,
        help="memory per task, such as 64G; default: the cluster's",
    )
    time: str | None = option(
        None,
        metavar="TIME",
        common=True,
        help="time limit of a task, such as 4:00:00; default: the partition's",
    )
    partition: str | None = option(None, metavar="NAME", common=True, help="partition to queue in")
    account: str | None = option(None, metavar="NAME", common=True, help="account to charge")
    log_folder: Path | None = option(
        None,
        metavar="DIR",
        common=True,
        help="folder for the tasks' logs, created if missing; default: Slurm's slurm-JOB_TASK.out",
    )
    signal_seconds: int = option(
        600,
        minimum=1,
        maximum=65535,
        metavar="S",
        help="seconds before the time limit at which a task stops and requeues itself; more "
        "than one part takes",
    )
    max_requeues: int = option(
        100, minimum=0, metavar="N", help="how often a task may requeue itself"
    )
    activate: tuple[str, ...] = option(
        (),
        metavar="LINE",
        help="shell line that makes prefpipe available, such as 'source ~/venv/bin/activate'; "
        "repeatable; default: this prefpipe",
    )
    sbatch: tuple[str, ...] = option(
        (),
        metavar="KEY[=VALUE]",
        common=True,
        help="a further #SBATCH line, such as qos=high or exclusive; repeatable",
    )
    max_array_size: int | None = option(
        None,
        minimum=1,
        metavar="N",
        help="the cluster's MaxArraySize; default: that of `scontrol show config`, else 1001",
    )
    window: int | None = option(
        None,
        minimum=0,
        metavar="W",
        help="number of the window to print, from 0, if there are more shards than MaxArraySize",
    )
    quick: bool = option(False, help="read only the parts' footers, not every byte")

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.stage_words:
            problems.append(f"put the command to run after `--`: `{EXAMPLE}`")
        if self.mem is not None and not re.fullmatch(r"\d+[KMGT]?", self.mem, re.IGNORECASE):
            problems.append(f"--mem must be a size such as 64G, not {self.mem!r}")

        limit_s = None
        if self.time is not None:
            limit_s = seconds_of(self.time)
            if limit_s is None:
                problems.append(f"--time must be a limit such as 4:00:00, not {self.time!r}")
        if limit_s is not None and limit_s <= self.signal_seconds:
            problems.append(
                f"--signal-seconds {self.signal_seconds} leaves nothing of --time {self.time}: a "
                "task would be stopped as it starts"
            )
        if self.log_folder is not None and "\\" in str(self.log_folder.absolute()):
            problems.append(
                f"--log-folder {self.log_folder}: Slurm numbers no logs in a path with a backslash"
            )
        return [*problems, *self._directive_problems(), *self._line_problems()]

    @property
    def further_directives(self) -> list[tuple[str, str | None]]:
        """Name and value of each ``--sbatch``."""
        pairs: list[tuple[str, str | None]] = []
        for text in self.sbatch:
            name, equals, value = text.removeprefix("--").partition("=")
            pairs.append((name, value if equals else None))
        return pairs

    def _directive_problems(self) -> Iterator[str]:
        """Yield what is wrong with ``--sbatch``, whose names the script may have already."""
        for (name, _value), text in zip(self.further_directives, self.sbatch, strict=True):
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                yield f"--sbatch takes KEY=VALUE with the long name of a flag, not {text!r}"
            elif OWN_DIRECTIVES.get(name):
                yield f"--sbatch {text} is set by {OWN_DIRECTIVES[name]}"
            elif name in OWN_DIRECTIVES:
                yield f"--sbatch {text} cannot be: the script sets {name} itself"

    def _line_problems(self) -> Iterator[str]:
        """Yield the values that cannot stand in one line of a script."""
        kinds = resolved_types(type(self))
        for name, item in type(self).__dataclass_fields__.items():
            if name == "stage_words" or kinds[name] in (bool, int, int | None):
                continue
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if text is not None and re.search(r"[\x00-\x1f\x7f]", str(text)):
                    yield f"{flag_of(item)} must be one line, not {str(text)!r}"


def seconds_of(limit: str) -> int | None:
    """Return a time limit as Slurm writes it in seconds, None where it is none."""
    match = DURATION.fullmatch(limit)
    if match is None:
        return None
    days, *numbers = (None if text is None else int(text) for text in match.groups())
    first, second, third = (number or 0 for number in numbers)
    n_numbers = sum(number is not None for number in numbers)
    if days is not None:  # days-hours[:minutes[:seconds]]
        return ((days * 24 + first) * 60 + second) * 60 + third
    if n_numbers == 3:  # hours:minutes:seconds
        return (first * 60 + second) * 60 + third
    return first * 60 + second  # minutes[:seconds]

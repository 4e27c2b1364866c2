"""The flags of ``prefpipe eval lm-eval``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class LmEvalConfig(CommandConfig):
    """Print the lm-evaluation-harness command for a model.

    Runs nothing. Evaluate the model before and after training to see whether training cost
    knowledge or reasoning.
    """

    command: ClassVar[str] = "eval lm-eval"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe eval lm-eval run/policy --tasks ifeval,gsm8k",)

    model: str = option(
        positional=True,
        metavar="MODEL",
        help="folder that train wrote, whole model or adapter, or org/name[@revision]",
    )
    tasks: str = option(
        "ifeval,gsm8k,mmlu,truthfulqa_mc2", metavar="NAMES", help="tasks, comma-separated"
    )
    output: str = option("lm_eval", flag="-o", metavar="DIR", help="folder of the results")
    batch_size: str = option("auto", metavar="N|auto", help="sequences per batch")
    dtype: str | None = option(
        None, metavar="NAME", help="number format of the weights [default: the checkpoint's]"
    )

    @property
    def task_names(self) -> list[str]:
        """The tasks, one by one."""
        names = [name.strip() for name in self.tasks.split(",")]
        return [name for name in names if name]

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.task_names:
            problems.append("--tasks names no task; list them with `lm_eval ls tasks`")

        is_auto = self.batch_size.partition(":")[0] == "auto"  # `auto:4` measures four times
        is_count = self.batch_size.isdigit() and int(self.batch_size) > 0
        if not is_auto and not is_count:
            problems.append(f"--batch-size must be auto or 1 or more, not {self.batch_size}")
        return problems

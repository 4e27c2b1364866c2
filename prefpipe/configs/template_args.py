"""The arguments of the policy's chat template, shared by the stages that write its prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefpipe.configs.options import option
from prefpipe.configs.stage import TEMPLATE_HEADING, TemplatedConfig
from prefpipe.text.template_args import read_template_args


@dataclass(frozen=True, kw_only=True)
class PolicyTemplateConfig(TemplatedConfig):
    """What the stages share that write prompts with the policy's chat template."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        TEMPLATE_HEADING: ("template_arg",),
    }

    template_arg: tuple[str, ...] = option(
        (),
        metavar="KEY=VALUE",
        help="argument of the policy's chat template, e.g. enable_thinking=false; VALUE is true, "
        "false, a number, text or JSON; repeatable; default of train and logprobs: the candidates'",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        try:
            read_template_args(self.template_arg)
        except ValueError as error:
            problems.append(str(error))
        return problems

    @property
    def template_args(self) -> dict[str, Any]:
        """The arguments by name."""
        return read_template_args(self.template_arg)

    def identity(self) -> dict[str, Any]:
        """Return what can change the rows.

        The arguments are not among it: they stand with each model whose template is given them.
        """
        identity = super().identity()
        del identity["template_arg"]
        return identity

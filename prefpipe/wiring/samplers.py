"""The samplers that ``prefpipe generate`` names."""

from typing import TYPE_CHECKING, Any

from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.configs.generate import GenerateConfig
from prefpipe.errors import UsageError
from prefpipe.text.thoughts import FIELD as THOUGHTS
from prefpipe.wiring.engines import open_transformers, open_vllm, run_control
from prefpipe.wiring.extras import JUDGE, require
from prefpipe.wiring.models import locate, sampled_with_args, template_date, with_thoughts

if TYPE_CHECKING:
    from prefpipe.backends.protocol import Generator
    from prefpipe.execution.runtime import Runtime
    from prefpipe.stages.generate import Sampler

SERVED_VERSION = 2
"""Grows when the same answers of a server would become other rows, or it is sent other settings."""


def sampler_for(config: GenerateConfig, name: str, runtime: "Runtime") -> "Sampler":
    """Return the sampler of a ``--model``: its name, its fingerprint entry, and how to open it."""
    if config.backend == "fake":
        return _fake_sampler(config, name)
    if config.backend == "openai":
        return _served_sampler(config, name, runtime)

    from prefpipe.models.files import require_chat_template
    from prefpipe.models.rounds import round_of_model
    from prefpipe.stages.generate import Sampler

    model = locate(name, trust_remote_code=config.trust_remote_code).dated(template_date(config))
    require_chat_template(model)
    model = with_thoughts(sampled_with_args(model, config, runtime), config.thinking_markers)
    identity = model.identity()
    if model.thoughts is not None:
        identity[THOUGHTS] = list(model.thoughts)

    open_engine = open_vllm if config.backend == "vllm" else open_transformers

    def open_sampler() -> "Generator":
        return open_engine(model, config, max_model_len=config.max_model_len)

    return Sampler(
        name,
        identity,
        open_sampler,
        runs_here=True,
        round=round_of_model(model.path),
        thoughts=model.thoughts,
    )


def _fake_sampler(config: GenerateConfig, reference: str) -> "Sampler":
    from prefpipe.backends.fake import FakeModel
    from prefpipe.stages.generate import Sampler

    if config.template_arg:
        raise UsageError(
            f"--template-arg {config.template_arg[0]}: the fake engine has no chat template",
            hint="leave out --template-arg in a dry run",
        )
    fake = FakeModel.parse(reference)
    return Sampler(fake.name, {"fake": fake.identity}, fake.open)


def _served_sampler(config: GenerateConfig, name: str, runtime: "Runtime") -> "Sampler":
    from prefpipe.stages.generate import Sampler

    def open_sampler() -> "Generator":
        require(JUDGE, "--backend openai")
        from prefpipe.backends.generators.openai_server import OpenAIGenerator

        return OpenAIGenerator(
            name,
            base_url=config.base_url,
            concurrency=config.batch_size,
            max_model_len=config.max_model_len,
            template_args=config.template_args,
            run=run_control(runtime),
        )

    identity: dict[str, Any] = {"served": name, "served_version": SERVED_VERSION}
    if config.template_arg:
        identity[TEMPLATE_ARGS] = config.template_args
    return Sampler(name, identity, open_sampler)

"""A configuration and the stage that it runs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefpipe.artifacts.storage.local_copies import kept_local_copies
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.export import ANSWER_FORMATS, ExportConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.pairs import PairsConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared.partwise import Summary
from prefpipe.wiring.extras import EMBED, require, require_extras
from prefpipe.wiring.garbage import collecting_seldom
from prefpipe.wiring.judges import judge_for
from prefpipe.wiring.models import locate, template_date, trained_with_args
from prefpipe.wiring.samplers import sampler_for
from prefpipe.wiring.scorers import pair_rater, rater_for

if TYPE_CHECKING:
    from prefpipe.backends.protocol import Embedder
    from prefpipe.models.files import ModelFiles
    from prefpipe.stages.evaluate.kl import KlReference
    from prefpipe.stages.shared.recipe import RatedCandidates


def run_stage(config: StageConfig, runtime: Runtime) -> Summary:
    """Run the stage that a config belongs to.

    Raises:
        MissingExtraError: a package that the stage needs is not installed.
    """
    require_extras(config)
    # every reader of a user's file in a bucket reads the same bytes, downloaded once
    with kept_local_copies():
        return _RUNNERS[config.stage](config, runtime)


def _generate(config: GenerateConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.generate import run

    samplers = [sampler_for(config, name, runtime) for name in config.model]
    return run(config, samplers, runtime)


def _score(config: ScoreConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.score import run

    raters = [rater_for(config, parse_scorer(text), runtime) for text in config.scorer]
    return run(config, raters, runtime)


def _judge(config: JudgeConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.judge.run import run

    return run(config, judge_for(config, runtime), runtime)


def _embed(config: EmbedConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.embed import run

    if config.model == "fake":
        from prefpipe.backends.fake import FakeEmbedder

        return run(config, {"fake": config.model}, FakeEmbedder, runtime)

    model = locate(config.model, trust_remote_code=config.trust_remote_code)

    def open_embedder() -> "Embedder":
        require(EMBED, "`prefpipe embed`")
        from prefpipe.backends.embedders.sentence_embedder import SentenceEmbedder

        return SentenceEmbedder(
            model,
            device=config.device,
            batch_size=config.batch_size,
            max_length=config.max_length,
            trust_remote_code=config.trust_remote_code,
        )

    return run(config, model.identity(), open_embedder, runtime)


def _select(config: SelectConfig, runtime: Runtime) -> Summary:
    # pandas (by pyarrow), scipy and numba with what it compiled: some 200,000 objects that stay
    with collecting_seldom():
        from prefpipe.stages.select.run import run

        return run(config, runtime)


def _train(config: TrainConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.train.run import run
    from prefpipe.training.reward_model import with_template

    # one day for the policy, its reference and a reward model: that of the candidates, if any
    parents = [config.groups]
    if config.reference is not None:
        parents.append(config.reference)
    day = template_date(config, parents)

    model = locate(config.model, trust_remote_code=config.trust_remote_code).dated(day)
    if config.chat_template is not None:
        model = with_template(model, config.chat_template, day)
    # a reward model reads conversations through a template that nothing was sampled with
    if config.target == "policy":
        model = trained_with_args(model, config, config.groups, runtime)

    reference = None
    if config.reference_model is not None and config.reference_model != "base":
        reference = locate(config.reference_model, trust_remote_code=config.trust_remote_code)
        reference = reference.dated(day).given(model.template_args)
    return run(config, model, runtime, reference_model=reference)


def _logprobs(config: LogprobsConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.logprobs import run

    model = locate(config.model, trust_remote_code=config.trust_remote_code)
    model = model.dated(template_date(config, [config.groups]))
    model = trained_with_args(model, config, config.groups, runtime)
    return run(config, model, runtime)


def _eval(config: EvalConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.evaluate.sides import SideStages, evaluate

    stages = SideStages(_generate, _score, _measure_reference)
    return evaluate(config, stages, locate, runtime)


def _measure_reference(
    config: EvalConfig, policy: "RatedCandidates", model: "ModelFiles", runtime: Runtime
) -> "KlReference":
    # brings in transformers, which an evaluation without KL needs not
    from prefpipe.stages.evaluate.reference import measure_reference

    return measure_reference(config, policy, model, runtime)


def _eval_pairs(config: PairsConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.pairs.run import run

    return run(config, pair_rater(config, runtime), runtime)


def _import(config: ImportConfig, runtime: Runtime) -> Summary:
    from prefpipe.stages.import_files import run

    return run(config, runtime)


def _export(config: ExportConfig, runtime: Runtime) -> Summary:
    if config.format in ANSWER_FORMATS:
        from prefpipe.stages.export.candidates import run as export_candidates

        return export_candidates(config, runtime)

    from prefpipe.stages.export.groups import run as export_groups

    return export_groups(config, runtime)


_RUNNERS: dict[str, Callable[[Any, Runtime], Summary]] = {
    "generate": _generate,
    "score": _score,
    "embed": _embed,
    "select": _select,
    "logprobs": _logprobs,
    "train": _train,
    "judge": _judge,
    "eval": _eval,
    "import": _import,
    "export": _export,
    "eval rewardbench": _eval_pairs,
    "eval calibration": _eval_pairs,
}

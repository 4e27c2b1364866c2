"""The scorers that ``prefpipe score`` and the raters of pairs that ``prefpipe eval`` name."""

from typing import TYPE_CHECKING

from prefpipe.configs.pairs import BASE, FAKE, PairsConfig
from prefpipe.configs.score import ScoreConfig, ScorerSpec
from prefpipe.wiring.engines import open_reward_model
from prefpipe.wiring.judges import judge_rater
from prefpipe.wiring.models import locate, template_date

if TYPE_CHECKING:
    from prefpipe.backends.protocol import Scorer
    from prefpipe.execution.runtime import Runtime
    from prefpipe.stages.pairs.rating import PairRater
    from prefpipe.stages.score import Rater


def rater_for(config: ScoreConfig, spec: ScorerSpec, runtime: "Runtime") -> "Rater":
    """Return the scorer of a ``--scorer``: its name, its fingerprint entry, and how to open it."""
    if spec.kind == "fake":
        return _fake_rater(spec)
    if spec.kind == "checks":
        return _checks_rater(config, spec)
    if spec.kind == "ratings":
        return _ratings_rater(config, spec, runtime)
    if spec.kind == "judge":
        return judge_rater(config, spec.name, spec.target, runtime)
    return _reward_rater(config, spec)


def _fake_rater(spec: ScorerSpec) -> "Rater":
    from prefpipe.backends.fake import FakeScorer
    from prefpipe.stages.score import Rater

    return Rater(spec.name, {"kind": "fake", "target": spec.target}, FakeScorer)


def _checks_rater(config: ScoreConfig, spec: ScorerSpec) -> "Rater":
    from prefpipe.stages.score import Rater
    from prefpipe.text.checks.column import CHECKS_VERSION

    def open_scorer() -> "Scorer":
        from prefpipe.backends.scorers.checks_scorer import ChecksScorer

        return ChecksScorer(trust_python_checks=config.trust_python_checks)

    return Rater(spec.name, {"kind": "checks", "checks_version": CHECKS_VERSION}, open_scorer)


def _ratings_rater(config: ScoreConfig, spec: ScorerSpec, runtime: "Runtime") -> "Rater":
    from prefpipe.backends.scorers.ratings import RatingsScorer
    from prefpipe.stages.score import Rater

    # the file is read now: what is in it is its identity, and its mistakes come before any work
    scorer = RatingsScorer(
        spec.target,
        rating_column=config.rating_column,
        on_duplicate=config.on_duplicate,
        skip_bad_rows=config.skip_bad_rows,
    )
    for note in scorer.notes_of_reading:
        runtime.log(note)

    return Rater(spec.name, {"kind": "ratings", **scorer.identity()}, lambda: scorer)


def _reward_rater(config: ScoreConfig, spec: ScorerSpec) -> "Rater":
    from prefpipe.stages.score import Rater

    model = locate(spec.target, trust_remote_code=config.trust_remote_code)
    model = model.dated(template_date(config, [config.candidates]))
    identity = {
        "kind": spec.kind,
        **model.identity(),
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    return Rater(spec.name, identity, lambda: open_reward_model(model, config))


def pair_rater(config: PairsConfig, runtime: "Runtime") -> "PairRater | None":
    """Return the rater of pairs of responses, None if the file has the scores."""
    if config.model is None:
        return None
    if config.model == FAKE:
        from prefpipe.backends.fake import FakeScorer
        from prefpipe.stages.pairs.rating import scorer_rater

        return scorer_rater({FAKE: FAKE}, FAKE, FakeScorer)

    day = template_date(config)
    model = locate(config.model, trust_remote_code=config.trust_remote_code).dated(day)
    if config.reward_model:
        from prefpipe.stages.pairs.model_raters import reward_rater

        return reward_rater(config, model)

    from prefpipe.stages.pairs.model_raters import policy_rater

    reference = None
    if config.reference is not None and config.reference != BASE:
        reference = locate(config.reference, trust_remote_code=config.trust_remote_code).dated(day)
    return policy_rater(config, model, reference, runtime.log)

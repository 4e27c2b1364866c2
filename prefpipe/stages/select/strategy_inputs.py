"""What a strategy asks of candidates beside rewards, and whether these inputs have it."""

from prefpipe.artifacts.store import Artifact
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.rewards import RewardExpression
from prefpipe.spelling import did_you_mean
from prefpipe.stages.select.screening import StrategyInputs
from prefpipe.stages.shared.pool_index import flat


def strategy_inputs(
    config: SelectConfig, expression: RewardExpression, scores: Artifact, candidates: Artifact
) -> StrategyInputs:
    """Return what the strategy asks of candidates, once these inputs have it.

    Raises:
        UsageError: fewer than two scorers for a spread, an unknown scorer, or a model that gave no
            response.
    """
    rule = STRATEGIES[config.strategy]
    spread_of: tuple[str, ...] = ()
    if rule.needs == "uncertainty":
        spread_of = _spread_scorers(config, expression, scores)
    if rule.needs == "samplers":
        _require_models(config, candidates)
    return StrategyInputs(
        n_spared=rule.n_spared,
        accepts_ties=rule.accepts_ties,
        spread_of=spread_of,
        chosen_from=config.chosen_from,
        rejected_from=config.rejected_from,
    )


def _spread_scorers(
    config: SelectConfig, expression: RewardExpression, scores: Artifact
) -> tuple[str, ...]:
    """Return the scorers whose disagreement is the uncertainty, two or more, by name."""
    scorers = [scorer["name"] for scorer in scores.record.identity["scorers"]]
    for name in config.spread_of:
        if name not in scorers:
            raise UsageError(
                f"--spread-of {name}: {scores.path} holds no such scorer"
                f"{did_you_mean(name, scorers)}",
                hint=f"scorers: {', '.join(scorers)}",
            )

    # One order, so that naming them in another is no other configuration.
    names = tuple(sorted(set(config.spread_of or expression.names)))
    if len(names) < 2:
        hint = "name them: " + " ".join(f"--spread-of {name}" for name in scorers)
        if len(scorers) < 2:
            hint = (
                "rate the candidates by another scorer as well (`prefpipe score`, with --scorer "
                "for each), or use --strategy best-worst"
            )
        raise UsageError(
            f"--strategy {config.strategy} needs the spread of two scorers or more, and has one: "
            f"{', '.join(names)}",
            hint=hint,
        )
    return names


def _require_models(config: SelectConfig, candidates: Artifact) -> None:
    """Refuse models of ``delta`` that gave no response, once all parts that there are were read."""
    wanted = {"--chosen-from": config.chosen_from, "--rejected-from": config.rejected_from}
    models: set[str] = set()
    for index in candidates.present(range(candidates.n_parts), allow_partial=True):
        table, _ = candidates.read(index, ["model"])
        models |= set(flat(table, "model").unique().to_pylist())
        if models.issuperset(wanted.values()):
            return

    known = sorted(model for model in models if model is not None)
    for flag, name in wanted.items():
        if name not in models:
            raise UsageError(
                f"{flag} {name}: no candidate is of that model{did_you_mean(str(name), known)}",
                hint=f"models of {candidates.path}: {', '.join(known)}",
            )

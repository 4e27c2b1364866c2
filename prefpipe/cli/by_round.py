"""``prefpipe eval by-round``: the figures of evaluations, round by round."""

from prefpipe.configs.by_round import ByRoundConfig


def by_round(config: ByRoundConfig) -> None:
    """Print the tables."""
    from prefpipe.cli import stdout
    from prefpipe.cli.not_done import not_done
    from prefpipe.maths.statistics.bootstrap import Bootstrap
    from prefpipe.pages.by_round import by_round_markdown, by_round_page
    from prefpipe.stages.evaluate.by_round import figures_by_round
    from prefpipe.wiring.by_round import open_evaluations

    runs = [open_evaluations(run) for run in config.runs]
    evaluations = [artifact.path for run in runs for artifact in run.by_round.values()]
    unfinished = not_done(evaluations, strict=config.strict)
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    figures = {**figures_by_round(runs, bootstrap), "not_done": unfinished}

    if config.as_json:
        stdout.pipe_json(figures)
    elif config.markdown:
        stdout.pipe(by_round_markdown(figures))
    else:
        stdout.show(by_round_page(figures), not_done=unfinished, is_wide=True)

"""``prefpipe eval win-rate``: win rates from preferences that a judge or a rater gave."""

from prefpipe.configs.win_rate import WinRateConfig


def win_rate(config: WinRateConfig) -> None:
    """Print the win rates."""
    from prefpipe.artifacts.storage.local_copies import kept_local_copies
    from prefpipe.cli import stdout
    from prefpipe.maths.statistics.bootstrap import Bootstrap
    from prefpipe.pages.win_rates import win_rates_page
    from prefpipe.stages.evaluate.win_rate_recipes import WinRateSources
    from prefpipe.stages.evaluate.win_rates import Drawing, win_rates

    paths = (config.baseline_outputs, config.difficulty, config.regularising_rows)
    outputs, difficulty, rows = (None if path is None else str(path) for path in paths)
    sources = WinRateSources(
        outputs, difficulty, rows, config.scale, config.category, config.allow_missing
    )
    drawing = Drawing(
        config.penalty_c,
        Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed),
        Bootstrap(config.confidence, config.bootstrap_fits, config.bootstrap_seed),
    )
    annotations = [str(path) for path in config.annotations]
    # a file is read more than once, and downloaded once
    with kept_local_copies():
        figures = win_rates(annotations, sources, drawing, force=config.force)
    if config.as_json:
        stdout.pipe_json(figures)
    else:
        stdout.show(win_rates_page(figures), is_wide=True)

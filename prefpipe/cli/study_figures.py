"""``prefpipe eval study``: the tables of a study."""

from prefpipe.configs.study_figures import StudyFiguresConfig


def study_figures(config: StudyFiguresConfig) -> None:
    """Print the tables."""
    from prefpipe.cli import stdout
    from prefpipe.maths.statistics.bootstrap import Bootstrap
    from prefpipe.pages.study import study_page
    from prefpipe.pages.study_markdown import study_markdown
    from prefpipe.stages.study.figures import figures_of

    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    figures = figures_of(config.folder, bootstrap)
    if config.as_json:
        stdout.pipe_json(figures)
    elif config.markdown:
        stdout.pipe(study_markdown(figures))
    else:
        stdout.show(study_page(figures), is_wide=True)

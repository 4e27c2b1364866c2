"""``prefpipe savings``: what it saves to train on the kept groups instead of on all candidates."""

from prefpipe.cli.not_done import not_done
from prefpipe.configs.savings import SavingsConfig


def savings(config: SavingsConfig) -> None:
    """Print what is saved."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.cli import stdout
    from prefpipe.pages.savings import savings_page
    from prefpipe.wiring.savings import savings_of

    unfinished = not_done([config.groups], strict=config.strict)
    figures = savings_of(config)
    if config.as_json:
        stdout.pipe_json({**figures, "not_done": unfinished})
    else:
        stdout.show(savings_page(figures, width=stdout.width()), not_done=unfinished)

"""``prefpipe check``: what is wrong with groups as training data, before a GPU is asked for."""

import typer

from prefpipe.cli.not_done import not_done
from prefpipe.configs.check import CheckConfig


def check(config: CheckConfig) -> None:
    """Print what was found, and exit with 1 where an error is among it."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.artifacts.store import open_input
    from prefpipe.cli import stdout

    # before libraries that take seconds to load
    groups = open_input(config.groups, schema="groups", name="GROUPS")
    unfinished = not_done([config.groups], strict=config.strict)

    from prefpipe.pages.check import check_page
    from prefpipe.stages.check.run import check as check_groups
    from prefpipe.stages.check.run import planned_training
    from prefpipe.wiring.gpus import gpu_to_check

    training = planned_training(config)
    facts = check_groups(groups, training, gpu_to_check(config))
    if config.as_json:
        stdout.pipe_json({**facts, "not_done": unfinished})
    else:
        stdout.show(check_page(facts, width=stdout.width()), not_done=unfinished)

    has_errors = any(finding["severity"] == "error" for finding in facts["findings"])
    raise typer.Exit(int(has_errors))

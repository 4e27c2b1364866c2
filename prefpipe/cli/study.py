"""``prefpipe study``: arms by seeds over one pool and one held-out set, by a plan."""

from prefpipe.configs.study import StudyConfig
from prefpipe.errors import PrefpipeError


def study(config: StudyConfig) -> None:
    """Run the plan's steps, or print them as a script."""
    from prefpipe.cli import stdout
    from prefpipe.wiring.open_study import open_study
    from prefpipe.wiring.study_script import script_of

    opened = open_study(config)
    if config.dry_run:
        stdout.pipe_exactly(script_of(opened))
        return
    raise PrefpipeError(
        "prefpipe study runs nothing itself yet", hint="run its script: --dry-run prints it"
    )

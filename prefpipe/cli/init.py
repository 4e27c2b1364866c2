"""``prefpipe init``: settings and a script to start from."""

from shlex import quote

from prefpipe.configs.init import InitConfig


def init(config: InitConfig) -> None:
    """Write the files, and print their place."""
    from prefpipe.cli import stderr, stdout
    from prefpipe.stages.init.run_files import (
        SCRIPT,
        no_flag,
        write_run_folder,
        write_stage_file,
    )

    if config.stage is not None:
        path = write_stage_file(config)
        stderr.log(f"next: prefpipe {config.stage} --config {quote(str(path))}")
        stdout.pipe(str(path))
        return

    if config.is_dry_run:
        from prefpipe.wiring.models import require_model_of_dry_run

        require_model_of_dry_run(config)
    folder = write_run_folder(config)
    settings, script = (quote(no_flag(str(folder / name))) for name in ("settings", SCRIPT))
    stderr.log(f"next: edit {settings}, then run: bash {script}")
    stdout.pipe(str(folder))

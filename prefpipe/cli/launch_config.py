"""``prefpipe launch-config``: where the configurations for several GPUs are."""

from pathlib import Path

from prefpipe.configs.launch_config import LaunchFileConfig
from prefpipe.errors import UsageError

FOLDER = Path(__file__).resolve().parent.parent / "accelerate_configs"


def launch_config(config: LaunchFileConfig) -> None:
    """Print the path of one, or list them."""
    from prefpipe.cli import stdout

    paths = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if config.name is None:
        first_lines = {}
        for name, path in paths.items():
            first_line = path.read_text(encoding="utf-8").partition("\n")[0]
            first_lines[name] = first_line.lstrip("# ")
        stdout.show_facts(first_lines)
        return

    if config.name not in paths:
        raise UsageError(
            f"there is no configuration {config.name!r}",
            hint=f"use {', '.join(paths)}, or your own file",
        )
    stdout.pipe(str(paths[config.name]))

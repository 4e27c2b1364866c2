"""``prefpipe models``: convert, list and show what can stand after ``--model``."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.dataclass_commands import add_command
from prefpipe.cli.help_commands import DocumentedGroup, help_all_option
from prefpipe.configs.models import ConvertConfig, ListConfig, ShowConfig


def convert(config: ConvertConfig) -> None:
    """Make the folder and print its path."""
    from prefpipe.artifacts.atomic import atomic_folder
    from prefpipe.cli import stdout
    from prefpipe.models.bundled import PREFIX, find_bundled
    from prefpipe.models.location import locate_model

    is_bundled = config.reference.startswith(PREFIX)
    source = find_bundled(config.reference) if is_bundled else Path(config.reference).expanduser()
    if config.output is None:
        folder = locate_model(config.reference).path
    elif source.suffix == ".gguf":
        from prefpipe.models.gguf_conversion import convert_gguf

        folder = convert_gguf(source, config.output)
    else:
        # A model that is not there is said before anything about the output.
        model = locate_model(config.reference)
        folder = config.output
        # Whole or not at all, and links followed.
        with atomic_folder(folder) as temporary:
            shutil.copytree(model.path, temporary, dirs_exist_ok=True)

    if config.as_json:
        stdout.pipe_json({"reference": config.reference, "path": str(folder)})
    else:
        stdout.pipe(str(folder))


def list_models(config: ListConfig) -> None:
    """Print each bundled model and where it is."""
    from prefpipe.cli import stdout

    entries = list(_bundled())
    if config.as_json:
        stdout.pipe_json(entries)
    else:
        stdout.show_facts({entry["reference"]: _place(entry) for entry in entries})


def _bundled() -> Iterator[dict[str, Any]]:
    from prefpipe.errors import ModelError
    from prefpipe.models.bundled import BUNDLED_MODELS, PREFIX, find_bundled

    for name, model in BUNDLED_MODELS.items():
        entry: dict[str, Any] = {
            "reference": PREFIX + name,
            "installed": True,
            "install": model.install,
            "folder": None,
        }
        try:
            source = find_bundled(PREFIX + name)
        except ModelError:
            entry["installed"] = False
        else:
            folder = _converted(source) if source.suffix == ".gguf" else source
            entry["folder"] = None if folder is None else str(folder)
        yield entry


def _converted(gguf_path: Path) -> Path | None:
    """Return the folder that a GGUF file was converted to, if it was."""
    from prefpipe.artifacts.file_hashes import cache_folder

    folders = sorted((cache_folder() / "models").glob(f"{gguf_path.stem}-*-v*"))
    return folders[-1] if folders else None


def _place(entry: dict[str, Any]) -> str:
    if not entry["installed"]:
        return f"not installed: {entry['install']}"
    return entry["folder"] or "installed, not yet converted (the first use does that)"


def show(config: ShowConfig) -> None:
    """Print what is known of a model without loading it."""
    from prefpipe.cli import stdout
    from prefpipe.models.location import locate_model
    from prefpipe.models.tokenizer import read_chat_template

    model = locate_model(config.reference, trust_remote_code=config.trust_remote_code)
    facts = {
        "reference": config.reference,
        "path": str(model.path),
        "kind": model.kind,
        "revision": model.revision,
        **model.identity(),
    }
    if model.base is not None:
        facts["base_path"] = str(model.base.path)
    template = read_chat_template(model.tokenizer_path)
    if config.as_json:
        stdout.pipe_json({**facts, "chat_template": template})
        return

    shown = {
        name.replace("_", " "): str(value) for name, value in facts.items() if value is not None
    }
    if template is None:
        shown["chat template"] = "none"
    else:
        shown["chat template"] = f"{len(template):,} characters:\n{template}"
    stdout.show_facts(shown)


class ModelsGroup(DocumentedGroup):
    """``prefpipe models``."""

    examples = ("prefpipe models show Qwen/Qwen3-0.6B",)


models = typer.Typer(cls=ModelsGroup, no_args_is_help=True)


@models.callback()
def _models(_help_all: Annotated[bool, help_all_option()] = False) -> None:
    """Convert, list and show the models that `--model` takes."""


add_command(models, ConvertConfig, convert)
add_command(models, ListConfig, list_models)
add_command(models, ShowConfig, show)

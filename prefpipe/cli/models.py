"""``prefpipe models``: convert, list and show what can stand after ``--model``."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.local_paths import Commands

models = Commands(
    no_args_is_help=True, help="Convert, list and show the models that can stand after --model."
)
AsJson = Annotated[bool, typer.Option("--json", help="print JSON to stdout")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE",
        help="folder, org/name[@revision], .gguf file or bundled:NAME",
        show_default=False,
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="fetch Python code that comes with the model")
]


@models.command()
def convert(
    reference: Reference,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="folder to write; default the cache"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a GGUF file or a bundled model into an ordinary Hugging Face folder, once."""
    from prefpipe.cli import pages
    from prefpipe.models.bundled import PREFIX, find_bundled
    from prefpipe.models.location import locate_model

    source = (
        find_bundled(reference) if reference.startswith(PREFIX) else Path(reference).expanduser()
    )
    if output is None:
        folder = locate_model(reference).path
    elif source.suffix == ".gguf":
        from prefpipe.models.gguf_conversion import convert_gguf

        folder = convert_gguf(source, output)
    else:
        folder = _copy(locate_model(reference).path, output)
    if as_json:
        pages.pipe_json({"reference": reference, "path": str(folder)})
    else:
        pages.pipe(str(folder))


def _copy(folder: Path, output: Path) -> Path:
    """Copy a model folder, whole or not at all, links followed."""
    from prefpipe.artifacts.atomic import atomic_folder

    with atomic_folder(output) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return output


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that come as Python packages, and where they are."""
    from prefpipe.cli import pages

    entries = list(_bundled())
    if as_json:
        pages.pipe_json(entries)
    else:
        pages.show_facts({entry["reference"]: _told(entry) for entry in entries})


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
            cached = _cached(source) if source.suffix == ".gguf" else source
            entry["folder"] = str(cached) if cached is not None else None
        yield entry


def _cached(gguf_path: Path) -> Path | None:
    """Return the folder that a GGUF file was converted to, if it was."""
    from prefpipe.artifacts.file_hashes import cache_folder

    found = sorted((cache_folder() / "models").glob(f"{gguf_path.stem}-*-v*"))
    return found[-1] if found else None


def _told(entry: dict[str, Any]) -> str:
    if not entry["installed"]:
        return f"not installed: {entry['install']}"
    return entry["folder"] or "installed, not yet converted (the first use does that)"


@models.command()
def show(
    reference: Reference, trust_remote_code: TrustRemoteCode = False, as_json: AsJson = False
) -> None:
    """Show where a model is, what kind it is, its hashes and its chat template."""
    from prefpipe.models.location import locate_model
    from prefpipe.models.tokenizer import read_chat_template

    model = locate_model(reference, trust_remote_code=trust_remote_code)
    facts = {
        "reference": reference,
        "path": str(model.path),
        "kind": model.kind,
        "revision": model.revision,
        **model.identity(),
    }
    if model.base is not None:
        facts["base_path"] = str(model.base.path)
    template = read_chat_template(model.tokenizer_path)
    _show_facts(facts, template, as_json=as_json)


def _show_facts(facts: dict[str, Any], template: str | None, *, as_json: bool) -> None:
    from prefpipe.cli import pages

    if as_json:
        pages.pipe_json({**facts, "chat_template": template})
        return
    shown = {
        name.replace("_", " "): str(value) for name, value in facts.items() if value is not None
    }
    pages.show_facts(
        {
            **shown,
            "chat template": "none"
            if template is None
            else f"{len(template):,} characters:\n{template}",
        }
    )

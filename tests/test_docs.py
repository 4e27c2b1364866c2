"""What is written about the program is true of it: reference pages, help, links and example commands."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, embeddings_schema
from prefpipe.cli import reference
from prefpipe.cli.app import app

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```(?:bash|sh|console|text)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TOP_FOLDERS = ("docs/", "sample_data/", "tests/", "prefpipe/", ".ci/")
ROOT = typer.main.get_command(app)
COMMANDS = dict(reference.commands(ROOT))
HIDDEN = {name for name, command in ROOT.commands.items() if command.hidden}
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY))
)
each_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.mark.parametrize("name", ["cli.md", "config.md", "schemas.md"])
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    """Write them again with ``prefpipe reference`` after changing a flag, a field or a column."""
    on_disk = (REPOSITORY / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert on_disk == reference.pages(ROOT)[name], "run `prefpipe reference`"


@each_command
def test_every_command_and_flag_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip(), f"{name} says nothing of itself"
    silent = [parameter.name for parameter in command.params if not (parameter.help or "").strip()]
    assert not silent, f"{name}: no help for {silent}"


@each_command
def test_every_command_and_flag_is_in_the_reference(name: str) -> None:
    page = (REPOSITORY / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    flags = [
        flag
        for parameter in COMMANDS[name].params
        for flag in parameter.opts
        if flag.startswith("-")
    ]
    assert not [flag for flag in flags if f"`{flag}`" not in section]


@pytest.mark.parametrize(
    "schema", [*ALIKE_EVERYWHERE, embeddings_schema(8, half=False)], ids=lambda s: s.name
)
def test_every_column_has_a_meaning_and_is_in_the_reference(schema) -> None:
    section = (
        (REPOSITORY / "docs" / "reference" / "schemas.md")
        .read_text()
        .partition(f"## {schema.tag}\n")[2]
        .partition("\n## ")[0]
    )
    for column in schema.columns:
        assert column.meaning.strip()
        assert f"| `{column.name}` |" in section


def slug_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    return {
        slug_of(match[1])
        for match in re.finditer(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


@each_document
def test_links_resolve(path: Path) -> None:
    """A link to a file of this repository names one that exists, and a heading that it has."""
    for target in LINK.findall(without_code_blocks(path)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name} links to {target}, and there is no {linked}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors_of(linked), (
                f"{path.name} links to {target}, and {linked.name} has no such heading"
            )


@each_document
def test_files_that_are_named_exist(path: Path) -> None:
    """``docs/guides/checks.md`` and the like, in backquotes, name files of this repository."""
    named = [
        span
        for span in CODE_SPAN.findall(without_code_blocks(path))
        if re.fullmatch(r"[\w./-]+", span)
    ]
    missing = [
        span for span in named if span.startswith(TOP_FOLDERS) and not (REPOSITORY / span).exists()
    ]
    assert not missing, f"{path.name} names {missing}"


def test_places_in_the_map_of_the_code_exist() -> None:
    """docs/architecture.md names files and rooms from the package on: ``artifacts/parts.py``."""
    text = without_code_blocks(REPOSITORY / "docs" / "architecture.md")
    named = {span for span in CODE_SPAN.findall(text) if re.fullmatch(r"[\w./-]*(?:\.py|/)", span)}
    assert len(named) > 30

    roots = (REPOSITORY, REPOSITORY / "prefpipe", REPOSITORY / "prefpipe" / "maths" / "selection")
    missing = []
    for span in sorted(named):
        is_new = Path(span).name == "mine.py"  # what a recipe tells one to write
        is_there = any((root / span).exists() for root in roots)
        is_beside = list((REPOSITORY / "prefpipe").rglob(span))  # named after its folder was
        if not (is_new or is_there or is_beside):
            missing.append(span)
    assert not missing


def without_code_blocks(path: Path) -> str:
    return re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def example_commands(path: Path) -> list[list[str]]:
    """The ``prefpipe`` commands in a document's code blocks, as words, continuation lines joined."""
    found = []
    for block in CODE_BLOCK.findall(path.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.lstrip("$ ").startswith("prefpipe "):
                words = shlex.split(line.lstrip("$ "), comments=True)
                stops = [
                    i
                    for i, word in enumerate(words)
                    if word in ("&", "&&", "|", ";", ">", "2>", "...")
                ]
                words = words[: stops[0] if stops else None]
                # `prefpipe slurm` is given another command behind --
                is_slurm = words[:2] == ["prefpipe", "slurm"] and "--" in words
                place = words.index("--") if is_slurm else len(words)
                found.append(words[:place])
                if is_slurm:
                    found.append(["prefpipe", *words[place + 1 :]])
    return found


def command_of(words: list[str]) -> str | None:
    """Return the name of the command that a line runs, ``prefpipe eval win-rate`` for instance."""
    candidates = (" ".join(words[:n]) for n in (3, 2))
    return next((name for name in candidates if name in COMMANDS), None)


def unknown_flags(name: str, words: list[str]) -> list[str]:
    """Return the flags of a line that its command does not have."""
    flags = {
        flag
        for parameter in COMMANDS[name].params
        for flag in [*parameter.opts, *parameter.secondary_opts]
    }
    return [
        word
        for word in words
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in {*flags, "--help", "-h"}
    ]


@each_document
def test_example_commands_are_parsed(path: Path) -> None:
    """A shown command has a name, flags, values and arguments that the command line takes."""
    for words in example_commands(path):
        if len(words) < 2 or words[1].startswith("-"):
            continue
        name, line = command_of(words), " ".join(words)
        assert name is not None, f"{path.name} runs `{line}`, and there is no such command"
        assert not unknown_flags(name, words), f"{path.name} runs `{line}`"
        # a shell variable stands for a number or a text; 1 is both
        values = [re.sub(r"\$\{?\w+\}?", "1", word) for word in words[len(name.split()) :]]
        try:
            COMMANDS[name].make_context(name, values)
        except Exception as error:
            pytest.fail(f"{path.name} runs `{line}`: {error}")


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if path.name != "log.md"],  # the log keeps what was typed then
    ids=lambda path: str(path.relative_to(REPOSITORY)),
)
def test_commands_within_sentences_name_real_commands_and_flags(path: Path) -> None:
    """``prefpipe train --objective mmpo`` in a sentence is a real command, whole or not."""
    for span in CODE_SPAN.findall(without_code_blocks(path)):
        if re.match(r"prefpipe [a-z][\w-]*( |$)", span):
            words = re.split(r"\s+", span.partition(" -- ")[0])
            if words[1] in HIDDEN:
                continue
            name = command_of(words)
            assert name is not None, f"{path.name} names `{span}`, and there is no such command"
            assert not unknown_flags(name, words), f"{path.name} names `{span}`"


def test_a_usage_line_names_what_is_required() -> None:
    assert reference.usage("prefpipe embed", COMMANDS["prefpipe embed"]) == (
        "prefpipe embed CANDIDATES -o DIR --model MODEL [OPTIONS]"
    )


@pytest.mark.slow
def test_reference_check_fails_on_a_page_that_differs(tmp_path: Path, capsys) -> None:
    """``prefpipe reference`` writes the pages; ``--check`` names one that was edited and exits with 1."""
    from prefpipe.cli.main import run

    assert run(["reference", str(tmp_path)]) == 0
    assert run(["reference", str(tmp_path), "--check"]) == 0
    (tmp_path / "config.md").write_text("edited")
    assert run(["reference", str(tmp_path), "--check"]) == 1
    captured = capsys.readouterr()
    assert "differs from the code: config.md" in captured.err
    assert (tmp_path / "config.md").read_text() == "edited"

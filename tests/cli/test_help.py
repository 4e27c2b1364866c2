"""``--help`` and ``--help-all`` of every command: whole at every width, short, with examples that parse."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from prefpipe.cli import reference
from prefpipe.cli.app import HEADINGS, app
from prefpipe.cli.dataclass_commands import _given
from prefpipe.cli.help_page import Entry, Page, Section, render
from prefpipe.cli.main import run
from prefpipe.configs.command import OTHER_HEADING
from prefpipe.configs.stages import EVALUATIONS, STAGES

ROOT = typer.main.get_command(app)
COMMANDS = dict(reference.commands(ROOT))
GROUPS = {"prefpipe": ROOT, "prefpipe models": ROOT.commands["models"]}
PAGES = [*GROUPS, *COMMANDS]
WIDTHS = (60, 80, 120)
MOST_FLAGS = 18
"""Of ``--help``; the brief asks for 8 to 15, and ``--config`` and ``--json`` come on top."""


def page_of(path: str, capsys, monkeypatch, *, flag: str = "--help", width: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    code = ROOT.main([*path.split()[1:], flag], prog_name="prefpipe", standalone_mode=False)
    assert not code
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def flags_of(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield from (*parameter.opts, *parameter.secondary_opts)


def words_of(text: str) -> set[str]:
    """The flags that a text names, each whole."""
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_every_flag_is_whole_at_every_width(path: str, width: int, capsys, monkeypatch) -> None:
    """Every flag, choice and default of every command stands in ``--help-all``, none of it cut."""
    text = page_of(path, capsys, monkeypatch, flag="--help-all", width=width)
    assert "…" not in text

    command = COMMANDS.get(path, GROUPS.get(path))
    own = {"--help-all", "--help", "-h"}
    assert set(flags_of(command)) - own <= words_of(text)
    on_one_line = " ".join(text.split())
    for parameter in command.params:
        for choice in (parameter.metavar or "").split("|"):
            assert choice in on_one_line
        default = re.search(r"\[default: [^\]]+\]", (parameter.help or "").replace("\\[", "["))
        if default is not None:
            assert default[0] in on_one_line


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
@pytest.mark.parametrize("path", PAGES)
def test_no_line_is_longer_than_the_terminal(path, flag, width, capsys, monkeypatch) -> None:
    """But for a word that no line could hold: an example is never broken within a flag and its value."""
    text = page_of(path, capsys, monkeypatch, flag=flag, width=width)
    too_long = [line for line in text.splitlines() if len(line) > width]
    assert not [line for line in too_long if width >= 80 or not is_one_piece(line)]


def is_one_piece(line: str) -> bool:
    """A piece of an example, or a flag with the word for its value."""
    return len(re.findall(r" --?[a-z]", " " + line.strip())) <= 1 or line.lstrip().startswith("-")


@pytest.mark.parametrize("path", COMMANDS)
def test_help_shows_the_common_flags_and_counts_the_others(path, capsys, monkeypatch) -> None:
    short = page_of(path, capsys, monkeypatch)
    whole = page_of(path, capsys, monkeypatch, flag="--help-all")
    n_short, n_whole = n_entries(short), n_entries(whole)
    assert n_short <= MOST_FLAGS

    more = re.search(r"^(\d+) more flags?: (.+)$", short, re.MULTILINE)
    if n_short == n_whole:
        assert more is None
        return
    assert more is not None
    assert int(more[1]) == n_whole - n_short
    assert more[2] == f"{path} --help-all"
    assert short.rstrip().endswith(more[0])


def n_entries(text: str) -> int:
    """The flags that a page explains."""
    return len(
        re.findall(
            r"^  --?[a-z]",
            text.partition("\nInput and output:")[2] or after_examples(text),
            re.MULTILINE,
        )
    )


def after_examples(text: str) -> str:
    return re.sub(r"^Examples?:\n(?:  .*\n)+", "", text, flags=re.MULTILINE)


def test_required_flags_are_always_shown(capsys, monkeypatch) -> None:
    for path, command in COMMANDS.items():
        text = page_of(path, capsys, monkeypatch)
        for parameter in command.params:
            if parameter.required or "[required]" in (parameter.help or ""):
                assert parameter.opts[0] in words_of(text) or parameter.metavar in text


@pytest.mark.parametrize("config_class", [*STAGES, *EVALUATIONS], ids=lambda each: each.stage)
def test_every_flag_of_a_stage_stands_under_a_heading(config_class) -> None:
    sections = config_class.sections()
    assert OTHER_HEADING not in sections
    named = [
        name
        for each in config_class.__mro__
        for names in vars(each).get("panels", {}).values()
        for name in names
    ]
    known = {
        item.name for each in (*STAGES, *EVALUATIONS) for item in each.__dataclass_fields__.values()
    }
    assert set(named) <= known


def test_a_rare_flag_works_without_being_shown(capsys, monkeypatch) -> None:
    assert "--frequency-penalty" not in page_of("prefpipe generate", capsys, monkeypatch)
    assert (
        run(["generate", "p.jsonl", "-o", "out", "--model", "m", "--frequency-penalty", "9"]) == 2
    )
    assert "--frequency-penalty must be within -2 and 2, not 9.0" in capsys.readouterr().err


def test_help_all_needs_nothing_else(capsys) -> None:
    """And runs nothing, whatever else was typed."""
    assert run(["eval", "--policy", "no-such-model", "--help-all"]) == 0
    assert "--judge-base-url" in words_of(capsys.readouterr().out)


def test_a_mistyped_flag_gets_the_nearest_one_shown_or_not(capsys) -> None:
    assert run(["generate", "p", "-o", "out", "--model", "m", "--frequency-penaltey", "1"]) == 2
    assert "--frequency-penalty" in capsys.readouterr().err


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_that_parses(path: str, capsys, monkeypatch) -> None:
    """Flags, values and what they mean together: nothing of it is refused before a file is opened."""
    command = COMMANDS[path]
    examples = command.config_class.examples
    assert 1 <= len(examples) <= 3
    shown = " ".join(page_of(path, capsys, monkeypatch).replace("\\\n", " ").split())
    for example in examples:
        assert " ".join(example.split()) in shown
        assert example.startswith(path) or path == "prefpipe logprobs"
        parsed_by(example)


def parsed_by(line: str) -> None:
    """Parse a command line and make its config, as the command would."""
    words = shlex.split(line.partition(" | ")[0])
    name = next(" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in COMMANDS)
    command = COMMANDS[name]
    rest = words[len(name.split()) :]
    context = command.make_context(name, rest)
    values = {name: value for name, value in context.params.items() if value != ()}
    command.config_class.from_values(_given(command.config_class, values))


def test_an_example_with_a_wrong_flag_does_not_parse() -> None:
    with pytest.raises(Exception, match="--modle"):
        parsed_by("prefpipe embed run/candidates -o run/e --modle x")
    with pytest.raises(Exception, match="--strategy must be one of"):
        parsed_by("prefpipe select c --scores s -o g --strategy none")


def test_every_command_stands_under_one_task() -> None:
    named = [name for names in HEADINGS.values() for name in names]
    visible = [name for name, command in ROOT.commands.items() if not command.hidden]
    assert sorted(named) == sorted(visible)


def test_each_command_is_one_line_of_the_first_page(capsys, monkeypatch) -> None:
    text = page_of("prefpipe", capsys, monkeypatch)
    for name in (name for names in HEADINGS.values() for name in names):
        assert len(re.findall(rf"^  {name} +\S.*$", text, re.MULTILINE)) == 1
    entries = re.findall(r"^ {2}[a-z][a-z-]* +\S.*(?:\n {10,}\S.*)+", text, re.MULTILINE)
    assert not entries, "a summary takes two lines"


def test_bold_only_on_a_terminal_that_wants_it(capsys, monkeypatch) -> None:
    page = Page("prefpipe x", "Does x.", (), [Section("Flags", [Entry("--a N", "what a is")])], [])
    assert "\x1b[1mFlags:\x1b[0m" in render(page, width=80, is_coloured=True)
    assert "\x1b" not in render(page, width=80)
    assert "\x1b" not in page_of("prefpipe train", capsys, monkeypatch)


def test_a_default_stays_on_one_line() -> None:
    meaning = "a sentence that goes on until nearly the end of it [default: 0.05]"
    page = Page("p", "d", (), [Section("Flags", [Entry("--a N", meaning)])], [])
    for width in range(40, 100):
        assert "[default: 0.05]" in render(page, width=width)


WORDS_TO_AVOID = re.compile(
    r"all the same|in vain|of its own|one likes|is told|came of|asked for|by itself|"
    r"makes of|where there is one|of no use|\banew\b|\btold\b|"
    # a rate has "per", or tokens/s
    r"\b(tokens?|nats|characters|margin|prompts?|responses?|rows?|once|log-\w+) an? "
    r"(token|second|response|prompt|unit|group|row|step|hour)\b"
)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_help_text_is_short_and_plain(path: str) -> None:
    command = COMMANDS[path]
    assert not WORDS_TO_AVOID.search(command.help)
    for parameter in command.params:
        text = (parameter.help or "").replace("\\[", "[")
        assert not WORDS_TO_AVOID.search(text)
        sentence = re.sub(r" \[(default|required).*\]$", "", text)
        # what each objective says of a flag has a line of its own
        for line in sentence.split("\n"):
            assert len(line.split()) <= 25, f"{parameter.name}: {line}"


def test_a_knob_of_several_objectives_has_a_line_for_each_meaning(capsys, monkeypatch) -> None:
    lines = page_of("prefpipe train", capsys, monkeypatch).splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("  --gamma X"))
    starts = [line[28:].partition(":")[0] for line in lines[at : at + 9]]
    assert [each for each in starts if each in ("ampo, refa", "mmpo", "simpo", "bt-margin")] == [
        "ampo, refa",
        "mmpo",
        "simpo",
        "bt-margin",
    ]


def test_help_of_train_shows_the_knobs_and_whose_each_objective_is(capsys, monkeypatch) -> None:
    words = " ".join(page_of("prefpipe train", capsys, monkeypatch).split())
    assert "--beta X" in words
    assert "--gamma X" in words
    assert "policy: ampo (default), refa, " in words
    assert "reward: bt (default), bt-margin, mmpo" in words
    assert "0: none" in words


def test_the_mark_of_flags_that_change_the_rows_is_explained_above_them(
    capsys, monkeypatch
) -> None:
    text = page_of("prefpipe train", capsys, monkeypatch, flag="--help-all")
    assert text.index("Flags marked * change the rows") < text.index("Examples:")
    assert text.count("Flags marked *") == 1
    assert "Flags marked *" not in page_of("prefpipe train", capsys, monkeypatch)


def test_the_first_page_names_help_all_and_the_commands_of_eval(capsys, monkeypatch) -> None:
    text = page_of("prefpipe", capsys, monkeypatch)
    words = " ".join(text.split())
    assert "--help-all lists all its flags." in words
    assert "prefpipe eval has commands too: win-rate, " in words
    # a pipeline's commands stand in its order
    shown = re.findall(r"^  prefpipe ([a-z]+) .*$", text, re.MULTILINE)
    assert shown == ["init", "generate", "score", "select", "train", "eval", "status"]


def test_a_closed_stdout_is_no_traceback(monkeypatch) -> None:
    """``prefpipe generate --help >&-``: Python has no stdout then."""
    monkeypatch.setattr("sys.stdout", None)
    assert run(["generate", "--help"]) == 0

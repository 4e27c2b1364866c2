"""Commands are imported when they run, or when their own help is shown; what is listed of them before is the same."""

import json
import subprocess
import sys

import pytest
import typer

from prefpipe.cli.app import ALL_COMMANDS, app
from prefpipe.cli.help_page import first_sentence
from prefpipe.configs.stages import STAGES

ROOT = typer.main.get_command(app)
LOADED = """\
import json, sys
from prefpipe.cli.main import run
code = run(sys.argv[1:])
names = [name for name in sys.modules if name.startswith(("prefpipe.cli.", "prefpipe.configs."))]
sys.stderr.write(json.dumps([code, names]))
"""


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_a_listed_command_is_as_it_is_listed(name: str) -> None:
    listed, command = ALL_COMMANDS[name], ROOT.commands[name]
    assert command.name == name
    assert first_sentence(command.help) == listed.summary
    assert tuple(getattr(command, "commands", ())) == listed.commands
    assert command.hidden is listed.is_hidden


def test_the_stages_come_first_in_the_order_of_a_pipeline() -> None:
    stages = [config_class.stage for config_class in STAGES]
    assert [name for name in ALL_COMMANDS if ALL_COMMANDS[name].is_stage] == stages
    assert list(ALL_COMMANDS)[: len(stages)] == stages == ROOT.list_commands(None)[: len(stages)]


def test_commands_are_found_by_name_in_every_way_in_which_click_looks() -> None:
    commands = typer.main.get_command(app).commands
    assert "train" in commands
    assert "trane" not in commands
    assert commands.get("trane") is None
    assert commands.get("train") is commands["train"]
    assert dict(commands.items()).keys() == set(commands)
    assert [command.name for command in commands.values()] == list(commands)


def modules_after(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], capture_output=True, text=True, check=True
    )
    code, names = json.loads(done.stderr)
    assert code == 0, done.stdout
    return set(names)


def test_the_help_of_all_commands_imports_none_and_that_of_one_no_other() -> None:
    modules = {f"prefpipe.{name.replace('-', '_')}" for name in ALL_COMMANDS}
    of_commands = {name.replace("prefpipe.", "prefpipe.cli.") for name in modules}
    of_commands |= {name.replace("prefpipe.", "prefpipe.configs.") for name in modules}
    assert not of_commands & modules_after("--help")
    of_status = of_commands & modules_after("status", "--help")
    assert of_status == {"prefpipe.cli.status", "prefpipe.configs.status"}
    of_train = of_commands & modules_after("train", "--help")
    assert of_train == {"prefpipe.configs.train"}

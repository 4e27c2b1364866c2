"""A recorded command, changed so that it can be pasted now.

It finishes what is there and throws nothing away. What ``run.json`` recorded is what somebody typed
once, in one folder, for one shard, perhaps with ``--overwrite``. Its words are read as the command
line reads them, so that a value that looks like a flag is taken for what it was.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import (
    Location,
    Url,
    is_within,
    pieces_below,
    place_below,
    seen_from,
)
from prefpipe.configs.options import (
    flag_of,
    is_list,
    resolved_types,
    scalar_type,
    short_flag_of,
)
from prefpipe.configs.sampling import SERVED
from prefpipe.configs.stage import ShardedConfig, StageConfig, by_field
from prefpipe.configs.stages import EVALUATIONS, STAGES
from prefpipe.errors import UsageError

CONFIGS = {config_class.stage: config_class for config_class in (*STAGES, *EVALUATIONS)}
OF_ONE_WORKER = ("shard_index", "num_shards", "shards", "no_shards")
"""Flags that say which share of the parts is made: a line that goes on says it anew."""
NAMED_TARGETS = ("scorer", "judge")
"""Flags whose value is ``KIND:TARGET``, where the target may be a path."""
CONFIG_FLAG = "config"
URL_AT_END = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*$")


class Word(NamedTuple):
    """A flag with its value, or an argument, of a recorded command.

    ``field``: the config's field, None for words of no field. ``flag``: as it was typed, "" for an
    argument. ``value``: None for a switch. ``is_joined``: ``--flag=value`` was one word.
    """

    field: str | None
    flag: str
    value: str | None
    is_joined: bool = False

    def words(self) -> list[str]:
        """Return it as it was typed."""
        if self.value is None:
            return [self.flag]
        if not self.flag:
            return [self.value]
        return [f"{self.flag}={self.value}"] if self.is_joined else [self.flag, self.value]


class Surroundings(NamedTuple):
    """Where a command was run and where it is to be run now.

    ``folder``: that of then. ``output``: where its output is now, None for where it was. ``now``:
    the folder of now.
    """

    folder: Path
    output: Location | None
    now: Path


class RecordedCommand:
    """A recorded command of a stage, word by word."""

    def __init__(self, command: Sequence[str]) -> None:
        """Read the words.

        Raises:
            ValueError: it is not a command of a stage.
        """
        # of `prefpipe eval rewardbench` the longer name, before that of `prefpipe eval`
        names = [" ".join(command[1:3]), " ".join(command[1:2])]
        name = next((name for name in names if name in CONFIGS), None)
        if name is None:
            raise ValueError(f"no stage's command: {' '.join(command)}")

        self.config_class = CONFIGS[name]
        self.head = ["prefpipe", *name.split()]
        self.words = list(_read(command[len(self.head) :], self.config_class))

    @property
    def stage(self) -> str:
        """The stage that the command runs."""
        return self.config_class.stage

    def value(self, field: str) -> str | None:
        """Return what a flag or an argument was given, None where it was not; the last counts."""
        return next((word.value for word in reversed(self.words) if word.field == field), None)

    @property
    def num_shards(self) -> int | None:
        """The number of workers that the command was one of, None where its words do not say."""
        text = self.value("num_shards")
        return int(text) if text is not None and text.isdigit() else None

    @property
    def takes_shards(self) -> bool:
        """Whether the parts can be divided among workers."""
        return issubclass(self.config_class, ShardedConfig)

    def output(self, folder: Path) -> Location | None:
        """Return where the output was, given the folder that the command was run in."""
        text = self.value("output") or self._of_config_file(folder).get("output")
        return None if text is None else seen_from(folder, str(text))

    def config(self, folder: Path) -> StageConfig:
        """Return what the command made of its words, given the folder that it was run in.

        Raises:
            UsageError: words of another release, or values that this one refuses.
        """
        kinds = resolved_types(self.config_class)
        values: dict[str, Any] = dict(self._of_config_file(folder))
        lists: dict[str, list[str]] = {}
        for field, flag, value, _ in self.words:
            if field is None or field == CONFIG_FLAG:
                continue
            if field not in kinds:
                raise UsageError(f"`{flag}` is no flag of {' '.join(self.head)}")
            if field == "overwrite":
                continue  # says what happens to what was there, and not what was made
            if is_list(kinds[field]):
                lists.setdefault(field, []).append(value or "")
            else:
                values[field] = not flag.startswith("--no-") if value is None else value
        return self.config_class.from_values({**values, **lists})

    def to_go_on(
        self,
        surroundings: Surroundings,
        *,
        replaces_other_runs: bool,
        shard: tuple[int, int] | None,
        has_checkpoints: bool,
    ) -> list[str]:
        """Return the command that finishes what is there.

        Args:
            surroundings: paths are rewritten where the command is to be run in another folder, or
                the run was moved.
            replaces_other_runs: what is there is of another configuration, and must be made again.
            shard: number and count of the worker, None for all parts.
            has_checkpoints: a training goes on from its own last checkpoint, and not from the one
                it began with.
        """
        left_out = {"overwrite", *OF_ONE_WORKER}
        if has_checkpoints:
            left_out.add("resume_from")
        if replaces_other_runs:
            # they go on from what is there, which is thrown away
            left_out |= {"extend", "retry_errors"} & set(_fields(self.config_class))

        words = list(self.head)
        for word in self.words:
            if word.field not in left_out:
                words += self._placed(word, surroundings).words()

        # a relative path of the config file would be looked for in the folder of now
        of_file = self._of_config_file(surroundings.folder)
        for word in self._places_of_config_file(of_file):
            placed = self._placed(word, surroundings)
            if placed != word:
                words += placed.words()

        if replaces_other_runs:
            words.append(f"--overwrite={Overwrite.STALE}")
        elif of_file.get("overwrite"):
            # the file would throw away what is there: a flag beats it
            words.append(f"--overwrite={Overwrite.NO}")

        # the file names the share of one worker of then: the only worker makes all parts
        if shard is None and self.takes_shards and "num_shards" in of_file:
            shard = (0, 1)
        if shard is not None:
            words += ["--shard-index", str(shard[0]), "--num-shards", str(shard[1])]
        return words

    def _of_config_file(self, folder: Path) -> Mapping[str, Any]:
        """Return what the file of ``--config`` says, {} where none is or it cannot be read."""
        path = self.value(CONFIG_FLAG)
        if path is None:
            return {}
        try:
            values = yaml.safe_load((folder / path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError):
            return {}
        if not isinstance(values, dict):
            return {}
        return by_field(values)

    def _places_of_config_file(self, of_file: Mapping[str, Any]) -> Iterator[Word]:
        """Yield the inputs and outputs that the file names and the command did not.

        As the words that would give them.
        """
        given = {word.field for word in self.words}
        for name, item in _fields(self.config_class).items():
            value = of_file.get(name)
            if value is None or name in given or not names_place(name, self.config_class):
                continue
            flag = "" if item.metadata["positional"] else flag_of(item)
            for each in value if isinstance(value, list) else [value]:
                yield Word(name, flag, str(each))

    def _names_served_model(self, folder: Path) -> bool:
        """Return whether ``--model`` is a name that a server or the fake engine knows.

        Even where a folder is called so, too.
        """
        backend = self.value("backend") or self._of_config_file(folder).get("backend")
        return backend in SERVED

    def _placed(self, word: Word, surroundings: Surroundings) -> Word:
        """Return a word whose path, if it has one, is that of now."""
        if word.value is None or word.field is None:
            return word
        if not names_place(word.field, self.config_class):
            return word
        if word.field == "model" and self._names_served_model(surroundings.folder):
            return word

        head, path = "", word.value
        if word.field in NAMED_TARGETS:
            head, path = split_target(word.value)
            if not head:
                return word  # a kind without a target, `checks`

        then = self.output(surroundings.folder)
        moves: list[tuple[Location, Location]] = []
        if then is not None and surroundings.output is not None:
            moves += moved_folders(then.absolute(), surroundings.output.absolute())
        placed = _place_of_now(path, surroundings, moves, is_output=word.field == "output")
        return word._replace(value=head + placed)


def _read(words: Sequence[str], config_class: type[StageConfig]) -> Iterator[Word]:
    """Yield a command's flags with their values, and its arguments."""
    kinds = resolved_types(config_class)
    takes_value: dict[str, tuple[str | None, bool]] = {
        "--config": (CONFIG_FLAG, True),
        "--json": (None, False),
    }
    arguments = []
    for name, item in _fields(config_class).items():
        flag, short = flag_of(item), short_flag_of(item)
        is_switch = scalar_type(kinds[name]) in (bool, Overwrite)
        takes_value[flag] = (name, not is_switch)
        takes_value[f"--no-{flag[2:]}"] = (name, False)
        if short is not None:
            takes_value[short] = (name, True)
        if item.metadata["positional"]:
            arguments.append(item)

    rest = iter(words)
    n_arguments = 0
    is_past_flags = False
    for text in rest:
        flag, equals, value = text.partition("=")
        is_flag = text.startswith("-") and len(text) > 1 and not is_past_flags
        if not is_flag:
            yield Word(_argument(arguments, n_arguments, kinds), "", text)
            n_arguments += 1
        elif text == "--":
            is_past_flags = True
            yield Word(None, "--", None)
        elif equals and flag in takes_value:  # --output=out
            yield Word(takes_value[flag][0], flag, value, is_joined=True)
        elif text in takes_value:  # --output out
            field, has_value = takes_value[text]
            yield Word(field, text, next(rest, "") if has_value else None)
        elif text[:2] in takes_value and not text.startswith("--"):  # -oout
            yield Word(takes_value[text[:2]][0], text[:2], text[2:])
        else:  # of another release
            yield Word(text.lstrip("-").replace("-", "_"), text, None)


def _argument(
    arguments: Sequence["Field[Any]"], number: int, kinds: Mapping[str, Any]
) -> str | None:
    """Return the field of an argument by its number; the last one may take several."""
    if number < len(arguments):
        return arguments[number].name
    return arguments[-1].name if arguments and is_list(kinds[arguments[-1].name]) else None


def _fields(config_class: type[StageConfig]) -> "dict[str, Field[Any]]":
    return {item.name: item for item in fields(config_class)}


def names_place(field: str, config_class: type[StageConfig]) -> bool:
    """Return whether a value can be the path of a file or folder."""
    if field == CONFIG_FLAG:
        return True
    item = _fields(config_class).get(field)
    if item is None:
        return False
    if scalar_type(resolved_types(config_class)[field]) in (Path, Url):
        return True
    # a text that stands for something with a content: a model, a scorer, a source
    return bool(item.metadata["metavar"]) and not item.metadata["identity"]


def split_target(text: str) -> tuple[str, str]:
    """Return ``name=judge:transformers:`` and ``run/model``: of a target the path stands last."""
    # the colon of a URL belongs to the target
    url = URL_AT_END.search(text)
    if url is not None:
        return text[: url.start()], url[0]
    head, colon, target = text.rpartition(":")
    return head + colon, target


def moved_folders(then: Location, now: Location) -> Iterator[tuple[Location, Location]]:
    """Yield which folders are others now, the largest first.

    An output may have been moved alone, or with all around it. A copy is moved, too, while the
    original is still there: of the copy everything is looked for in the copy first.
    """
    if then.resolve() == now.resolve():
        return

    # the names at the end that both have are those of the run
    root_then, root_now = then, now
    while root_then.name == root_now.name and root_then.name:
        if root_then.parent == root_then or root_now.parent == root_now:
            break
        root_then, root_now = root_then.parent, root_now.parent
    if root_then != then:
        yield root_then, root_now

    yield then.parent, now.parent
    yield then, now


def _place_of_now(
    text: str,
    surroundings: Surroundings,
    moves: Sequence[tuple[Location, Location]],
    *,
    is_output: bool,
) -> str:
    """Return a path so that it is right in the folder of now.

    What names nothing on this disk stays as it is.
    """
    then = seen_from(surroundings.folder, text).absolute()
    place = then
    if is_output and moves:
        # the smallest move is that of the output itself
        place = moves[-1][1]
    else:
        # what did not move along stays where it was
        for from_, to in moves:
            if not is_within(then, from_):
                continue
            moved = place_below(to, pieces_below(then, from_))
            if files.can_be_found(moved):
                place = moved
                break

    # as it was typed, where that is still right
    same_folder = surroundings.folder.absolute() == surroundings.now.absolute()
    if place == then and (isinstance(then, Url) or Path(text).is_absolute() or same_folder):
        return text
    # a name of the hub, or something that is gone
    if not is_output and not files.can_be_found(place):
        return text
    if isinstance(place, Path) and place.is_relative_to(surroundings.now):
        return str(place.relative_to(surroundings.now))
    return str(place)

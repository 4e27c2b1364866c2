"""What libraries print: lines of the log, each once, errors always, bars never."""

import logging
import os
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefpipe.errors import PrefpipeWarning
from prefpipe.execution.library_output import BARS_OFF, HARMLESS, LEFT_ALONE, library_output


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines of the log; every warning is shown, as often as it comes.

    Libraries that other tests imported may have raised the levels of this process.
    """
    for name in (*BARS_OFF, LEFT_ALONE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    logging.root.manager._clear_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield []


def new_logger(library: str) -> logging.Logger:
    """A logger as a library makes it when it is imported: with a handler of its own, and alone."""
    logger = logging.getLogger(f"{library}.{uuid.uuid4().hex}")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    return logger


def warn_in(folder: Path, message: str, category: str) -> None:
    """Warn from a module of a package that is installed in ``folder``."""
    place = folder / "lib" / "site-packages" / "somelib" / "module.py"
    code = compile(f"import warnings; warnings.warn({message!r}, {category})", str(place), "exec")
    exec(code, {"__name__": "somelib.module"})


def test_warnings_and_records_are_lines_of_the_log(
    lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with library_output(lines.append):
        logger = new_logger("transformers")
        logger.warning("the %s\nis odd", "config")
        logger.warning("the %s\nis odd", "config")
        logger.info("of no interest")
        warn_in(tmp_path, "a setting is ignored", "UserWarning")
        warn_in(tmp_path, "a setting is ignored", "UserWarning")
        warnings.warn("ours", PrefpipeWarning, stacklevel=1)
        logging.getLogger().warning("of the root")
    assert lines == [
        "warning: transformers: the config is odd",
        "warning: somelib: a setting is ignored",
        "warning: ours",
        "warning: root: of the root",
    ]
    assert capsys.readouterr().err == ""


def test_what_is_for_developers_is_dropped(lines: list[str], tmp_path: Path) -> None:
    with library_output(lines.append):
        for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
            warn_in(tmp_path, "call it otherwise", category)
    assert lines == []


EXAMPLES = {
    "transformers": [
        "Setting `pad_token_id` to `eos_token_id`:2 for open-end generation.",
        "Token indices sequence length is longer than the specified maximum sequence length",
        "Please note that with a fast tokenizer, using the `__call__` method is faster",
        "`use_cache=True` is incompatible with gradient checkpointing. Setting `use_cache=False`.",
        "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config",
        "`torch_dtype` is deprecated! Use `dtype` instead!",
    ],
    "huggingface_hub": [
        "You are sending unauthenticated requests to the HF Hub.",
        "It seems that you are about to commit a data file (x.parquet) to a model repository.",
    ],
    "tqdm": ["IProgress not found. Please update jupyter and ipywidgets."],
    "torch": ["NOTE: Redirects are currently not supported in MacOs."],
}


def test_each_harmless_message_is_dropped_and_is_still_an_error_where_it_is_one(
    lines: list[str],
) -> None:
    messages = [(library, text) for library, texts in EXAMPLES.items() for text in texts]
    assert len(messages) == len(HARMLESS)
    with library_output(lines.append):
        for library, text in messages:
            new_logger(library).warning(text)
            new_logger("another_library").warning(text)
    assert len(lines) == len(messages)
    assert all(line.startswith("warning: another_library: ") for line in lines)

    with library_output(lines.append):
        new_logger("transformers").error(EXAMPLES["transformers"][0])
    assert lines[-1] == f"error: transformers: {EXAMPLES['transformers'][0]}"


def test_errors_come_each_time_and_with_their_traceback(lines: list[str]) -> None:
    with library_output(lines.append, only_errors=True):
        logger = new_logger("vllm")
        logger.warning("another process says it")
        logger.error("died")
        logger.error("died")
        try:
            int("why")
        except ValueError:
            logger.exception("died")
    assert lines[:2] == ["error: vllm: died"] * 2
    first, *_, last = lines[2].splitlines()
    assert (first, last) == (
        "error: vllm: died",
        "ValueError: invalid literal for int() with base 10: 'why'",
    )
    assert len(lines) == 3


def test_a_record_whose_arguments_do_not_fit_fails_nothing(lines: list[str]) -> None:
    with library_output(lines.append):
        new_logger("datasets").warning("%d rows", "many")
    assert lines == ["warning: datasets: %d rows"]


def test_bars_are_off_but_where_somebody_wants_them(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "0")
    with library_output(lines.append):
        assert {name: os.environ[name] for name in BARS_OFF} == BARS_OFF | {"TQDM_DISABLE": "0"}
    assert [name for name in BARS_OFF if name in os.environ] == ["TQDM_DISABLE"]


def test_behind_it_and_where_it_is_unwanted_libraries_print_as_ever(
    lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (logging.getLoggerClass(), warnings.showwarning, list(logging.getLogger().handlers))
    with library_output(lines.append):
        logger = new_logger("transformers")
    logger.warning("behind it")
    assert before == (
        logging.getLoggerClass(),
        warnings.showwarning,
        list(logging.getLogger().handlers),
    )

    monkeypatch.setenv(LEFT_ALONE, "1")
    with library_output(lines.append):
        new_logger("transformers").warning("unwanted")
        assert not any(name in os.environ for name in BARS_OFF)
    assert capsys.readouterr().err == "behind it\nunwanted\n"
    assert lines == []


def test_contexts_of_threads_that_end_in_the_order_in_which_they_began(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs at once from Python: when both have ended, the process has its own output again."""

    def state() -> tuple[object, ...]:
        bars = [name for name in BARS_OFF if name in os.environ]
        return logging.getLoggerClass(), warnings.showwarning, logging.getLogger().handlers[:], bars

    before = state()
    others: list[str] = []
    first, second = library_output(lines.append), library_output(others.append)
    first.__enter__()
    second.__enter__()
    new_logger("transformers").warning("while both run")
    first.__exit__(None, None, None)
    new_logger("transformers").warning("while one runs")
    warnings.warn("while one runs", PrefpipeWarning, stacklevel=1)
    assert set(BARS_OFF) <= set(os.environ)
    second.__exit__(None, None, None)

    assert state() == before
    assert lines == []
    assert others == [
        "warning: transformers: while both run",
        "warning: transformers: while one runs",
        "warning: while one runs",
    ]
    new_logger("mine").warning("behind both")
    assert capsys.readouterr().err == "behind both\n"

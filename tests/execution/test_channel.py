"""What crosses the line between a driver and its workers, and what happens to it on the way."""

import socket
import threading
from pathlib import Path

import pytest

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import EngineDeadError, InputError, PrefpipeError, UsageError, error_with_code
from prefpipe.execution.channel import Failure, Order, SocketChannel, json_values


@pytest.fixture
def line() -> tuple[SocketChannel, SocketChannel]:
    ours, theirs = socket.socketpair()
    return SocketChannel(ours), SocketChannel(theirs)


CONFIGS: list[StageConfig] = [
    GenerateConfig(
        prompts="p.jsonl",
        output=Path("out"),
        model=("a", "b"),
        temperature=(0.0, 1.25),
        overwrite=Overwrite.STALE,
    ),
    ScoreConfig(candidates=Path("c"), output=Path("s"), scorer=("fake", "x=checks")),
    EmbedConfig(candidates=Path("c"), output=Path("e"), model="fake", max_length=16),
    LogprobsConfig(groups=Path("g"), output=Path("l"), model="bundled:smollm2-135m"),
    JudgeConfig(a=Path("a"), b=Path("b"), output=Path("v"), judge="fake", timeout_s=3.5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stage)
def test_a_configuration_arrives_as_it_was_sent(
    config: StageConfig, line: tuple[SocketChannel, SocketChannel]
) -> None:
    driver, worker = line
    order = Order(config.stage, json_values(config), "/tmp", 1, 0, 1)
    driver.send(order.message())
    message = worker.receive()
    assert message is not None
    assert type(config).from_values(Order.of(message).values) == config


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("a", hint="b"), UsageError),
        (InputError("a"), PrefpipeError),
        (EngineDeadError("a"), PrefpipeError),
        (ZeroDivisionError("a"), PrefpipeError),
    ],
)
def test_an_error_keeps_its_words_and_its_exit_code(
    error: Exception, kind: type[PrefpipeError]
) -> None:
    failure = Failure.in_message({"type": "error", **Failure.of(error).as_fields()})
    raised = error_with_code(failure.exit_code, failure.message, hint=failure.hint)
    assert isinstance(raised, kind)
    assert raised.exit_code == getattr(error, "exit_code", 1)
    assert raised.message.endswith("a")
    assert failure.is_engine_dead == isinstance(error, EngineDeadError)


def test_messages_of_several_threads_arrive_whole(
    line: tuple[SocketChannel, SocketChannel],
) -> None:
    driver, worker = line
    threads = [
        threading.Thread(
            target=lambda number=number: [
                worker.send({"type": "log", "line": f"{number} " + "x" * 5000}) for _ in range(20)
            ]
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    lines = [driver.receive() for _ in range(160)]
    assert all(message is not None and len(message["line"]) == 5002 for message in lines)


def test_a_line_that_was_cut_off_and_a_closed_end_are_the_end(
    line: tuple[SocketChannel, SocketChannel],
) -> None:
    driver, worker = line
    worker._connection.sendall(b'{"type": "made", "ind')
    worker.close()
    assert driver.receive() is None
    driver.send({"type": "over"})
    assert driver.receive() is None

"""The engines of a command, and what is seen of their calls while a stage works on a part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.pipelines import write_prompts

from prefpipe.backends.fake import FakeGenerator
from prefpipe.backends.open_calls import NONE_OPEN, Answered, OpenCalls
from prefpipe.backends.protocol import Generation, GenerationRequest, SamplingParams
from prefpipe.configs.generate import GenerateConfig
from prefpipe.execution.lazy_engine import LazyEngine
from prefpipe.execution.runtime import Advance, Runtime, Task, no_progress
from prefpipe.stages.generate import Sampler, run


class Counting(FakeGenerator):
    """A fake whose calls are open until the test has looked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = OpenCalls()
        self.look: Callable[[], None] = lambda: None

    def answered(self) -> Answered:
        return self.calls.answered()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        with self.calls.call(len(requests)) as count:
            count(3)
            self.look()
            return super().generate(requests, params)


def test_engines_count_from_their_opening_to_their_end() -> None:
    runtime = Runtime()
    engine = Counting()
    with LazyEngine(lambda: engine, runtime) as lazy, engine.calls.call(8):
        assert runtime.engines.answered() == NONE_OPEN
        lazy.get()
        lazy.get()
        assert runtime.engines.answered() == Answered(0, 8)
    with engine.calls.call(8):
        assert runtime.engines.answered() == NONE_OPEN


def test_a_stage_shows_the_rows_of_its_open_part(tmp_path: Path) -> None:
    engine = Counting()
    tasks: list[Task] = []
    seen: list[Answered] = []

    @contextmanager
    def progress(task: Task, /) -> Iterator[Advance]:
        tasks.append(task)
        with no_progress(task) as advance:
            yield advance

    engine.look = lambda: seen.append(tasks[0].answered())
    config = GenerateConfig(
        prompts=str(write_prompts(tmp_path / "prompts.jsonl", 4)),
        output=tmp_path / "candidates",
        model=("fake",),
        backend="fake",
        n=2,
        part_size=2,
    )
    run(config, [Sampler("fake", {"fake": "fake"}, lambda: engine)], Runtime(progress=progress))
    # a part has two prompts, each sampled twice; the other part may be open, too
    assert len(seen) == 2
    assert {(each.n_done, each.n_asked) for each in seen} <= {(3, 4), (3, 8), (6, 8)}
    assert tasks[0].answered() == NONE_OPEN

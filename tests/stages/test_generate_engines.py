"""What sampled a part is in its footer; rows of two versions in one run are said and recorded."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.pipelines import open_artifact

from prefpipe.backends.fake import FakeGenerator
from prefpipe.configs.generate import GenerateConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.pages.overview import overview_page
from prefpipe.stages.generate import Sampler, run
from prefpipe.stages.inspect.overview import overview

OLD, NEW = "vllm 0.32.0", "vllm 0.33.0"
ANOTHER = "sampled_by_another_engine"


class VersionedGenerator(FakeGenerator):
    """A fake that says what it is, as a real engine does."""

    def __init__(self, version, **settings):
        super().__init__(**settings)
        self.engine_version = version


@pytest.fixture
def generate(tmp_path):
    """Run generate with an engine of a version; returns the summary and what was logged."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "number {number}"}}\n' for number in range(6)))

    def generate(version, *, error_rate=0.0, models=("m",), **changes):
        settings = {"n": 2, "max_tokens": 64, "part_size": 2, "max_error_rate": 1.0} | changes
        config = GenerateConfig(
            prompts=str(prompts),
            output=tmp_path / "candidates",
            model=models,
            backend="fake",
            **settings,
        )
        versions = version if isinstance(version, list) else [version] * len(models)
        samplers = [
            Sampler(
                name,
                {"fake": name},
                lambda each=each: VersionedGenerator(each, error_rate=error_rate),
            )
            for name, each in zip(models, versions, strict=True)
        ]
        logged = []
        return run(config, samplers, Runtime(log=logged.append)), logged

    return generate


def engines_of(folder):
    artifact = open_artifact(folder)
    return [artifact.footer(index).engines for index in range(artifact.n_parts)]


def history_of(folder):
    record = json.loads((Path(folder) / "run.json").read_text())
    return [step for step in record["history"] if step["operation"] == ANOTHER]


def warnings_in(logged):
    return [line for line in logged if "sampled by" in line]


def test_the_version_is_in_every_footer_the_summary_and_inspect(generate):
    summary, logged = generate(OLD)
    assert engines_of(summary.path) == [(OLD,)] * 3
    assert summary.facts["engines"] == [OLD]
    assert not warnings_in(logged)
    assert not history_of(summary.path)
    facts = overview(open_artifact(summary.path))
    assert facts["engines"] == [OLD]
    console = Console(width=120)
    with console.capture() as capture:
        for block in overview_page(facts, width=120):
            console.print(block)
    assert re.search(f"sampled by +{OLD}", capture.get())


def test_an_engine_that_is_not_known_leaves_no_trace(generate):
    summary, _ = generate(None)
    assert engines_of(summary.path) == [()] * 3
    assert "engines" not in summary.facts
    assert "engines" not in summary.to_json()


def test_two_models_of_two_engines_are_both_in_the_footer(generate):
    summary, logged = generate([NEW, OLD], models=("a", "b"))
    assert engines_of(summary.path) == [(OLD, NEW)] * 3
    assert not warnings_in(logged), "no row was kept"


@pytest.mark.parametrize("operation", ["extend", "retry_errors"])
def test_rows_kept_from_another_version_are_said_and_recorded_once(generate, operation):
    generate(OLD, error_rate=0.5)
    settings = {"extend": {"n": 4, "extend": True}, "retry_errors": {"retry_errors": True}}
    summary, logged = generate(NEW, **settings[operation])

    (line,) = warnings_in(logged)
    assert line.startswith(f"warning: the kept rows were sampled by {OLD}, new rows by {NEW}")
    assert history_of(summary.path) == [{"operation": ANOTHER, "kept": [OLD], "new": [NEW]}]
    assert set(engines_of(summary.path)) <= {(OLD, NEW), (OLD,), (NEW,)}
    assert (OLD, NEW) in engines_of(summary.path)
    assert f"sampled by {OLD} and {NEW}" in summary.notes


@pytest.mark.parametrize("settings", [{"n": 4, "extend": True}, {"retry_errors": True}])
def test_nothing_is_said_where_the_versions_are_equal_or_unknown(generate, settings):
    generate(OLD, error_rate=0.5)
    summary, logged = generate(OLD, **settings)
    assert not warnings_in(logged)
    assert not history_of(summary.path)
    assert set(engines_of(summary.path)) == {(OLD,)}


def test_parts_of_a_release_that_wrote_no_engine_are_kept_in_silence(generate):
    generate(None, error_rate=0.5)
    summary, logged = generate(NEW, retry_errors=True)
    assert not warnings_in(logged)
    assert not history_of(summary.path)
    assert (NEW,) in engines_of(summary.path)


def test_a_run_resumed_with_another_version_says_so_in_the_summary(generate, tmp_path):
    generate(OLD)
    (tmp_path / "candidates" / "part-00001-of-00003.parquet").unlink()
    summary, _ = generate(NEW)
    assert engines_of(summary.path) == [(OLD,), (NEW,), (OLD,)]
    assert f"sampled by {OLD} and {NEW}" in summary.notes

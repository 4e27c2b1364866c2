"""``--on ray``: the same rows from a cluster, and what is left when its actors, its nodes or the driver are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pipelines import (
    assert_only_parts,
    assert_same_artifact,
    digests_of,
    identities_of,
    write_prompts,
)
from support.worker_runs import Ended, Running, await_true, run_command

pytest.importorskip("ray", reason="pip install 'prefpipe[ray]'")

from support.ray_cluster import (
    NODE,
    TwoNodes,
    actors_of,
    ours_on_it,
    two_nodes,
    variable_of,
    workers_of,
)

pytestmark = pytest.mark.slow

N_PROMPTS = 48


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("ray") / "prompts.jsonl", N_PROMPTS)


@pytest.fixture(scope="module")
def candidates(prompts: Path) -> Path:
    """What one process makes."""
    output = prompts.parent / "candidates"
    assert run_command(*generate(prompts, output)).code == 0
    return output


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: TwoNodes) -> Iterator[None]:
    """Every test ends with no process of prefpipe's on the cluster."""
    yield
    assert await_true(lambda: not ours_on_it()), ours_on_it()


def generate(prompts: Path, output: Path, delay_s: float = 0.0) -> list[object]:
    """Return a command that makes 24 parts of two prompts, each of 4 times ``delay_s``."""
    sampling = ["--backend", "fake", "--model", f"fake:delay_s={delay_s}", "--n", 2]
    return ["generate", prompts, *sampling, "--part-size", 2, "-o", output]


def on(cluster: TwoNodes, n_workers: int = 2) -> list[object]:
    return ["--workers", n_workers, "--on", f"ray:{cluster.address}"]


def await_workers(running: Running, n: int) -> list[int]:
    """Return a command's workers once there are so many, fewer when it has ended."""
    await_true(lambda: len(workers_of(running.mark)) >= n or running.process.poll() is not None, 40)
    return workers_of(running.mark)


def await_parts(output: Path, n: int) -> None:
    assert await_true(lambda: len(list(output.glob("part-*"))) >= n, 40)


def assert_made(ended: Ended, output: Path, candidates: Path) -> None:
    assert ended.code == 0, ended.stderr
    assert_same_artifact(output, candidates)


def test_the_rows_are_those_of_one_process_and_ray_is_not_heard(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = Running([*generate(prompts, output, 0.05), *on(cluster)], "rows")
    assert len(await_workers(running, 2)) == 2
    actors = actors_of("rows")
    ended = running.end()
    assert_made(ended, output, candidates)
    for part in candidates.glob("part-*"):
        assert (output / part.name).read_bytes() == part.read_bytes()
    assert len(set(actors)) == 2
    assert ended.stdout.strip() == str(output)
    assert "raylet" not in ended.stderr
    assert f"Ray cluster at {cluster.address}: 2 of 2 CPUs free on 2 nodes" in ended.stderr


def test_killed_actors_and_workers_cost_only_their_open_parts(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """8 kills in a run, of actors and of the processes that they hold."""
    moments = random.Random(3)
    n_kills = {"actors": 0, "workers": 0}
    output = tmp_path / "out"
    running = Running([*generate(prompts, output, 0.35), *on(cluster)], "kills")
    for number in range(8):
        if len(await_workers(running, 2)) < 2:
            break
        # A worker has made a part, as a rule: a place whose workers make none stays empty.
        time.sleep(moments.uniform(1.0, 2.0))
        kind = moments.choice(["actors", "workers"])
        victims = sorted(actors_of("kills") if kind == "actors" else workers_of("kills"))
        if len(victims) == 2:
            os.kill(victims[number % 2], signal.SIGKILL)
            n_kills[kind] += 1
            time.sleep(0.3)
    assert_made(running.end(120), output, candidates)
    print(n_kills)
    # how many of the eight fall into the run depends on the machine's speed
    assert sum(n_kills.values()) >= 1


def test_a_node_that_is_lost_in_the_middle(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    running = Running([*generate(prompts, output, 0.15), *on(cluster)], "node")
    assert len(await_workers(running, 2)) == 2
    await_parts(output, 3)
    cluster.lose_node()
    n_made = len(list(output.glob("part-*")))
    cluster.add_node()
    ended = running.end()
    assert_made(ended, output, candidates)
    assert n_made < 24
    assert "worker" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_driver_that_is_killed_leaves_nothing_and_the_same_command_goes_on(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    words = [*generate(prompts, output, 0.1), *on(cluster)]
    for number, struck in enumerate((signal.SIGKILL, signal.SIGTERM)):
        running = Running(words, f"driver-{number}")
        await_workers(running, 2)
        await_parts(output, 3 + 5 * number)
        running.process.send_signal(struck)
        ended = running.end()
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 75}[struck]
        assert ended.code == expected, ended.stderr
        assert await_true(lambda: not ours_on_it()), ours_on_it()
    kept = identities_of(output)
    assert 3 <= len(kept) < 24
    assert_made(run_command(*words), output, candidates)
    now = identities_of(output)
    assert {name: now[name] for name in kept} == kept


def test_two_drivers_at_once_make_one_artifact(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """One worker each, on the same parts: both end well, and every part is whole."""
    output = tmp_path / "out"
    words = [*generate(prompts, output, 0.02), *on(cluster, 1)]
    both = [Running(words, f"both-{number}") for number in range(2)]
    for running in both:
        ended = running.end()
        assert ended.code == 0, ended.stderr
    assert digests_of(output) == digests_of(candidates)
    assert_only_parts(output)


def test_workers_without_a_place_wait_and_join_when_there_is_room(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """Three workers, two places: the third one joins on a node that comes later."""
    output = tmp_path / "out"
    running = Running([*generate(prompts, output, 0.4), *on(cluster, 3)], "late")
    assert len(await_workers(running, 2)) == 2
    late = cluster.cluster.add_node(num_cpus=1, include_dashboard=False)
    assert len(await_workers(running, 3)) == 3
    ended = running.end()
    cluster.cluster.remove_node(late)
    assert_made(ended, output, candidates)


def test_who_asks_for_more_than_there_is_waits_and_reads_why(
    cluster: TwoNodes, prompts: Path, candidates: Path, tmp_path: Path
) -> None:
    """Two GPUs on no GPU; then a node comes that has two, and each worker sees one of them."""
    output = tmp_path / "out"
    words = [*generate(prompts, output, 0.05), *on(cluster), "--gpus-per-worker", 1]
    running = Running(words, "waits")
    assert running.process.stderr is not None
    said = next(line for line in running.process.stderr if "wait for room" in line)
    assert "2 of 2 workers wait for room on the Ray cluster, 1 GPU and 1 CPU each" in said
    assert "0 of 0 GPUs free" in said

    late = cluster.cluster.add_node(num_cpus=2, num_gpus=2, **NODE)
    workers = await_workers(running, 2)
    assert sorted(variable_of(pid, "CUDA_VISIBLE_DEVICES") for pid in workers) == ["0", "1"]
    assert_made(running.end(), output, candidates)
    cluster.cluster.remove_node(late)


def test_a_node_that_is_not_like_the_others_is_named_before_anything_is_made(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    """A third node has another torch, and a file system of its own where the driver writes."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    described = tmp_path / "elsewhere" / "torch-9.9.9.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")

    join = f"{sys.executable} -m ray.scripts.scripts start --address={cluster.address}"
    script = f"mount -t tmpfs none {hidden} && echo mounted && exec {join} --num-cpus=1 --block"
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(described.parent)},
    )
    assert node.stdout is not None
    if node.stdout.readline() != "mounted\n":
        pytest.skip("this machine does not let a process have mounts of its own")
    assert await_true(lambda: n_nodes(cluster) == 3, 40)

    prompts = write_prompts(hidden / "prompts.jsonl", N_PROMPTS)
    ended = run_command(*generate(prompts, hidden / "out"), *on(cluster))
    node.terminate()
    node.communicate()
    assert ended.code == 2, ended.stderr
    assert "1 of 3 nodes of the Ray cluster cannot make parts" in ended.stderr
    assert "it has torch 9.9.9, not " in ended.stderr
    assert f"it does not see the output folder {hidden / 'out'}" in ended.stderr
    assert f"it does not see {prompts}" in ended.stderr
    assert not list((hidden / "out").glob("part-*"))


def n_nodes(cluster: TwoNodes) -> int:
    return sum(node["Alive"] for node in cluster.cluster.global_state.node_table())

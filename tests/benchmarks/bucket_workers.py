"""Eight workers on one bucket, of which any is killed at any request and comes back.

    make bench-bucket-workers

or, with the number of kills, a seed and one of moto and rclone:

    PYTHONPATH=tests python tests/benchmarks/bucket_workers.py 40 0 moto

Each stage of a chain runs as eight copies of one command with ``--claim``. A proxy before the
server counts requests, and kills the process that sends a certain one: before the server sees it,
when it has seen half of it, or when it has done it. Which requests, is by lot. Every second worker
is on a machine of its own for the others, which miss it by its lease alone. In the end each part is
compared with that of one process in a folder.
"""

import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support.bucket_chain import (
    KILLS,
    Words,
    assert_same_as_local,
    embed,
    generate,
    is_part,
    score,
    select,
    write_checked_prompts,
)
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, environment_for, reach, running_moto, running_rclone
from support.stage_server import Command, StageServer

from prefpipe.artifacts.storage.location import Url

N_WORKERS, N_PARTS, PROMPTS_A_PART = 8, 48, 2
LEASE_S = 2.0
STAGES = ("candidates", "scores", "embeddings", "groups")
LONGEST_LIFE = 60
"""Requests between two kills, at most."""


class Kills:
    """Kills whoever sends the next request of a lot, and counts parts that arrive."""

    def __init__(self, proxy: Proxy, n: int, lots: random.Random) -> None:
        self._lots, self._left = lots, n
        self._lock = threading.Lock()
        self._next = lots.randrange(LONGEST_LIFE)
        self.kinds: Counter[str] = Counter()
        self.arrived: Counter[str] = Counter()
        proxy.fault = self._choose
        proxy.is_done = self._note

    @property
    def n_twice(self) -> int:
        """Parts that arrived once more than needed."""
        return self.arrived.total() - len(self.arrived)

    def _choose(self, request: Request) -> str | None:
        with self._lock:
            self._next -= 1
            if self._left == 0 or self._next > 0:
                return None
            self._left -= 1
            self._next = self._lots.randrange(1, LONGEST_LIFE)
            how = self._lots.choice(KILLS if request.body else ("kill-before", "kill-after"))
            self.kinds[f"{how} {request.method}"] += 1
            return how

    def _note(self, request: Request) -> None:
        if is_part(request):
            with self._lock:
                self.arrived[request.target] += 1


def main() -> None:
    """Run the chain once, and print figures."""
    n_kills, seed, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    lots = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="bucket-workers-"))
    prompts = write_checked_prompts(folder / "prompts.jsonl", N_PARTS * PROMPTS_A_PART)
    (folder / "streams").mkdir()
    server = running_moto() if kind == "moto" else running_rclone(folder / "rclone")
    with server as url, running_proxy(url) as proxy, pytest.MonkeyPatch.context() as patch:
        reach(url, patch)
        variables = {**environment_for(proxy.url), "PREFPIPE_CACHE": str(folder / "cache")}
        stages = StageServer(folder / "streams", ("s3fs",), variables)
        local, root = folder / "local", Url("s3", f"{BUCKET}/spot")
        words_of_stage = {"generate": lambda r, *m: generate(prompts, r, *m)}
        words_of_stage |= {"score": score, "embed": embed, "select": select}
        for words in words_of_stage.values():
            outcome = stages.run(*words(local))
            assert outcome.code == 0, outcome.stderr

        total: Counter[str] = Counter()
        for number, (stage, words) in enumerate(words_of_stage.items()):
            # what the stages before have left is for the later ones
            n_now = (n_kills * (number + 1)) // 4 - (n_kills * number) // 4
            kills = Kills(proxy, n_now, lots)
            began = time.monotonic()
            claimed = words(root, "--claim", "--lease-seconds", LEASE_S)
            outcomes = stages.run_at_once(list(workers(claimed, n_kills)))
            elapsed_s = time.monotonic() - began
            for outcome in outcomes:
                assert outcome.code == 0, outcome.stderr
            n_over = sum(each.stderr.count("was left behind by") for each in outcomes)
            total.update(kills.kinds)
            print(
                f"{kind} {stage}: {kills.kinds.total()} kills, {len(kills.arrived)} parts, "
                f"{kills.n_twice} of them made twice, {n_over} taken over, {elapsed_s:.0f} s",
                flush=True,
            )
        proxy.heal()
        assert_same_as_local(root, local, STAGES)
        stages.stop()
    print(
        f"{kind}: {total.total()} kills, every part as in a folder: {dict(sorted(total.items()))}"
    )


def workers(words: Words, n_kills: int) -> list[Command]:
    """Return the copies of one command."""
    machines = itertools.cycle(["", "elsewhere"])
    return [
        Command(
            words,
            machine=f"{machine}{number}" if machine else "",
            starts_again=n_kills,
            limit_s=900,
        )
        for number, machine in zip(range(N_WORKERS), machines, strict=False)
    ]


if __name__ == "__main__":
    main()

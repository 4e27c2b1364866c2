"""A chain of commands over a bucket: its words, what kills them on the way, and what they leave.

Everything but prompts and models lies under a root, which may as well be a folder.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from prefpipe.artifacts import run_record
from prefpipe.artifacts.bucket_footers import FILE_NAME as FOOTERS
from prefpipe.artifacts.parts import part_name
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url, parse_location, place_below
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from support.faulty_proxy import Request
from support.pipelines import write_json_lines

KILLS = ("kill-before", "kill-half", "kill-after")
N_PARTS, PROMPTS_A_PART = 3, 2
STAGES = ("candidates", "scores", "embeddings", "groups", "eval")
"""Folders of the artifacts, in the order in which they are made."""

Words = list[str]


def write_checked_prompts(path: Path, n: int = N_PARTS * PROMPTS_A_PART) -> Path:
    """Write prompts whose checks a fake answer passes now and then."""
    checks = [{"type": "words", "max": 12}, {"type": "words", "min": 6, "weight": 2.0}]
    rows = [{"prompt_id": f"p{i}", "prompt": f"question {i}", "checks": checks} for i in range(n)]
    return write_json_lines(path, rows)


def words_of(*words: object) -> Words:
    """Return a command line."""
    return [str(word) for word in words]


def generate(prompts: object, root: object, *more: object) -> Words:
    """Return the command that samples."""
    words = words_of("generate", prompts, "-o", f"{root}/candidates", "--backend", "fake")
    words += words_of("--model", "fake", "--n", 4, "--part-size", PROMPTS_A_PART)
    return [*words, *words_of(*more)]


def score(root: object, *more: object) -> Words:
    """Return the command that rates."""
    words = words_of("score", f"{root}/candidates", "-o", f"{root}/scores")
    return [*words, *words_of("--scorer", "checks", *more)]


def embed(root: object, *more: object) -> Words:
    """Return the command that embeds."""
    words = words_of("embed", f"{root}/candidates", "-o", f"{root}/embeddings")
    return [*words, *words_of("--model", "fake", *more)]


def select(root: object, *more: object) -> Words:
    """Return the command that selects."""
    words = words_of("select", f"{root}/candidates", "--scores", f"{root}/scores")
    words += words_of("--embeddings", f"{root}/embeddings", "-o", f"{root}/groups")
    return [*words, *words_of("--k", 2, *more)]


def evaluate(root: object, *more: object) -> Words:
    """Return the command that compares: here candidates with themselves."""
    words = words_of("eval", "--policy", f"{root}/candidates", "--baseline", f"{root}/candidates")
    words += words_of("--policy-scores", f"{root}/scores", "--baseline-scores", f"{root}/scores")
    return [*words, *words_of("-o", f"{root}/eval", "--no-kl", *more)]


def chain(prompts: object, root: object) -> list[Words]:
    """Return the five commands."""
    return [
        generate(prompts, root),
        score(root),
        embed(root),
        select(root),
        evaluate(root),
    ]


class KillAt:
    """Chooses a fault for the n-th request (from 0) of those that a question is answered yes for."""

    def __init__(
        self, n: int, how: str, counts: Callable[[Request], bool] = lambda _request: True
    ) -> None:
        self._n, self._how, self._counts = n, how, counts
        self._lock = threading.Lock()
        self.n_seen = 0
        self.request: Request | None = None
        """The one that it was."""

    def __call__(self, request: Request) -> str | None:
        """Return the fault."""
        if not self._counts(request):
            return None
        with self._lock:
            number = self.n_seen
            self.n_seen += 1
        if number != self._n:
            return None
        self.request = request
        # half of what has no body is the whole, which the server does at some later time
        return "kill-before" if self._how == "kill-half" and not request.body else self._how


def is_writing(request: Request) -> bool:
    """Return whether a request changes what is in the bucket."""
    return request.method not in ("GET", "HEAD")


def is_part(request: Request) -> bool:
    """Return whether a request writes a part."""
    return request.method == "PUT" and ".parquet" in request.target


def tree(root: Location) -> dict[str, bytes]:
    """Return every file under a root with its bytes."""
    found = files.list_tree(root)
    return {path: files.read(place_below(root, path.split("/"))) for path in sorted(found)}


def parts_of(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return the parts among the files of a tree."""
    return {path: data for path, data in contents.items() if path.endswith(".parquet")}


def assert_same_as_local(root: Url, local: Path, stages: tuple[str, ...] = STAGES) -> None:
    """Compare a bucket with a folder: every byte of every part, each record, and nothing beside."""
    in_bucket = tree(root)
    on_disk = {path: data for path, data in tree(local).items() if path.startswith(stages)}
    expected = parts_of(on_disk)
    assert parts_of(in_bucket).keys() == expected.keys()
    assert {path for path in expected if in_bucket[path] != expected[path]} == set()

    # figures name no places
    for path, data in on_disk.items():
        if path.endswith(SUMMARY_FILE):
            assert without_places(in_bucket[path], root) == without_places(data, local)

    known = set(on_disk) | {f"{stage}/{FOOTERS}" for stage in stages}
    assert set(in_bucket) - known == set(), "nothing is left behind"
    assert open_uploads(root) == []
    for stage in stages:
        of_bucket = run_record.read_run_record(root / stage)
        of_disk = run_record.read_run_record(local / stage)
        assert of_bucket.fingerprint == of_disk.fingerprint
        assert of_bucket.history == of_disk.history
        names = {part_name(index, of_disk.n_parts) for index in range(of_disk.n_parts)}
        assert names <= files.names_in(root / stage)


def without_places(data: bytes, root: Location) -> object:
    """Return what JSON says, a root in it replaced."""
    return json.loads(data.decode().replace(str(root), "ROOT"))


def open_uploads(root: Url) -> list[str]:
    """Return the keys of multipart uploads that were begun under a root and not ended."""
    client = files._bucket_of(root)._files
    try:
        answer = client.call_s3("list_multipart_uploads", Bucket=root.bucket)
    except FileNotFoundError:
        # rclone calls no upload no such upload
        return []
    prefix = root.key.partition("/")[2]
    keys = [upload["Key"] for upload in answer.get("Uploads") or []]
    return [key for key in keys if key.startswith(prefix)]


def url(text: str) -> Url:
    """Return a URL."""
    place = parse_location(text)
    assert isinstance(place, Url)
    return place

"""Requests of each command to a bucket, counted by a proxy in front of an S3 server.

PYTHONPATH=tests python tests/benchmarks/bucket_requests.py [--parts 10 40]

Two sizes give what a command asks for once and what it asks for with each part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, environment_for, running_moto

KINDS = {"PUT": "write", "POST": "write", "LIST": "list", "GET": "read", "HEAD": "read"}
"""What stores charge alike; S3 counts a listing as a write, and deletes for nothing."""


def chain(root: str) -> dict[str, list[str]]:
    """Return the commands by name, in the order in which they are run."""
    generate = f"generate prompts.jsonl -o {root}/candidates --model fake --backend fake --n 4"
    generate += " --part-size 1 --max-tokens 8"
    commands = {
        "generate": generate,
        "generate, again": generate,
        "generate --claim": generate.replace("/candidates", "/claimed") + " --claim",
        "score": f"score {root}/candidates -o {root}/scores --scorer fake",
        "embed": f"embed {root}/candidates -o {root}/embeddings --model fake",
        "select": f"select {root}/candidates --scores {root}/scores "
        f"--embeddings {root}/embeddings -o {root}/groups --strategy bottom-k --k 2",
        "status, one artifact": f"status {root}/candidates",
        "status, these five": f"status {root}",
        "inspect": f"inspect {root}/candidates",
    }
    return {name: words.split() for name, words in commands.items()}


def kind_of(request: Request) -> str:
    """Return how a request is charged: write, list, read or delete."""
    is_listing = request.method == "GET" and ("list-type=" in request.target)
    return KINDS.get("LIST" if is_listing else request.method, "delete")


def counted(proxy: Proxy, folder: Path, n_parts: int) -> dict[str, Counter[str]]:
    """Run the commands over so many parts and return the requests of each by kind."""
    rows = [json.dumps({"prompt": f"question {number}"}) for number in range(n_parts)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    environment = {**os.environ, **environment_for(proxy.url)}
    found = {}
    for name, words in chain(f"s3://{BUCKET}/{n_parts}").items():
        del proxy.requests[:]
        command = [sys.executable, "-m", "prefpipe", *words]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        found[name] = Counter(map(kind_of, proxy.requests))
    return found


def lines(sizes: Sequence[int], small: dict, large: dict) -> list[str]:
    """Return the rows of a table: once, and with each part."""
    found = []
    for name in small:
        cells = []
        for kinds in (("write", "list"), ("read",)):
            few, many = (sum(each[name][kind] for kind in kinds) for each in (small, large))
            slope = (many - few) / (sizes[1] - sizes[0])
            cells.append(f"{few - slope * sizes[0]:.0f} + {slope:.1f} a part")
        found.append(f"| `{name}` | {' | '.join(cells)} |")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--parts", type=int, nargs=2, default=(10, 40))
    sizes = parser.parse_args().parts
    with (
        running_moto() as server,
        running_proxy(server) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        small, large = (counted(proxy, Path(folder), n_parts) for n_parts in sizes)
    print("| command | PUT and LIST | GET and HEAD |")
    print("|---|---|---|")
    print("\n".join(lines(sizes, small, large)))


if __name__ == "__main__":
    main()

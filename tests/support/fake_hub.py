"""A hub on loopback that speaks the HTTP interface of huggingface.co to the real huggingface_hub client.

Repositories with branches and commits, the question before an upload, Git LFS (one PUT, or pieces and their completion),
commits as lines of JSON, listings in pages, downloads by redirect with ranges. Nothing of Xet: clients set
``HF_HUB_DISABLE_XET=1``. It checks what the hub checks: tokens, digests, the parent of a commit, the YAML of a README.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_canaryTokenOfTheFakeHub01"
PAGE = 4
"""Entries of a page of a listing: small, so that there are several."""
ONE_PUT_BYTES = 2 * 2**20
PIECE_BYTES = 2**20
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".pt", ".pth")
REPO = r"(?P<id>[\w.-]+/[\w.-]+)"


class Blob(NamedTuple):
    """A file of a commit."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
        return text.format(self.sha256, len(self.data)).encode()

    @property
    def oid(self) -> str:
        data = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    is_private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        text = json.dumps(
            [len(self.commits), sorted((name, blob.oid) for name, blob in files.items())]
        )
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def head(self, branch: str = "main") -> dict[str, Blob]:
        return self.commits[self.branches[branch]]


class Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class FakeHub(ThreadingHTTPServer):
    """``fault(method, path)`` names what goes wrong with a request: ``cut`` (no answer), ``lost`` (done, and no answer),
    ``busy`` (503), ``half`` (half of the body)."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.pieces: dict[tuple[str, int], bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.fault: Callable[[str, str], str | None] = lambda _method, _path: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def repository(self, repo_id: str, kind: str = "model") -> Repository:
        return self.repositories[kind, repo_id]

    def handle_error(self, *_arguments) -> None:
        """A client that is killed hangs up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_arguments) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        fault = self.server.fault(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "busy":
            self._answer(503, b"busy")
            return
        self._half = fault == "half"
        self._lost = fault == "lost"
        try:
            with self.server.lock:
                self._route(body)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._json({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - names of http.server

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _route(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        for pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match is not None:
                answer(self, match, body)
                return
        raise Refusal(404, "", f"no route for {self.command} {path}")

    # accounts and repositories

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_login(self) -> None:
        if not self._is_known():
            raise Refusal(401, "", "Invalid username or password.")

    def _repository(self, kind: str, repo_id: str) -> Repository:
        found = self.server.repositories.get((kind, repo_id))
        if found is None or (found.is_private and not self._is_known()):
            # the hub does not tell the two apart
            raise Refusal(404 if self._is_known() else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str:
        name = unquote(revision)
        sha = repository.branches.get(name, name)
        if sha not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return sha

    def create(self, _match: re.Match[str], body: bytes) -> None:
        self._require_login()
        wanted = json.loads(body)
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        kind = wanted.get("type", "model")
        prefix = "datasets/" if kind == "dataset" else ""
        url = f"{self.server.url}/{prefix}{repo_id}"
        if (kind, repo_id) in self.server.repositories:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        repository = Repository(wanted.get("visibility") == "private")
        repository.commit("main", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})
        self.server.repositories[kind, repo_id] = repository
        self._json({"url": url, "id": repo_id})

    def branch(self, match: re.Match[str], _body: bytes) -> None:
        self._require_login()
        repository = self._repository(match["kind"], match["id"])
        name = unquote(match["rest"])
        if name in repository.branches:
            raise Refusal(409, "", "Reference already exists")
        repository.branches[name] = repository.branches["main"]
        self._json({})

    def info(self, match: re.Match[str], _body: bytes) -> None:
        repository = self._repository(match["kind"], match["id"])
        sha = self._commit_of(repository, match["rest"] or "main")
        values = {"_id": sha, "id": match["id"], "sha": sha, "private": repository.is_private}
        self._json({**values, "siblings": [], "tags": [], "downloads": 0, "likes": 0})

    def tree(self, match: re.Match[str], _body: bytes) -> None:
        repository = self._repository(match["kind"], match["id"])
        sha = self._commit_of(repository, match["rest"])
        query = parse_qs(urlsplit(self.path).query)
        assert query["recursive"] == ["true"] or query["recursive"] == ["True"]
        entries: dict[str, dict[str, Any]] = {}
        for name, blob in sorted(repository.commits[sha].items()):
            for above in range(1, name.count("/") + 1):
                folder = "/".join(name.split("/")[:above])
                entries[folder] = {"type": "directory", "oid": "0" * 40, "path": folder, "size": 0}
            entry: dict[str, Any] = {
                "type": "file",
                "path": name,
                "oid": blob.oid,
                "size": len(blob.data),
            }
            if blob.is_lfs:
                entry["lfs"] = {
                    "oid": blob.sha256,
                    "size": len(blob.data),
                    "pointerSize": len(blob.pointer),
                }
            entries[name] = entry
        first = int(query.get("cursor", ["0"])[0])
        page = list(entries.values())[first : first + PAGE]
        headers = {}
        if first + PAGE < len(entries):
            path = urlsplit(self.path).path
            following = f"{self.server.url}{path}?recursive=true&cursor={first + PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json(page, 200, headers)

    # uploads

    def validate(self, _match: re.Match[str], body: bytes) -> None:
        content = json.loads(body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        if head is None:
            self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
            return
        try:
            values = yaml.safe_load(head[1])
            assert isinstance(values, dict)
        except (yaml.YAMLError, AssertionError) as error:
            self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def preupload(self, match: re.Match[str], body: bytes) -> None:
        self._require_login()
        repository = self._repository(match["kind"], match["id"])
        files = repository.commits[self._commit_of(repository, match["rest"])]
        answers = []
        for file in json.loads(body)["files"]:
            sample = base64.b64decode(file["sample"])
            is_lfs = file["path"].endswith(LFS_SUFFIXES) or b"\0" in sample or file["size"] > 10**7
            answer = {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular"}
            there = files.get(file["path"])
            if there is not None:
                answer["oid"] = there.sha256 if there.is_lfs else there.oid
            answers.append({**answer, "shouldIgnore": False})
        self._json({"files": answers})

    def batch(self, match: re.Match[str], body: bytes) -> None:
        self._require_login()
        self._repository("dataset" if match["dataset"] else "model", match["id"])
        wanted = json.loads(body)
        assert wanted["operation"] == "upload"
        answers = []
        for each in wanted["objects"]:
            answer: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.server.objects:
                verify = {"href": f"{self.server.url}/lfs/verify", "header": {}}
                answer["actions"] = {"upload": self._upload_of(each), "verify": verify}
            answers.append(answer)
        transfer = "multipart" if "multipart" in wanted["transfers"] else "basic"
        self._json({"transfer": transfer, "objects": answers})

    def _upload_of(self, wanted: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.server.url}/lfs/objects/{wanted['oid']}"
        if wanted["size"] <= ONE_PUT_BYTES:
            return {"href": place, "header": {}}
        n_pieces = -(-wanted["size"] // PIECE_BYTES)
        pieces = {str(number): f"{place}/{number}" for number in range(1, n_pieces + 1)}
        return {"href": f"{place}/complete", "header": {"chunk_size": str(PIECE_BYTES), **pieces}}

    def put_object(self, match: re.Match[str], body: bytes) -> None:
        assert self.headers.get("Authorization") is None, "a token goes to the hub and nowhere else"
        if match["number"] is not None:
            self.server.pieces[match["oid"], int(match["number"])] = body
            tag = f'"{hashlib.md5(body).hexdigest()}"'
            self._answer(200, b"", {"ETag": tag})
            return
        self._keep(match["oid"], body)
        self._answer(200, b"")

    def complete(self, match: re.Match[str], body: bytes) -> None:
        parts = json.loads(body)["parts"]
        pieces = []
        for part in parts:
            piece = self.server.pieces.pop((match["oid"], part["partNumber"]))
            assert part["etag"].strip('"') == hashlib.md5(piece).hexdigest()
            pieces.append(piece)
        self._keep(match["oid"], b"".join(pieces))
        self._json({"success": True})

    def _keep(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "", "sha256 mismatch")
        self.server.objects[oid] = data

    def verify(self, _match: re.Match[str], body: bytes) -> None:
        self._require_login()
        wanted = json.loads(body)
        if len(self.server.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "", "object not found")
        self._json({})

    def commit(self, match: re.Match[str], body: bytes) -> None:
        self._require_login()
        repository = self._repository(match["kind"], match["id"])
        branch = unquote(match["rest"])
        head = self._commit_of(repository, branch)
        files = dict(repository.commits[head])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(
                        412, "", "A commit has happened since. Please refresh and try again."
                    )
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise Refusal(400, "", f"LFS object {value['oid']} is not uploaded")
                files[value["path"]] = Blob(self.server.objects[value["oid"]], True)
            elif item["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
            else:
                raise Refusal(400, "", f"unknown operation {item['key']}")
        sha = repository.commit(branch, files)
        prefix = "datasets/" if match["kind"] == "dataset" else ""
        url = f"{self.server.url}/{prefix}{match['id']}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # downloads

    def resolve(self, match: re.Match[str], _body: bytes) -> None:
        repository = self._repository("dataset" if match["dataset"] else "model", match["id"])
        sha = self._commit_of(repository, match["revision"])
        blob = repository.commits[sha].get(unquote(match["path"]))
        headers = {"X-Repo-Commit": sha}
        if blob is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        if blob.is_lfs:
            # elsewhere, as the hub's large files are: the client must not send its token there
            headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.sha256}"'}
            place = f"http://localhost:{self.server.server_address[1]}/cdn/{blob.sha256}"
            self.server.objects[blob.sha256] = blob.data
            self._answer(302, b"", {**headers, "Location": place})
            return
        self._send(blob.data, {**headers, "ETag": f'"{blob.oid}"'})

    def cdn(self, match: re.Match[str], _body: bytes) -> None:
        assert self.headers.get("Authorization") is None, "a token goes to the hub and nowhere else"
        self._send(self.server.objects[match["oid"]], {"ETag": f'"{match["oid"]}"'})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is not None:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        self._answer(status, data, headers)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self._answer(status, data, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        if getattr(self, "_lost", False):
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if getattr(self, "_half", False):
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)


API = rf"/api/(?P<kind>model|dataset)s/{REPO}"
ROUTES: list[tuple[str, Callable[[Handler, re.Match[str], bytes], None]]] = [
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"{API}/branch/(?P<rest>[^/]+)", Handler.branch),
    (rf"{API}(?:/revision/(?P<rest>[^/]+))?", Handler.info),
    (rf"{API}/tree/(?P<rest>[^/]+)", Handler.tree),
    (rf"{API}/preupload/(?P<rest>[^/]+)", Handler.preupload),
    (rf"{API}/commit/(?P<rest>[^/]+)", Handler.commit),
    (rf"/(?P<dataset>datasets/)?{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/objects/(?P<oid>[0-9a-f]{64})/complete", Handler.complete),
    (r"/lfs/objects/(?P<oid>[0-9a-f]{64})(?:/(?P<number>\d+))?", Handler.put_object),
    (r"/lfs/verify", Handler.verify),
    (rf"/(?P<dataset>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    (r"/cdn/(?P<oid>[0-9a-f]{64})", Handler.cdn),
]


def hub_environment(url: str, home: str, token: str = TOKEN) -> dict[str, str]:
    """Return what a process is given to find the hub: the usual variables, and a home of its own."""
    return {
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@contextlib.contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Yield a hub with nothing in it."""
    hub = FakeHub()
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()

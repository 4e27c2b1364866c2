"""What stands after --model: folders, files, bundled names and the hub.

The hub is a real cache or a local server here.
"""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm

from prefpipe.errors import ModelError
from prefpipe.models.location import locate_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture
def hub_cache(policy, tmp_path, monkeypatch):
    """A hub cache that holds org/tiny at one commit, as a download leaves it, and no network."""
    cache = tmp_path / "hub"
    repo = cache / "models--org--tiny"
    shutil.copytree(policy, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """A server in the hub's place.

    Call it with a status and headers, and it answers every request so.
    """
    answer = {"status": 404, "headers": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer["status"])
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_HEAD = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield answer.update
    server.shutdown()
    server.server_close()


def test_locate_model_takes_a_folder_as_it_is(policy):
    model = locate_model(str(policy))
    assert (model.path, model.requested, model.revision) == (policy, str(policy), None)


def test_a_relative_folder_wins_over_the_hub(policy, hub_cache, tmp_path, monkeypatch):
    shutil.copytree(policy, tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert locate_model("org/tiny").revision is None


def test_a_hub_name_resolves_to_its_commit_without_a_network(hub_cache):
    model = locate_model("org/tiny")
    assert model.revision == COMMIT
    assert model.path == hub_cache / "models--org--tiny" / "snapshots" / COMMIT
    assert locate_model(f"org/tiny@{COMMIT}").revision == COMMIT
    assert locate_model("org/tiny@main").identity() == model.identity()


@pytest.mark.parametrize("reference", ["org/absent", "org/tiny@v2"])
def test_offline_and_not_in_the_cache_says_what_to_fetch(hub_cache, reference):
    with pytest.raises(
        ModelError, match=f"the model {reference} is not in the hub cache of this machine"
    ) as caught:
        locate_model(reference)
    name, _, revision = reference.partition("@")
    assert f"hf download {name}" in caught.value.hint
    assert f"--revision {revision}" in caught.value.hint or not revision


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("GatedRepo", 403, "the model org/x@v9 is gated"),
        ("RepoNotFound", 404, "no model folder 'org/x' here and no such model on the hub"),
        ("RevisionNotFound", 404, "the model org/x has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(hub_server, code, status, message):
    hub_server(status=status, headers={"X-Error-Code": code, "X-Error-Message": "no"})
    with pytest.raises(ModelError) as caught:
        locate_model("org/x@v9")
    assert message in caught.value.message


@pytest.mark.parametrize(
    "reference", ["./absent", "/absent/model", "a/b/c", "~nobody/x", "gpt2", "org/name@", ""]
)
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused(reference, hub_cache):
    with pytest.raises(ModelError, match="it is not a folder here and not a hub name") as caught:
        locate_model(reference)
    assert repr(reference) in caught.value.message


def test_locate_model_refuses_a_file_that_is_no_gguf(policy):
    with pytest.raises(ModelError, match=r"config\.json is a file, not a model folder") as caught:
        locate_model(str(policy / "config.json"))
    assert str(policy) in caught.value.hint


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no GGUF file at .*absent\.gguf"):
        locate_model(str(tmp_path / "absent.gguf"))


def write_adapter(policy, folder, reference, revision=None):
    make_tiny_adapter(folder, policy)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": reference, "revision": revision}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_another_base_can_stand_in_for_the_one_that_an_adapter_names(policy, hub_cache, tmp_path):
    """The named one need not be there; for a whole model there is nothing to stand in for."""
    folder = write_adapter(policy, tmp_path / "adapter", "org/nowhere")
    with pytest.raises(ModelError, match="org/nowhere"):
        locate_model(folder)
    found = locate_model(folder, base=f"org/tiny@{COMMIT}")
    assert (found.base.requested, found.base.revision) == (f"org/tiny@{COMMIT}", COMMIT)
    assert locate_model(str(policy), base="org/nowhere").base is None


def test_the_base_of_an_adapter_may_be_a_folder_a_neighbour_or_a_hub_name(
    policy, hub_cache, tmp_path
):
    shutil.copytree(policy, tmp_path / "base")
    for number, (reference, revision) in enumerate(
        [(str(policy), None), ("../base", None), ("org/tiny", COMMIT)]
    ):
        adapter = locate_model(
            write_adapter(policy, tmp_path / f"adapter-{number}", reference, revision)
        )
        assert adapter.kind == "adapter"
        assert adapter.base.content_hash == locate_model(str(policy)).content_hash
        assert adapter.base.revision == revision


def test_an_adapter_whose_base_cannot_be_found_names_both(policy, hub_cache, tmp_path):
    reference = write_adapter(policy, tmp_path / "adapter", "org/absent")
    with pytest.raises(
        ModelError,
        match=r"the adapter in .*adapter needs its base model 'org/absent': "
        "the model org/absent is",
    ):
        locate_model(reference)

"""``prefpipe push`` and ``prefpipe pull``: to a bucket or the hub, and back."""

from typing import TYPE_CHECKING, Any

from prefpipe.configs.push import PullConfig, PushConfig

if TYPE_CHECKING:
    from prefpipe.execution.runtime import Runtime


def push(config: PushConfig) -> None:
    """Push, and print the URL or what was copied."""
    from prefpipe.cli import stderr
    from prefpipe.text.numbers import byte_size, counted
    from prefpipe.wiring.push import push_folder

    done = push_folder(config, _runtime())
    stderr.log(
        f"{counted(done['files'], 'file')}, {byte_size(done['bytes'])}: {done['copied']:,} copied "
        f"({byte_size(done['bytes_copied'])}), {done['files'] - done['copied']:,} were there; "
        f"{_checks_of(done)}"
    )
    _pipe(done, done["url"], as_json=config.as_json)


def pull(config: PullConfig) -> None:
    """Pull, and print the folder or what was copied."""
    from prefpipe.cli import stderr
    from prefpipe.text.numbers import byte_size, counted
    from prefpipe.wiring.push import pull_folder

    done = pull_folder(config, _runtime())
    parts = ""
    if done["parts_verified"]:
        parts = f", and the own digest of {counted(done['parts_verified'], 'part')}"
    compared = "every sha256 is right" if done["compared_with_manifest"] else "every size is right"
    stderr.log(
        f"{counted(done['files'], 'file')}, {byte_size(done['bytes'])}: {done['copied']:,} copied "
        f"({byte_size(done['bytes_copied'])}), {done['files'] - done['copied']:,} were here; "
        f"{compared}{parts}"
    )
    _pipe(done, done["folder"], as_json=config.as_json)


def _checks_of(done: dict[str, Any]) -> str:
    if done["read_back"]:
        return "every file was read back and is the same"
    if not done["copied"]:
        return "nothing to do"
    by_digest, by_size = done["checked_by_digest"], done["checked_by_size"]
    if not by_size:
        return "the store's digests agree"
    if not by_digest:
        return "the store's sizes agree; --verify reads all back"
    return f"the store's sizes agree, and its digests of {by_digest:,}; --verify reads all back"


def _runtime() -> "Runtime":
    from prefpipe.cli import stderr
    from prefpipe.cli.signals import stop_request
    from prefpipe.execution.runtime import Runtime

    stop_request.live_height = lambda: stderr.live_view.height
    return Runtime(
        log=stderr.log,
        should_stop=stop_request,
        finishing=stop_request.finishing,
        progress=stderr.live_view.progress,
    )


def _pipe(done: dict[str, Any], path: str, *, as_json: bool) -> None:
    from prefpipe.cli import stdout

    if as_json:
        stdout.pipe_json(done)
    else:
        stdout.pipe(path)

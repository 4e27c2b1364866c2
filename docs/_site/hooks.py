"""What mkdocs does not do to the pages: folders in the navigation, and links to files outside of docs/."""

import re
from pathlib import Path

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<mark>`{3,}).*?^(?P=mark)\s*?$", re.MULTILINE | re.DOTALL)
COMMENT_LINE = re.compile(r"^<!--.*?-->\n", re.MULTILINE)
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<target>[^)\s]+)\)")


def on_config(config):
    """Write a folder of the navigation out as those of its pages that it does not name, README.md first."""
    named = set(_pages(config.nav))
    config.nav = _with_folders(config.nav, Path(config.docs_dir), named)
    return config


def _pages(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for one in inner for page in _pages(one)]


def _with_folders(entry, docs: Path, named: set[str]):
    if isinstance(entry, dict):
        return {title: _with_folders(inner, docs, named) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [_with_folders(inner, docs, named) for inner in entry]
    if not entry.endswith("/"):
        return entry
    pages = sorted((docs / entry).glob("*.md"), key=lambda one: (one.name != "README.md", one.name))
    uris = [page.relative_to(docs).as_posix() for page in pages]
    return [uri for uri in uris if uri not in named]


def on_files(files, config):
    """Add the files outside of docs/ that a page links to: the site then holds what it names."""
    for page in list(files.documentation_pages()):
        for target in LINK.finditer(FENCE.sub("", page.content_string)):
            outside = _outside(page.src_uri, target["target"], Path(config.docs_dir))
            if outside is not None and outside.is_file():
                uri = _uri_of(outside)
                if files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, abs_src_path=str(outside)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links outside of docs/ at the site's copies, and take out the lines that only tests read."""

    def mend(link: re.Match[str]) -> str:
        outside = _outside(page.file.src_uri, link["target"], Path(config.docs_dir))
        if outside is None:
            return link[0]
        if outside.is_dir():
            return link["text"].strip("[]")  # a folder has no page
        up = "../" * page.file.src_uri.count("/")
        return f"{link['text']}({up}{_uri_of(outside)})"

    pieces, at = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [_mended(markdown[at : fence.start()], mend), fence[0]]
        at = fence.end()
    return "".join([*pieces, _mended(markdown[at:], mend)])


def _mended(text: str, mend) -> str:
    return LINK.sub(mend, COMMENT_LINE.sub("\n", text))


def _outside(page_uri: str, target: str, docs: Path) -> Path | None:
    """Return the file outside of docs/ that a link names, or None."""
    if re.match(r"[a-z]+:|#", target):
        return None
    file = (docs / page_uri).parent.joinpath(target.partition("#")[0]).resolve()
    return None if file.is_relative_to(docs) or not file.exists() else file


def _uri_of(outside: Path) -> str:
    # .txt: a browser shows it, and mkdocs does not take it for a page
    return f"source/{outside.relative_to(REPOSITORY).as_posix()}.txt"

"""A bucket whose listings are late: they show what was there some requests ago."""

import threading
import urllib.request
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

from support.faulty_proxy import Proxy, Request
from support.s3_servers import BUCKET

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class LateListings:
    """Answers listings in a server's place, with its own of ``n_late`` requests ago."""

    def __init__(self, proxy: Proxy, server: str, n_late: int) -> None:
        self._server, self._n_late = server, n_late
        self._lock = threading.Lock()
        self._n_requests = 0
        self._before: list[tuple[int, bytes]] = []
        """What was there before each request that wrote, with its number."""
        self.n_answered = 0
        proxy.fault = self._look
        proxy.answer = self._answer

    def catch_up(self) -> None:
        """Let listings show all that is there now."""
        with self._lock:
            self._before.clear()

    def _look(self, request: Request) -> None:
        with self._lock:
            self._n_requests += 1
            if request.method in ("PUT", "POST", "DELETE"):
                url = f"{self._server}/{BUCKET}?list-type=2&max-keys=1000"
                with urllib.request.urlopen(url) as answer:
                    self._before.append((self._n_requests, answer.read()))

    def _answer(self, request: Request) -> bytes | None:
        if request.method != "GET" or "list-type=2" not in request.target:
            return None
        with self._lock:
            late = [all_ for n, all_ in self._before if n > self._n_requests - self._n_late]
            if not late:
                return None
            self.n_answered += 1
        asked = parse_qs(urlsplit(request.target).query)
        body = _part_of(late[0], asked.get("prefix", [""])[0], asked.get("delimiter", [""])[0])
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _part_of(listing: bytes, prefix: str, delimiter: str) -> bytes:
    """Return what a listing of everything shows under a prefix, up to the next delimiter."""
    ET.register_namespace("", NAMESPACE)
    root = ET.fromstring(listing)
    folders = []
    for entry in root.findall(f"{{{NAMESPACE}}}Contents"):
        key = entry.findtext(f"{{{NAMESPACE}}}Key") or ""
        rest = key.removeprefix(prefix)
        if key.startswith(prefix) and not (delimiter and delimiter in rest):
            continue
        root.remove(entry)
        if key.startswith(prefix):
            folder = f"{prefix}{rest.partition(delimiter)[0]}{delimiter}"
            if folder not in folders:
                folders.append(folder)
    for folder in folders:
        shown = ET.SubElement(root, f"{{{NAMESPACE}}}CommonPrefixes")
        ET.SubElement(shown, f"{{{NAMESPACE}}}Prefix").text = folder
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)

"""Addresses of servers: one that holds a secret would be recorded with it."""

from urllib.parse import urlsplit, urlunsplit


def address_with_secret(address: str) -> str | None:
    """Return an address without its secret, for a message; None if it holds none.

    A user, a password, a query (``?api_key=...``) or a fragment counts as a secret.
    """
    try:
        parts = urlsplit(address)
        has_user = "@" in parts.netloc
    except ValueError:
        return None  # no address: the client says so
    if not (has_user or parts.query or parts.fragment):
        return None
    place = parts.netloc.rpartition("@")[2]
    shown = urlunsplit((parts.scheme, f"***@{place}" if has_user else place, parts.path, "", ""))
    return f"{shown}?***" if parts.query or parts.fragment else shown

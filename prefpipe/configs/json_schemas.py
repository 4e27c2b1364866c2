"""A JSON schema in a file, which responses are to keep to."""

import hashlib
import json
from typing import NamedTuple

from prefpipe.artifacts.storage.local_copies import local_copy
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.tables.strict_json import explained, parse_json
from prefpipe.errors import InputError
from prefpipe.text.json_schema import schema_problem


class JsonSchema(NamedTuple):
    """A schema as JSON text without white space, and the sha256 of its file.

    Properties stand in the order of the file: an engine writes them in this order.
    """

    text: str
    sha256: str


def read_json_schema(place: Location) -> JsonSchema:
    """Return the schema in a file.

    Raises:
        InputError: there is no such file, it is no JSON, or no JSON schema.
    """
    try:
        with local_copy(place) as file:
            content = file.path.read_bytes()
        schema = parse_json(content.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8") from error
    except ValueError as error:
        raise InputError(f"{place} is no JSON: {explained(error)}") from error

    if not isinstance(schema, dict):
        raise InputError(f"{place} is no JSON schema: it must hold an object, {{...}}")
    problem = schema_problem(schema)
    if problem is not None:
        raise InputError(f"{place} is no JSON schema: {problem}")
    try:
        text = json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise InputError(f"{place} is no JSON schema: a number is NaN or infinite") from error
    return JsonSchema(text, hashlib.sha256(content).hexdigest())

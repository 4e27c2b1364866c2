"""Checks a JSON schema before a model is loaded that must follow it.

It checks the form of the keywords of draft 2020-12 that constrain values. Unknown keywords are
allowed, as in the draft. The engine itself reports which keywords it supports. Source:
https://json-schema.org/draft/2020-12/json-schema-validation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prefpipe.spelling import did_you_mean

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
ONE_SCHEMA = (
    "items",
    "additionalProperties",
    "propertyNames",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
SEVERAL_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def schema_problem(schema: Any) -> str | None:
    """Return the first problem of a schema with its place; None if it is valid."""
    return next(_problems(schema, schema, "the schema"), None)


def _problems(schema: Any, root: Any, place: str) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{place} is {_words(schema)}; a schema must be an object"
        return

    yield from _type_problems(schema, place)
    yield from _value_problems(schema, place)
    if "$ref" in schema:
        yield from _reference_problems(schema["$ref"], root, place)

    for keyword in ONE_SCHEMA:
        if keyword in schema:
            yield from _problems(schema[keyword], root, f"{place}, {keyword}")
    for keyword in SEVERAL_SCHEMAS:
        if keyword not in schema:
            continue
        listed = schema[keyword]
        if not isinstance(listed, list) or not listed:
            yield f"{place}, {keyword} is {_words(listed)}; it must be a list of schemas"
            continue
        for number, each in enumerate(listed):
            yield from _problems(each, root, f"{place}, {keyword} {number}")
    for keyword in NAMED_SCHEMAS:
        if keyword not in schema:
            continue
        named = schema[keyword]
        if not isinstance(named, Mapping):
            yield f"{place}, {keyword} is {_words(named)}; it must be an object of schemas"
            continue
        for name, each in named.items():
            yield from _problems(each, root, f"{place}, {keyword}, {name!r}")


def _type_problems(schema: Mapping[str, Any], place: str) -> Iterator[str]:
    given = schema.get("type", [])
    names = given if isinstance(given, list) else [given]
    for name in names:
        if name not in TYPES:
            guess = did_you_mean(name, TYPES) if isinstance(name, str) else ""
            yield f"{place}, type is {name!r}; it must be one of {', '.join(TYPES)}{guess}"


def _value_problems(schema: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yield the keywords whose values have the wrong type."""
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        yield f"{place}, enum is {_words(schema['enum'])}; it must be a list of values"

    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{place}, required is {_words(required)}; it must be a list of names"
    for keyword in COUNTS:
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            yield f"{place}, {keyword} is {value!r}; it must be a whole number of 0 or more"
    for keyword in LIMITS:
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{place}, {keyword} is {value!r}; it must be a number"
    if not isinstance(schema.get("pattern", ""), str):
        yield f"{place}, pattern is {_words(schema['pattern'])}; it must be a text"


def _reference_problems(reference: Any, root: Any, place: str) -> Iterator[str]:
    """Yield a reference that leads nowhere in this schema; no other file is read."""
    if not isinstance(reference, str):
        yield f"{place}, $ref is {_words(reference)}; it must be a text"
        return
    if not reference.startswith("#"):
        yield f"{place}, $ref leads to {reference!r}; it must lead to a place in this file, #/..."
        return
    # An anchor, #name, may be anywhere.
    if reference != "#" and not reference.startswith("#/"):
        return

    target = root
    for step in filter(None, reference.removeprefix("#").split("/")):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, Mapping) and name in target:
            target = target[name]
        else:
            yield f"{place}, $ref leads to {reference!r}, which is not in the schema"
            return


def _words(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: f"the text {value!r}", type(None): "null"}
    return kinds.get(type(value), repr(value))

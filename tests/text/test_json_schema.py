"""What is refused as no JSON schema, with its place."""

import pytest

from prefpipe.text.json_schema import schema_problem

GOOD = [
    {},
    {"type": "object", "properties": {"a": True, "b": {"type": ["string", "null"]}}},
    {
        "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "$ref": "#/$defs/node",
    },
    {"properties": {"a/b": {"type": "string"}}, "items": {"$ref": "#/properties/a~1b"}},
    {"anyOf": [{"const": 1}, {"$ref": "#"}], "description": "of any kind", "x-mine": 3},
    {"type": "integer", "minimum": 0, "exclusiveMaximum": 9.5, "enum": [1, 2]},
    {"$ref": "#name"},
]
BAD = [
    (3, "the schema is 3; a schema must be an object"),
    ({"type": "strng"}, "type is 'strng'; it must be one of object, array, string"),
    ({"type": "strng"}, "did you mean"),
    ({"type": ["string", 3]}, "type is 3"),
    ({"properties": ["a"]}, "properties is a list; it must be an object of schemas"),
    ({"properties": {"a": {"type": "int"}}}, "the schema, properties, 'a', type is 'int'"),
    ({"items": [{"type": "string"}]}, "items is a list; a schema must be an object"),
    ({"anyOf": []}, "anyOf is a list; it must be a list of schemas"),
    ({"oneOf": [True, {"enum": "abc"}]}, "oneOf 1, enum is the text 'abc'"),
    ({"required": "a"}, "required is the text 'a'; it must be a list of names"),
    ({"minLength": -1}, "minLength is -1"),
    ({"maxItems": True}, "maxItems is True"),
    ({"minimum": "0"}, "minimum is '0'; it must be a number"),
    ({"pattern": 7}, "pattern is 7; it must be a text"),
    ({"$ref": "#/$defs/gone"}, "$ref leads to '#/$defs/gone', which is not in the schema"),
    ({"$ref": "other.json"}, "it must lead to a place in this file"),
]


@pytest.mark.parametrize("schema", GOOD)
def test_a_schema_is_one(schema):
    assert schema_problem(schema) is None


@pytest.mark.parametrize(("schema", "words"), BAD)
def test_what_is_none_is_refused_with_its_place(schema, words):
    assert words in schema_problem(schema)


def test_what_is_accepted_and_refused_agrees_with_jsonschema():
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator
    for schema in GOOD:
        checker.check_schema(schema)
    for schema, _ in BAD:
        # where a reference leads, jsonschema looks at only when it needs it
        if isinstance(schema, dict) and "$ref" not in schema:
            with pytest.raises(jsonschema.SchemaError):
                checker.check_schema(schema)

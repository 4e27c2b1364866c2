"""Arguments of a chat template: how they are written, which a template reads, and what it writes with them."""

import pytest
from support.chat_templates import TEMPLATES, make_tokenizer_with

from prefpipe.errors import UsageError
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.template_args import (
    args_read_by,
    read_template_args,
    refuse_contradiction,
    refuse_unread,
    variables_of,
)

HELLO = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("True", True),
        ("false", False),
        ("False", False),
        ("null", None),
        ("3", 3),
        ("-0.5", -0.5),
        ("low", "low"),
        ("26 Jul 2024", "26 Jul 2024"),
        ("2024-07-26", "2024-07-26"),
        ("a=b", "a=b"),
        ('"true"', "true"),
        ('["a", 1]', ["a", 1]),
        ('{"a": {"b": null}}', {"a": {"b": None}}),
        ("", ""),
    ],
)
def test_a_value_is_json_or_else_the_text(written, value):
    args = read_template_args([f"key={written}"])
    assert args == {"key": value}
    assert type(args["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("enable_thinking", "KEY=VALUE"),
        ("enable-thinking=false", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
        ("tools=[]", "`tools` is set by prefpipe"),
        ("add_generation_prompt=false", "is set by prefpipe"),
        ("a=no", "write true or false"),
        ("a=Off", "write true or false"),
        ("a={x", "the value is not JSON"),
        ("a=NaN", "not a finite number"),
        ("a=1e999", "not a finite number"),
        ('a={"b": [NaN]}', "not a finite number"),
        ('a="\\ud800"', "half of a surrogate pair"),
        ("a=" + "[" * 5000, "nested too deep"),
    ],
)
def test_what_is_no_argument_is_named(text, says):
    with pytest.raises(ValueError, match="--template-arg") as caught:
        read_template_args([text])
    assert says in str(caught.value)


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="`a` is given twice"):
        read_template_args(["a=1", "a=1"])


def test_the_variables_of_a_template_are_those_that_it_reads():
    assert "enable_thinking" in variables_of(TEMPLATES["qwen3"])
    assert "date_string" in variables_of(TEMPLATES["llama"])  # although it sets it as well
    assert "ns" not in variables_of(TEMPLATES["qwen3"])
    # a tag of transformers' own
    assert variables_of("{% generation %}{{ depth }}{% endgeneration %}") == {"depth"}
    assert variables_of("{% if %}") is None


@pytest.mark.parametrize(
    ("template", "is_read"),
    [
        ("{{ depth }}", True),
        ("{% if depth is defined %}x{% endif %}", True),
        ("{% if depth is not defined %}{% set depth = 3 %}{% endif %}{{ depth }}", True),
        ("{% set depth = depth | default(3) %}{{ depth }}", True),
        ("{% set depth = depth if depth else 3 %}{{ depth }}", True),
        ("{% set depth = depth %}{{ depth }}", True),
        ("{% macro f(x) %}{{ x }}{{ depth }}{% endmacro %}{{ f(1) }}", True),
        ("{% set depth = 3 %}{{ depth }}", False),
        ("{% for depth in messages %}{{ depth }}{% endfor %}", False),
        ("{% macro f(depth) %}{{ depth }}{% endmacro %}{{ f(1) }}", False),
        # a variable of a loop, set in a branch: jinja2 alone would call it one from outside
        (
            "{% for m in messages %}{% set depth = 1 %}{% if m %}{% set depth = 2 %}{% endif %}{{ depth }}{% endfor %}",
            False,
        ),
        ("{{ messages[0].depth }}", False),
        ("depth", False),
    ],
)
def test_whether_a_value_from_outside_counts(template, is_read):
    assert ("depth" in variables_of(template)) == is_read


def test_an_argument_that_is_never_read_is_refused_with_the_nearest_name():
    refuse_unread(TEMPLATES["qwen3"], {"enable_thinking": False}, "m")
    with pytest.raises(
        UsageError, match=r"never reads `enable_thinkin` \(did you mean `enable_thinking`"
    ) as caught:
        refuse_unread(TEMPLATES["qwen3"], {"enable_thinkin": False}, "org/m")
    assert caught.value.hint == "it reads enable_thinking"
    with pytest.raises(UsageError, match="of org/m never reads") as caught:
        refuse_unread(TEMPLATES["gemma"], {"enable_thinking": False}, "org/m")
    assert caught.value.hint == "it reads no arguments"
    args = {"enable_thinking": False, "other": 1}
    assert args_read_by(TEMPLATES["qwen3"], args) == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("given", "recorded", "is_refused"),
    [
        ({}, {}, False),
        ({}, {"a": 1}, False),
        ({"a": 1}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 2}, {"a": 1}, True),
        ({"b": 1}, {"a": 1}, True),
        ({"a": 1}, {}, True),
    ],
)
def test_what_contradicts_the_candidates_is_refused(given, recorded, is_refused):
    if not is_refused:
        refuse_contradiction(given, recorded, "run/candidates")
        return
    with pytest.raises(UsageError, match="run/candidates were sampled with"):
        refuse_contradiction(given, recorded, "run/candidates")


@pytest.mark.parametrize(
    ("family", "args"),
    [("qwen3", {"enable_thinking": False}), ("llama", {"date_string": "1 Jan 2026"})],
)
def test_the_template_writes_with_its_arguments_what_transformers_writes(family, args):
    tokenizer = make_tokenizer_with(family)
    expected = tokenizer.apply_chat_template(
        HELLO, tokenize=False, add_generation_prompt=True, **args
    )
    text = ChatTemplate(tokenizer, args=args).text(HELLO, add_generation_prompt=True)
    assert text == expected
    assert text != ChatTemplate(tokenizer).text(HELLO, add_generation_prompt=True)

"""YAML in which a key stands once: the format itself lets the last of two win."""

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"
"""Of the key ``<<``, whose mapping's keys give way to those beside it."""


class UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, which refuses a key that occurs twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            ConstructorError: a key occurs twice.
        """
        own = [key for key, _ in node.value if key.tag != _MERGE]
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key `{twice[0]}` occurs twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)

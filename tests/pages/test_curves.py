"""A measure's course is a line of blocks as high as its values."""

import pytest

from prefpipe.pages.curves import curves_table, sparkline


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([0.0, 7.0], "▁█"),
        ([1.0, 1.0], "▁▁"),
        ([float(i) for i in range(8)], "▁▂▃▄▅▆▇█"),
        ([5.0], "▁"),
    ],
)
def test_blocks_are_as_high_as_the_values(values: list[float], blocks: str) -> None:
    assert sparkline(values) == blocks


def test_the_table_has_a_row_for_each_measure() -> None:
    curves = [
        {"name": name, "split": "train", "first": 1.0, "last": 2.0, "curve": [1.0, 2.0]}
        for name in ("a", "b")
    ]
    assert curves_table(curves).row_count == 3  # with the heading

"""Every column says what it holds."""

import pytest

from prefpipe.training.tables import METRICS, POLICY


@pytest.mark.slow
def test_every_column_says_what_it_means():
    assert all(column.meaning for schema in (METRICS, POLICY) for column in schema.columns)

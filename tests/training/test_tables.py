"""Every column says what it holds."""

from prefpipe.training.tables import METRICS, POLICY


def test_every_column_says_what_it_means():
    assert all(column.meaning for schema in (METRICS, POLICY) for column in schema.columns)

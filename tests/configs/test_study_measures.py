"""Every measure of a study has its columns in the results, and every measure of pairs is one that is computed."""

import pytest

from prefpipe.artifacts.study_tables import PAIR_RESULTS, RESULTS
from prefpipe.configs.study_measures import MEASURES, PAIR_MEASURES
from prefpipe.maths.statistics.known_pairs import MEASURES as OF_PAIRS


@pytest.mark.parametrize(
    ("schema", "measures"),
    [(RESULTS, MEASURES), (PAIR_RESULTS, PAIR_MEASURES)],
    ids=["samples", "pairs"],
)
def test_columns_are_in_the_results(schema, measures) -> None:
    there = {column.name for column in schema.columns}
    for name, measure in measures.items():
        columns = (measure.column, measure.of_base, measure.below, measure.below_of_base)
        assert {column for column in columns if column is not None} <= there, name


def test_measures_of_pairs_are_those_that_are_computed() -> None:
    assert tuple(PAIR_MEASURES) == OF_PAIRS

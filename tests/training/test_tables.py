"""The reference is kept under a key and never mistaken for another."""

from prefpipe.training.tables import METRICS, POLICY, REFERENCE, read_reference, write_reference

REFERENCES = {("a", 0): (-1.5, 3), ("a", 2): (-20.25, 7), ("b", 0): (-0.125, 1)}


def test_a_reference_comes_back_by_key(tmp_path):
    write_reference(tmp_path, REFERENCES, "key")
    assert read_reference(tmp_path, "key") == REFERENCES


def test_a_reference_of_something_else_is_not_read(tmp_path):
    write_reference(tmp_path, REFERENCES, "key")
    assert read_reference(tmp_path, "other") is None


def test_no_file_and_a_broken_file_are_no_reference(tmp_path):
    assert read_reference(tmp_path, "key") is None
    write_reference(tmp_path, REFERENCES, "key")
    path = tmp_path / "reference.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_reference(tmp_path, "key") is None


def test_every_column_says_what_it_means():
    assert all(column.meaning for schema in (METRICS, POLICY, REFERENCE) for column in schema.columns)

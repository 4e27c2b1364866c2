"""One day for a run: given, on record, of the parents, or today."""

from datetime import datetime

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.template_dates import date_for_run, recorded_date


def write_run(folder, **identity):
    folder.mkdir()
    RunRecord("generate", "candidates/1", 1, identity).write_if_absent(folder)
    return folder


def test_what_was_given_comes_first_then_the_run_then_its_parents_in_order(tmp_path):
    mine = write_run(tmp_path / "mine", models=[{"template_date": "2026-01-03"}])
    first = write_run(
        tmp_path / "first", groups={"candidates": {"models": [{"template_date": "2026-01-02"}]}}
    )
    second = write_run(tmp_path / "second", model={"template_date": "2026-01-01"})
    assert date_for_run("2026-05-05", mine, [first]) == "2026-05-05"
    assert date_for_run(None, mine, [first, second]) == "2026-01-03"
    assert date_for_run(None, tmp_path / "nothing yet", [first, second]) == "2026-01-02"
    assert date_for_run(None, None, [second, first]) == "2026-01-01"


def test_a_run_without_records_has_the_day_of_today(tmp_path):
    none = write_run(tmp_path / "none", models=[{"content_hash": "x"}])
    before = datetime.now().astimezone().date().isoformat()
    assert date_for_run(None, none, []) in {before, datetime.now().astimezone().date().isoformat()}


def test_a_runs_own_models_come_before_those_of_its_parents():
    identity = {
        "template_date": "2026-02-02",
        "groups": {"models": [{"template_date": "2026-02-01"}]},
    }
    assert recorded_date(identity) == "2026-02-02"
    assert recorded_date({"models": [{"template_date": None}, 3, "x"]}) is None

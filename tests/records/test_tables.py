"""The two tables: written whole or not at all, never twice, and read back by one line of pandas."""

from __future__ import annotations

import datetime
import errno
import math
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.api import DataError, visible
from harness.records.checksum import checksum
from harness.records.tables import (
    EVALUATIONS,
    TRIALS,
    Records,
    Row,
    TrialKey,
    has_its_checksum,
    read_parquet,
    read_rows,
    read_table,
)
from tests.records.test_files import no_links

KEY = TrialKey("digits_mlp", "adamw", "0123456789abcdef")


def trial_row(**changes: object) -> Row:
    empty = {"string": "x", "int32": 1, "int64": 1, "double": 1.0, "bool": True}
    row = {field.name: empty.get(str(field.type)) for field in TRIALS if not field.nullable}
    row["started_at"] = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return {**row, "trial_id": KEY.trial_id, **changes}


def evaluation_row(number: int) -> Row:
    return {
        "trial_id": KEY.trial_id,
        "evaluation": number,
        "step": 10 * number,
        "examples": 640 * number,
        "charged_seconds": 0.5 * number,
        "stages_left": 0,
        "validation": 0.1,
        "validation_loss": 0.2,
        "other_metrics": "{}",
        "reported": "{}",
    }


def test_a_finished_trial_is_read_by_one_line_of_pandas(tmp_path):
    Records(tmp_path).finish(KEY, trial_row(time_to_target=math.inf), [evaluation_row(1), evaluation_row(2)])
    trials = pd.read_parquet(tmp_path / "trials")
    evaluations = pd.read_parquet(tmp_path / "evaluations")
    assert trials["trial_id"].tolist() == [KEY.trial_id]
    assert (trials["workload"].tolist(), trials["submission"].tolist()) == (["digits_mlp"], ["adamw"])
    assert math.isinf(trials["time_to_target"][0])
    assert evaluations["step"].tolist() == [10, 20]


def test_a_trial_is_done_when_its_row_exists(tmp_path):
    records = Records(tmp_path)
    assert not records.is_done(KEY)
    records.finish(KEY, trial_row(), [])
    assert records.is_done(KEY)
    assert records.trial(KEY)["status"] == "x"


def test_a_row_is_never_overwritten(tmp_path):
    records = Records(tmp_path)
    records.finish(KEY, trial_row(status="reached"), [])
    records.finish(KEY, trial_row(status="crashed"), [])
    assert records.trial(KEY)["status"] == "reached"


def written(runs: Path) -> tuple[Row, list[Row]]:
    (row,) = read_rows(runs, "trials")
    return row, read_rows(runs, "evaluations")


def test_rows_have_their_checksum_until_one_of_them_is_edited_goes_or_comes(tmp_path):
    Records(tmp_path).finish(KEY, trial_row(time_to_target=math.inf), [evaluation_row(1), evaluation_row(2)])
    row, evaluations = written(tmp_path)
    assert has_its_checksum(row, evaluations)
    assert has_its_checksum(row, evaluations[::-1])
    for name in row.keys() - {"checksum"}:
        assert not has_its_checksum({**row, name: None if row[name] is not None else 1}, evaluations), name
    for name in EVALUATIONS.names:
        assert not has_its_checksum(row, [{**evaluations[0], name: 7}, evaluations[1]]), name
    assert not has_its_checksum(row, evaluations[:1])
    assert not has_its_checksum(row, [*evaluations, {**evaluations[0], "evaluation": 3}])
    assert not has_its_checksum({**row, "checksum": "none"}, evaluations)
    assert has_its_checksum({**row, "checksum": None}, evaluations) is None


def test_a_checksum_is_over_the_columns_of_its_own_schema_version(tmp_path):
    Records(tmp_path).finish(KEY, trial_row(), [evaluation_row(1)])
    row, evaluations = written(tmp_path)
    later = {"cpu_seconds", "study_seed", "overrides", "reference", "reference_step_seconds"}
    later |= {"identity", "workload_version", "division", "predictor_parameters", "predictor_bytes"}
    later |= {"rehearsal_seconds", "precision", "compiled", "micro_batch"}
    later |= {"reference_step_seconds_before", "reference_step_seconds_after", "reference_drift", "malloc"}
    later |= {"stages_left"}
    seen = [{name: each[name] for name in EVALUATIONS.names} for each in evaluations]
    of_two = {**row, "checksum": checksum(row, seen, version=2, later=later)}
    assert has_its_checksum(of_two, evaluations)
    assert has_its_checksum({**of_two, "cpu_seconds": 1.0}, evaluations)
    assert not has_its_checksum({**of_two, "resumes": 1 + row["resumes"]}, evaluations)


def test_a_row_is_written_once_where_the_file_system_has_no_links(tmp_path):
    records = Records(tmp_path, link=no_links(errno.EPERM))
    records.finish(KEY, trial_row(status="reached"), [evaluation_row(1)])
    records.finish(KEY, trial_row(status="crashed"), [evaluation_row(1)])
    assert records.trial(KEY)["status"] == "reached"
    assert {path.suffix for path in visible(tmp_path, "**/*") if path.is_file()} == {".parquet"}


@pytest.mark.parametrize("link", [os.link, no_links(errno.EPERM)])
def test_a_row_of_which_a_cut_left_the_name_alone_is_not_done_and_is_written(tmp_path, link):
    records = Records(tmp_path, link=link)
    records.finish(KEY, trial_row(), [])
    records.path("trials", KEY).write_bytes(b"")
    assert not records.is_done(KEY)
    records.finish(KEY, trial_row(status="reached"), [])
    assert records.trial(KEY)["status"] == "reached"


def test_evaluation_rows_that_a_kill_left_without_their_trial_row_are_replaced(tmp_path):
    records = Records(tmp_path)
    records.finish(KEY, trial_row(), [evaluation_row(1), evaluation_row(2)])
    records.path("trials", KEY).unlink()
    records.finish(KEY, trial_row(), [evaluation_row(1)])
    assert len(pd.read_parquet(tmp_path / "evaluations")) == 1


def test_nothing_but_tables_is_left_beside_them(tmp_path):
    Records(tmp_path).finish(KEY, trial_row(), [evaluation_row(1)])
    assert {path.suffix for path in visible(tmp_path, "**/*") if path.is_file()} == {".parquet"}


def test_a_journal_is_read_as_far_as_it_is_whole(tmp_path):
    records = Records(tmp_path)
    with records.journal(KEY) as journal:
        journal.append("start", {"trial_id": KEY.trial_id})
        journal.append("evaluation", evaluation_row(1))
    path = tmp_path / "journal" / f"{KEY.trial_id}.jsonl"
    with path.open("ab") as handle:
        handle.write(b'{"kind": "evalua')
    with records.journal(KEY) as journal:
        assert [line["kind"] for line in journal.lines()] == ["start", "evaluation"]
        assert journal.lines()[1]["step"] == 10


def test_a_journal_goes_once_the_trial_has_its_row(tmp_path):
    records = Records(tmp_path)
    with records.journal(KEY) as journal:
        journal.append("start", {})
        records.finish(KEY, trial_row(), [])
    assert visible(tmp_path / "journal", "*") == []


def test_two_processes_cannot_run_one_trial(tmp_path):
    with (
        Records(tmp_path).journal(KEY),
        pytest.raises(DataError, match="another process is running"),
        Records(tmp_path).journal(KEY),
    ):
        pass


def test_an_empty_folder_is_an_empty_table_with_all_columns(tmp_path):
    table = read_table(tmp_path, "trials")
    assert len(table) == 0
    assert set(TRIALS.names) < set(table.columns)


def test_a_table_can_be_read_in_part(tmp_path):
    records = Records(tmp_path)
    records.finish(KEY, trial_row(), [])
    records.finish(TrialKey("kjv_char_lm", "muon", "b" * 16), trial_row(trial_id="b" * 16), [])
    import pyarrow.dataset as ds

    table = read_table(tmp_path, "trials", ["trial_id", "workload"], ds.field("submission") == "muon")
    assert table.to_dict("list") == {"trial_id": ["b" * 16], "workload": ["kjv_char_lm"]}


def test_a_table_without_a_column_is_an_error_that_names_file_and_column(tmp_path):
    path = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"trial_id": ["a"]}), path)
    with pytest.raises(DataError, match=r"broken.parquet: column 'evaluation'"):
        read_parquet(path, EVALUATIONS)


def test_a_table_of_a_newer_schema_is_an_error(tmp_path):
    path = tmp_path / "newer.parquet"
    table = pa.Table.from_pylist([evaluation_row(1)], schema=EVALUATIONS)
    pq.write_table(table.replace_schema_metadata({"timetrial_schema_version": "99"}), path)
    with pytest.raises(DataError, match="schema version 99"):
        read_parquet(path, EVALUATIONS)


def test_a_table_of_an_older_schema_has_the_default_in_columns_that_came_later(tmp_path):
    records = Records(tmp_path)
    records.finish(KEY, trial_row(resumes=3), [])
    older = records.path("trials", TrialKey("digits_mlp", "muon", "d" * 16))
    older.parent.mkdir(parents=True)
    row = trial_row(trial_id="d" * 16)
    del row["resumes"]
    schema = TRIALS.remove(TRIALS.get_field_index("resumes"))
    table = pa.Table.from_pylist([row], schema=schema.with_metadata({"timetrial_schema_version": "1"}))
    pq.write_table(table, older)
    assert read_parquet(older, TRIALS)["resumes"].to_pylist() == [0]
    frame = read_table(tmp_path, "trials").set_index("trial_id")
    assert frame["resumes"].to_dict() == {KEY.trial_id: 3, "d" * 16: 0}
    pq.write_table(table.replace_schema_metadata({"timetrial_schema_version": "3"}), older)
    with pytest.raises(DataError, match="column 'resumes' is missing"):
        read_table(tmp_path, "trials")


def test_a_file_that_is_no_parquet_is_an_error_that_names_it(tmp_path):
    folder = tmp_path / "trials" / "workload=a" / "submission=b"
    folder.mkdir(parents=True)
    (folder / "cut.parquet").write_bytes(b"PAR1 and then the disk was full")
    with pytest.raises(DataError, match=r"cut.parquet"):
        read_table(tmp_path, "trials")


def read(runs: Path) -> tuple[list[str], list[str]]:
    """Ids of the trials that can be read, and what is said of the rest."""
    said: list[str] = []
    return read_table(runs, "trials", left_out=said.append)["trial_id"].tolist(), said


def test_what_cannot_be_read_is_left_out_and_said_in_one_line_for_each_kind_of_fault(tmp_path):
    records = Records(tmp_path)
    keys = [TrialKey("digits_mlp", "adamw", letter * 16) for letter in "abcde"]
    for key in keys:
        records.finish(key, trial_row(trial_id=key.trial_id), [])
    _, short, empty, overwritten, other = (records.path("trials", key) for key in keys)
    short.write_bytes(short.read_bytes()[:-20])
    empty.write_bytes(b"")
    # A sound footer over rows that are none.
    overwritten.write_bytes(b"PAR1" + b"x" * 200 + overwritten.read_bytes()[204:])
    pq.write_table(pa.table({"trial_id": ["f"]}), other)
    ids, said = read(tmp_path)
    assert ids == ["a" * 16]
    again = "Move the files of its trial away and run it again."
    assert [line.removeprefix("trials/workload=digits_mlp/submission=adamw/") for line in said] == [
        f"{'b' * 16}.parquet and 2 more: no whole parquet file. {again}",
        f"{'e' * 16}.parquet: column 'ruleset' is missing. Is this a table of this project?",
    ]


@pytest.mark.parametrize("name", ["x.sync-conflict-20260102-030405-ABCDEFG", "x (conflicted copy)", "x-DESKTOP", "x 2"])
@pytest.mark.parametrize("table", ["trials", "evaluations"])
def test_a_copy_that_a_sync_tool_leaves_is_no_second_row(tmp_path, name, table):
    records = Records(tmp_path)
    records.finish(KEY, trial_row(), [evaluation_row(1)])
    row = records.path(table, KEY)
    shutil.copy(row, row.with_name(f"{name}.parquet"))
    said: list[str] = []
    assert len(read_table(tmp_path, table, left_out=said.append)) == 1
    assert said == [
        f"{table}/workload=digits_mlp/submission=adamw/{name}.parquet: is a copy under another name, "
        "as sync tools leave them. Move it away."
    ]


def test_the_row_of_one_trial_under_the_name_of_another_is_not_taken_for_it(tmp_path):
    records, other = Records(tmp_path), TrialKey("digits_mlp", "muon", "c" * 16)
    records.finish(KEY, trial_row(), [])
    records.path("trials", other).parent.mkdir()
    shutil.copy(records.path("trials", KEY), records.path("trials", other))
    with pytest.raises(DataError, match="copy under another name"):
        records.trial(other)


def test_a_linked_folder_holds_rows_like_any_other(tmp_path):
    records = Records(tmp_path / "runs")
    records.finish(KEY, trial_row(), [evaluation_row(1)])
    for folder in ("trials/workload=digits_mlp", "evaluations"):
        (tmp_path / "runs" / folder).rename(tmp_path / Path(folder).name)
        (tmp_path / "runs" / folder).symlink_to(tmp_path / Path(folder).name)
    assert records.is_done(KEY)
    assert read(tmp_path / "runs") == ([KEY.trial_id], [])
    assert len(read_table(tmp_path / "runs", "evaluations")) == 1


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        records = Records(disk)
        records.finish(KEY, trial_row(), [evaluation_row(1)])
        (disk / "filler").write_bytes(b"x" * (64 * 1024 - used_bytes(disk)))
        other = TrialKey("digits_mlp", "muon", "c" * 16)
        with pytest.raises(DataError, match="Free some space"):
            records.finish(other, trial_row(trial_id="c" * 16), [evaluation_row(1)] * 2000)
        assert records.trial(KEY)["trial_id"] == KEY.trial_id
        assert not records.is_done(other)
        (disk / "filler").unlink()
        records.finish(other, trial_row(trial_id="c" * 16), [evaluation_row(1)])
        assert len(pd.read_parquet(disk / "trials")) == 2
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # a reader of parquet may hold a file a moment longer


def used_bytes(disk: Path) -> int:
    return shutil.disk_usage(disk).used

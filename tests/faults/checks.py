"""What a cell must leave: each finished row, no wrong one, no process, mount, lock, file; and a bench that goes on."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd

from benchmarks.interruptions import SAME_EVALUATIONS, SAME_TRIALS
from harness.api import visible
from harness.race.confinement import namespaces
from harness.records.tables import Records, TrialKey, read_table
from tests.faults.cells import Cell, cells
from tests.faults.conductor import Performance, World


@functools.cache
def lacking() -> frozenset[str]:
    """What cells may need and this machine does not have."""
    have = {
        "root": os.geteuid() == 0,
        "mount": os.geteuid() == 0 and shutil.which("mount") is not None and _mounts(),
        "sandbox": namespaces.missing() is None,
        "cc": shutil.which("cc") is not None,
    }
    return frozenset(name for name, is_there in have.items() if not is_there)


def _mounts() -> bool:
    """Whether mounting a file system is allowed; tried in a namespace of its own, which ends with the try."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def end_of(number: int, folder: str) -> list[str]:
    """`departures` of the cell of this number, in a world that lies in `folder`; what it left is printed, too."""
    cell, began = cells()[number], time.monotonic()
    found = departures(World(Path(folder)), cell, Path(folder) / str(number))
    print(f"{'not' if found else 'ok '}  {cell.name}  {time.monotonic() - began:.1f} s", flush=True)
    return found


def departures(world: World, cell: Cell, folder: Path) -> list[str]:
    """Run the cell in `folder`, which has a short path; one line for each thing that it must not have done."""
    template = None if cell.launched else world.killed if cell.state.again else world.begun
    untouched = world.launched if cell.launched else world.untouched
    results = folder / "results"
    folder.mkdir()
    if template is not None:
        shutil.copytree(template, results)
    one = cell.set_up(world, folder, results)
    try:
        return _run(cell, one, template, untouched)
    except Exception as error:
        return [f"{type(error).__name__}: {error}", one.said[-1500:]]
    finally:
        one.end()
        for place in (one.results, folder / "disk"):
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _run(cell: Cell, one: Performance, template: Path | None, untouched: Path) -> list[str]:
    one.run((cell.state.name, cell.state.count), cell.strike, play=cell.play)
    if not one.was_struck:
        return [f"it never came to this state, but to {', '.join(one.reached[-5:])}: {one.said[-1500:]}"]
    found = []
    if one.code not in cell.codes:
        found.append(f"exit code {one.code} instead of {' or '.join(map(str, cell.codes))}")
    if cell.says not in one.said:
        found.append(f"it did not say {cell.says!r}")
    found += [f"it said {word!r}" for word in ("Traceback", "fault of Timetrial") if word in one.said]
    found += [
        f"the bench beside it ended with exit code {other.exitcode}: {words[-1500:]}"
        for other, words in zip(one.others, one.said_beside(), strict=True)
        if other.exitcode not in (0, 2)
    ]
    cell.heal(one)
    if template is not None and not cell.is_lost:
        found += _lost(template, one.results)
    found += _wrong(untouched, one.results, may_crash=cell.crash)
    # joblib kills the server of trainers, too, which would clear up.
    found += [line for line in one.left() if not (cell.launched and "temporary file" in line)]
    failed = _failed(one.results)
    for key in failed:
        Records(one.results / "runs").retry(key)
    follow = one.world.follow_launched if cell.launched else one.world.follow
    said = follow(one.results)
    changed: dict[str, str] = {}
    if not cell.launched:  # a failed trial has another id when it runs again
        now, then = one.world.keys(one.results), one.world.keys(untouched)
        changed = {key.trial_id: was.trial_id for key, was in zip(now, then, strict=True)}
    found += _differences(untouched, one.results, changed, {key.trial_id for key in failed})
    found += _remains(one.results)
    return [*found, f"said: {one.said[-3000:]}", f"then: {said[-1000:]}"] if found else []


def _lost(template: Path, results: Path) -> list[str]:
    """Finished rows that are not what they were."""
    found = []
    for path in visible(template, "runs/*/**/*.parquet"):
        now = results / path.relative_to(template)
        if not now.exists() or now.read_bytes() != path.read_bytes():
            found.append(f"a finished row is lost: {now.name}")
    return found


def _wrong(untouched: Path, results: Path, *, may_crash: bool) -> list[str]:
    """Rows that an untouched bench would not have written."""
    (trials, evaluations), (right, all_evaluations) = _rows(results), _rows(untouched)
    found = []
    for row in trials.itertuples():
        same = right[right["trial_id"] == row.trial_id]
        if row.status == "crashed":
            if not may_crash or "SIGKILL" not in row.reason:
                found.append(f"a row says {row.status}: {row.reason}")
        elif not same.equals(trials[trials["trial_id"] == row.trial_id].set_index(same.index)):
            found.append(f"a row is wrong: {row}")
        else:
            seen, expected = (_of_trial(frame, row.trial_id) for frame in (evaluations, all_evaluations))
            if not seen.equals(expected):
                found.append(f"evaluations are wrong:\n{seen}")
    return found


def _of_trial(frame: pd.DataFrame, trial_id: str) -> pd.DataFrame:
    return frame[frame["trial_id"] == trial_id].reset_index(drop=True)


def _failed(results: Path) -> list[TrialKey]:
    trials = _rows(results)[0]
    failed = trials[trials["status"] == "crashed"]
    return [TrialKey(row.workload, row.submission, row.trial_id) for row in failed.itertuples()]


def _differences(untouched: Path, results: Path, changed: dict[str, str], failed: set[str]) -> list[str]:
    """How the tables differ from those of an untouched bench in what does not depend on the moment."""
    found = []
    for name, frame, right in zip(("trials", "evaluations"), _rows(results), _rows(untouched), strict=True):
        kept = frame[~frame["trial_id"].isin(failed)]
        kept = kept.assign(trial_id=kept["trial_id"].replace(changed))
        order = [name for name in ("trial_id", "evaluation") if name in kept]
        kept = kept.sort_values(order, ignore_index=True)
        if not kept.equals(right):
            found.append(f"in the end the {name} differ: {len(kept)} rows and {len(right)}")
    return found


def _rows(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the columns that must be the same; what cannot be read is left out."""
    frames = []
    for table, columns in (("trials", [*SAME_TRIALS, "reason"]), ("evaluations", SAME_EVALUATIONS)):
        frame = read_table(results / "runs", table, columns, left_out=lambda _: None)
        frames.append(
            frame.sort_values([name for name in ("trial_id", "evaluation") if name in frame], ignore_index=True)
        )
    return frames[0], frames[1]


def _remains(results: Path) -> list[str]:
    """Files that only a running trial has a use for."""
    runs = results / "runs"
    places = ("journal/*", "scratch/*", "checkpoints/*", "**/*.tmp")
    return [f"a file is left: {path.relative_to(runs)}" for place in places for path in visible(runs, place)]

"""Writes the dashboard: pages from templates, chart data as scripts that load when needed, downloads beside them.

Chart data are scripts because a page that was opened from disk may not fetch files, but may load scripts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.offline

from harness.board import facts, fingerprint, series, trial_table
from harness.board.advice import HEADER, answers_in_words, groups_of
from harness.board.boards import DashboardBoard, file_names
from harness.board.cells import predictor_sizes
from harness.board.entry import explained
from harness.board.stages import stage_rows, stage_table
from harness.scoring.advice.advice import Rows, advise
from harness.scoring.advice.costs import GOOD_FACTOR
from harness.scoring.comparison import DIFFERENCE_ALPHA

_OURS = (
    *("assets", "also", "data", "workloads", "submissions"),
    *("trials.html", "advice.html", "solutions.html", "index.html"),
)
_BOARD_FOLDERS = (
    "data/curves",
    "data/tuning",
    "data/settings",
    "data/endings",
    "data/trials",
    "data/solutions",
    "data/stages",
)


def write_site(boards: Sequence[DashboardBoard], folder: Path) -> Path:
    """Write all boards, the first at `folder/index.html`, and return that page.

    Replaces what an earlier call wrote, once the new site is whole; other files in the folder stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=folder) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        new.mkdir()
        old.mkdir()
        _write_all(boards, new)
        for name in _OURS:
            if (folder / name).exists():
                (folder / name).rename(old / name)
            if (new / name).exists():
                (new / name).rename(folder / name)
    return folder / "index.html"


def _write_all(boards: Sequence[DashboardBoard], folder: Path) -> None:
    _write_assets(folder / "assets")
    slugs = list(file_names(board.label for board in boards).values())
    places = [folder] + [folder / "also" / slug for slug in slugs[1:]]
    links = [
        (board.label, "" if place == folder else f"also/{place.name}/")
        for board, place in zip(boards, places, strict=True)
    ]
    for number, (board, place) in enumerate(zip(boards, places, strict=True)):
        top = "" if number == 0 else "../../"
        others = [(label, top + link + "index.html", number == other) for other, (label, link) in enumerate(links)]
        writer = _BoardWriter(board, place, top=top, switch=others, readings=_readings(board, boards))
        writer.write()
        writer.write_advice(_companions(board, boards))


class _BoardWriter:
    """The pages and data of one board in one folder."""

    def __init__(
        self,
        board: DashboardBoard,
        folder: Path,
        *,
        top: str,
        switch: list[tuple[str, str, bool]],
        readings: pd.DataFrame,
    ) -> None:
        self.board = board
        self.folder = folder
        self.top = top
        self.switch = switch
        self.readings = readings
        self.workload_files = file_names(board.workloads)
        self.submission_files = file_names(board.submissions)
        self.templates = jinja2.Environment(
            loader=jinja2.PackageLoader("harness.board"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )

    def write(self) -> None:
        for name in ("workloads", "submissions", *_BOARD_FOLDERS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_data()
        self._write_downloads()
        board = self.board
        rows, cells = facts.leaderboard_rows(board), facts.cell_rows(board)
        pairs = facts.head_to_head(board)
        pairs.to_csv(self.folder / "data" / "head_to_head.csv", index=False)
        self._page(
            "index.html",
            rows=rows,
            sentence=facts.headline_sentence(board),
            heat_map=facts.heat_map(board),
            comparisons=facts.comparison_rows(board),
            difference_alpha=DIFFERENCE_ALPHA,
            head_to_head=facts.head_to_head_rows(pairs, board.submissions[: facts.PAIRS]),
            firmness=facts.firmness_rows(board),
            cut_off=facts.trials_cut_off(board),
            readings=self.readings.to_dict("records"),
            counts=facts.trial_counts(board.scoring.times["status"]),
        )
        chunks = -(-len(board.scoring.times) // trial_table.CHUNK_ROWS)
        self._page("trials.html", chunks=chunks, statuses=sorted(board.scoring.times["status"].unique()))
        if board.readouts is not None:
            self._write_solutions(board.readouts)
        for workload, name in self.workload_files.items():
            stages = stage_table(board, workload)
            if len(stages):
                stages.to_csv(self.folder / "data" / "stages" / f"{name}.csv", index=False)
            self._page(
                f"workloads/{name}.html",
                "workload.html",
                workload=workload,
                name=name,
                target=facts.target_text(board, workload),
                cells=facts.workload_cells(cells, workload),
                stages=stage_rows(stages),
            )
        scores = {row["submission"]: row for row in rows}
        statuses = dict(list(board.scoring.times.groupby("submission", observed=True)["status"]))
        for submission, name in self.submission_files.items():
            self._page(
                f"submissions/{name}.html",
                "submission.html",
                submission=submission,
                name=name,
                row=scores[submission],
                cells=facts.submission_cells(cells, submission),
                counts=facts.trial_counts(statuses[submission]),
                told=explained(board, submission),
            )

    def write_advice(self, boards: Sequence[DashboardBoard]) -> None:
        """The page on what to use, from rows of this board and of other rulesets on the same machine."""
        timed = [board for board in boards if board.scoring.rules.measure == "time_to_target"]
        if not timed:
            self._page("advice.html", header=HEADER, groups=[], good_factor=GOOD_FACTOR)
            return
        every = [Rows.of(board.scoring, reference=board.reference) for board in timed]
        groups = groups_of(every, "All workloads")
        advice = advise(sorted(every, key=lambda rows: rows.is_tuned), groups)
        for name, table in (("", advice.answers), ("_submissions", advice.submissions), ("_cells", advice.cells)):
            table.to_csv(self.folder / "data" / f"advice{name}.csv", index=False)
        self._page("advice.html", header=HEADER, groups=answers_in_words(advice, groups), good_factor=GOOD_FACTOR)

    def _write_solutions(self, readouts: pd.DataFrame) -> None:
        """What diagnostics found, where there is something: it is never scored, so on a page of its own."""
        by_workload = {str(workload): rows for workload, rows in readouts.groupby("workload", sort=True)}
        for workload, rows in by_workload.items():
            self._data(f"solutions/{self.workload_files[workload]}", fingerprint.chart_series(rows))
        readouts.to_csv(self.folder / "data" / "solutions.csv", index=False)
        tables = {name: fingerprint.page_rows(rows, self.board.submissions) for name, rows in by_workload.items()}
        self._page("solutions.html", tables=tables)

    def _page(self, path: str, template: str | None = None, **content: Any) -> None:
        up = "../" * path.count("/")
        text = self.templates.get_template(template or path).render(
            board=self.board,
            up=up,
            top=up + self.top,
            switch=[(label, up + link, chosen) for label, link, chosen in self.switch],
            workload_files=self.workload_files,
            submission_files=self.submission_files,
            page=path,
            **content,
        )
        (self.folder / path).write_text(text, encoding="utf-8")

    def _write_data(self) -> None:
        board, times = self.board, self.board.scoring.times
        by_workload, by_submission = self._trials("workload"), self._trials("submission")
        self._data("names", {"submissions": board.submissions, "pages": self.submission_files})
        self._data("profile", series.profile_series(board))
        self._data("speed", series.speed_series(board))
        for workload, name in self.workload_files.items():
            self._data(f"curves/{name}", series.curve_series(board, workload))
            self._data(f"tuning/{name}", series.tuning_series(board, workload))
            self._data(f"settings/workload-{name}", series.settings_series(by_workload[workload], by="submission"))
        for submission, name in self.submission_files.items():
            mine = by_submission[submission]
            self._data(f"settings/submission-{name}", series.settings_series(mine, by="workload"))
            self._data(f"endings/{name}", series.ending_series(mine))
        for number, chunk in enumerate(trial_table.chunks(times)):
            self._data(f"trials/{number}", chunk)

    def _trials(self, by: str) -> dict[str, pd.DataFrame]:
        """The trials of each workload or submission, in the columns that data and downloads need."""
        trials = self.board.scoring.times[[*trial_table.COLUMNS, "max_runtime"]]
        return {str(name): group for name, group in trials.groupby(by, observed=True)}

    def _data(self, name: str, value: Any) -> None:
        # A string that the page parses as JSON is read several times faster than the same text as program code.
        content = json.dumps(json.dumps(value, separators=(",", ":"), allow_nan=False))
        script = f"timetrial.receive({json.dumps(name)},{content});\n"
        (self.folder / "data" / f"{name}.js").write_text(script, encoding="utf-8")

    def _write_downloads(self) -> None:
        board, data = self.board, self.folder / "data"
        scores = board.scoring.scores.join(board.uncertainty.scores[["low", "high", "tier", "is_pooled"]])
        frozen = board.uncertainty.frozen.rename(columns={"low": "frozen_low", "high": "frozen_high"})
        scores = scores.join(board.speed_and_reliability).join(frozen[["frozen_score", "frozen_low", "frozen_high"]])
        if board.is_open:
            scores = scores.join(predictor_sizes(board.scoring))
        scores.assign(unit=board.scoring.rules.unit).to_csv(data / "leaderboard.csv")
        board.scoring.ratios.to_csv(data / "profile.csv")
        board.scoring.cells.merge(board.near_misses, on=["workload", "submission"], how="left").merge(
            board.uncertainty.cells[["workload", "submission", "low", "high", "is_pooled"]],
            on=["workload", "submission"],
            how="left",
        ).assign(unit=board.scoring.rules.unit).to_csv(data / "times.csv", index=False)
        board.uncertainty.differences.to_csv(data / "differences.csv")
        board.leave_one_out.to_csv(data / "leave_one_out.csv", index=False)
        board.target_band.to_csv(data / "target_band.csv", index=False)
        self.readings.to_csv(data / "readings.csv", index=False)
        for name, table in (
            ("losses", board.losses),
            ("best_of_k", board.tuning.assign(unit=board.scoring.rules.unit)),
            ("widths", board.widths.assign(unit=board.scoring.rules.unit)),
            ("edges", board.edge_counts),
            ("tuned_points", board.tuned_points),
            ("time_parts", board.time_parts),
            (
                "step_profiles",
                board.profiles.assign(unread=[", ".join(each) for each in board.profiles.get("unread", [])]),
            ),
        ):
            table.to_csv(data / f"{name}.csv", index=False)
        times = board.scoring.times
        by_workload, by_submission = self._trials("workload"), self._trials("submission")
        times.to_parquet(data / "trials.parquet", index=False)
        workload_of = times.set_index("trial_id")["workload"]
        evaluations = dict(list(board.evaluations.groupby(board.evaluations["trial_id"].map(workload_of))))
        nothing = board.evaluations.iloc[:0]
        for workload, name in self.workload_files.items():
            evaluations.get(workload, nothing).to_parquet(data / f"curves/{name}.parquet", index=False)
            board.tuning[board.tuning["workload"] == workload].to_csv(data / f"tuning/{name}.csv", index=False)
            by_workload[workload][trial_table.COLUMNS].to_csv(data / f"settings/workload-{name}.csv", index=False)
        for submission, name in self.submission_files.items():
            by_submission[submission][trial_table.COLUMNS].to_csv(data / f"settings/submission-{name}.csv", index=False)


def _write_assets(folder: Path) -> None:
    folder.mkdir(parents=True)
    for asset in resources.files("harness.board").joinpath("assets").iterdir():
        if asset.is_file() and not asset.name.startswith("."):
            (folder / asset.name).write_bytes(asset.read_bytes())
    (folder / "plotly.min.js").write_text(plotly.offline.get_plotlyjs(), encoding="utf-8")


def _readings(board: DashboardBoard, boards: Sequence[DashboardBoard]) -> pd.DataFrame:
    """Score and rank of each submission under every reading of the same rules on the same rows."""
    same = [
        other
        for other in boards
        if other.selection.combination == board.selection.combination
        and other.scoring.rules.name == board.scoring.rules.name
    ]
    table = pd.DataFrame(index=board.scoring.scores.index)
    if len(same) > 1:
        for other in same:
            scores = other.scoring.scores
            table[[f"{other.scoring.rules.reading} score", f"{other.scoring.rules.reading} rank"]] = scores[
                ["score", "rank"]
            ]
    return table.reset_index()


def _companions(board: DashboardBoard, boards: Sequence[DashboardBoard]) -> list[DashboardBoard]:
    """The board, and the first one of each other ruleset that has its division, machine, sandbox and unit."""

    def conditions(of: DashboardBoard) -> tuple[object, ...]:
        kept = [value for name, value in of.selection.combination.items() if name not in ("ruleset", "ruleset_version")]
        return (*kept, of.scoring.rules.unit)

    found = {board.selection.combination["ruleset"]: board}
    for other in boards:
        if conditions(other) == conditions(board):
            found.setdefault(other.selection.combination["ruleset"], other)
    return list(found.values())

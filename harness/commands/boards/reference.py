"""`make reference`: runs what committed boards lack, the cheapest first, and puts each study in its place at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from harness import command_line
from harness.api import ConfigError, DataError, HarnessError, near_matches, path_of, visible
from harness.command_line import PlainConsole
from harness.commands import bench
from harness.commands.boards.report import report
from harness.config import ReferenceBoardConfig, RulesetConfig, SuiteConfig, load, names_in
from harness.plugins import data
from harness.plugins.entries import create_workload
from harness.plugins.submission import SUBMISSIONS, Submission, listed, load_submission, name_of
from harness.records.committed import BoardFile
from harness.records.tables import Records, TrialKey
from harness.study.budget import seconds_per_step
from harness.study.folders import check_folders
from harness.study.identity import Study, describe, entered_by
from harness.study.launch import run_and_report
from harness.study.reference.best import best_of
from harness.study.reference.board import ReferenceBoard, place_of

_OPTIONS = ("board", "workload", "submission", "results", "tracking", "status")


def main(arguments: Sequence[str]) -> int:
    """`make reference [BOARD= WORKLOAD= SUBMISSION= STATUS=1 RESULTS= TRACKING=]`; returns 0.

    Raises DataError where studies have no rows after all, ConfigError for a name that no board has.
    """
    given = command_line.options(arguments, _OPTIONS)
    results = path_of(given.get("results", "results")).resolve()
    console = PlainConsole()
    boards = [
        composed(load("reference", name, ReferenceBoardConfig), results, console, tracking=given.get("tracking", "off"))
        for name in _chosen(command_line.names(given.get("board", "")), names_in("reference"), "board")
    ]
    if given.get("status"):
        report(boards, console)
        return 0
    every = [study for board in boards for study in board.studies]
    submissions = list(map(name_of, listed(given.get("submission", ""))))
    wanted = (
        _chosen(command_line.names(given.get("workload", "")), {place_of(study)[0] for study in every}, "workload"),
        _chosen(submissions, {place_of(study)[1] for study in every}, "submission"),
    )
    try:
        fill(boards, console, workloads=wanted[0], submissions=wanted[1])
    except KeyboardInterrupt:
        console.print("\nstopped. The same command goes on from here.")
        raise
    return 0


def composed(config: ReferenceBoardConfig, results: Path, console: Console, *, tracking: str) -> ReferenceBoard:
    """The board that a file of conf/reference describes, with every study that belongs on it.

    Whoever is on it already, of this repository, stays on it. Raises ConfigError.
    """
    ruleset = load("ruleset", config.ruleset, RulesetConfig)
    overrides = [f"ruleset={ruleset.name}", f"hardware.device={config.device}", f"tracking={tracking}"]
    workloads = load("suite", config.suite, SuiteConfig).workloads
    request = bench.Request(workloads, [ruleset.reference], overrides, {}, results)
    firsts = [describe(bench.compose(request, workload, ruleset.reference)) for workload in workloads]
    closed, unreadable = _closed_division(console)
    names = _entered(config, results, set(closed), console)
    unknown = [name for name in names if name not in closed and name not in unreadable]
    if unknown:
        raise ConfigError(
            f"conf/reference/{config.name}.yaml: {unknown[0]!r} is no submission of the closed division. "
            f"{near_matches(unknown[0], closed)}"
        )
    studies = [
        entered_by(first, closed[name], number)
        for first in firsts
        for name in names
        if name in closed
        for number in range(ruleset.studies)
    ]
    return ReferenceBoard(config.name, studies, unreadable=unreadable)


def fill(
    boards: Sequence[ReferenceBoard],
    console: Console,
    *,
    workloads: Collection[str] | None = None,
    submissions: Collection[str] | None = None,
) -> None:
    """Put on the boards what has run, run what they lack, and say how they stand.

    `workloads`, `submissions`: nothing but studies of these is run or put there; None: all. Raises DataError where
    studies have no rows after all.
    """
    waiting: list[tuple[ReferenceBoard, Study]] = []
    for board in boards:
        if gone := board.drop_gone():
            console.print(f"{board.name}: dropped {gone} trials of what is not in the suite or the repository any more")
        lacking = [each.study for each in board.standings() if each.to_run]
        chosen = [
            study
            for study in lacking
            if (workloads is None or study.config.workload.name in workloads)
            and (submissions is None or study.submission.name in submissions)
        ]
        waiting += [(board, study) for study in chosen if not board.take(study)]
    check_folders(dict.fromkeys(study.config.submission for _, study in waiting), boards[0].runs)
    seconds = _budgets([study for _, study in waiting], console)
    able = [each for each in waiting if place_of(each[1])[0] in seconds]
    lost = len(waiting) - len(able)
    if able:
        hours = sum(_seconds(study, seconds) for _, study in able) / 3600.0
        console.print(f"{len(able)} studies to run, one after the other: at most {hours:.2f} h of racing, here")
    # A study of everybody before the next one of anybody: a board that fills in breadth can be read early.
    for board, study in sorted(
        able, key=lambda each: (_seconds(each[1], seconds), each[1].config.study, *place_of(each[1]), each[0].name)
    ):
        if not board.stands(study) and not _run(board, study, console):
            lost += 1
    report(boards, console)
    if lost:
        raise DataError(f"{lost} studies have no rows; the lines above say why. Mend that and run the same command.")


def _run(board: ReferenceBoard, study: Study, console: Console) -> bool:
    ran = run_and_report(study.config, console, warn=False)
    if board.take(study):
        return True
    workload, submission, _ = place_of(study)
    records = Records(board.runs)
    if any(not records.trial(TrialKey(workload, submission, trial_id))["sandboxed"] for trial_id in ran.trial_ids):
        raise DataError(
            f"{submission} on {workload} has rows without a sandbox in {board.runs}, and such rows are on no board. "
            "Run the same command on a system that can keep trainers in (docs/trust.md), or with other RESULTS."
        )
    return False


def _seconds(study: Study, per_step: dict[str, float]) -> float:
    """What a study takes at most, in seconds."""
    config = study.config
    return config.ruleset.trials * config.budget.steps * per_step[config.workload.name]


def _budgets(studies: Sequence[Study], console: Console) -> dict[str, float]:
    """Seconds per step of the reference by workload, measured where they are not known, without those that cannot be.

    All before anything runs: the order depends on them.
    """
    found: dict[str, float] = {}
    for study in {place_of(study)[0]: study for study in studies}.values():
        config = study.config.workload
        workload = create_workload(config.entry, config.options)
        try:
            if not data.is_present(workload, data.data_folder()):
                data.fetch(workload, data.data_folder(), console.print)
            found[config.name] = seconds_per_step(study, console, unless_quiet=True)
        except HarnessError as error:
            console.print(f"{config.name}: {command_line.what_went_wrong(error)}", style="red", soft_wrap=True)
    return found


def _closed_division(console: Console) -> tuple[dict[str, Submission], list[str]]:
    """Every submission of this repository that trains the workload's network; and those that cannot be read here."""
    closed: dict[str, Submission] = {}
    unreadable: list[str] = []
    for path in visible(SUBMISSIONS, "*/submission.yaml"):
        name = path.parent.name
        try:
            submission = load_submission(name)
        except ConfigError as error:
            console.print(f"left as it is, {name}: {error}", soft_wrap=True)
            unreadable.append(name)
            continue
        if submission.division == "closed":
            closed[name] = submission
    return closed, unreadable


def _entered(config: ReferenceBoardConfig, results: Path, closed: set[str], console: Console) -> list[str]:
    """Names of the submissions that belong on a board."""
    if config.submissions == "closed":
        return sorted(closed)
    best = _best(config, results, closed, console) if config.best is not None else []
    there = set(BoardFile(results, config.name).read().trials["submission"].to_pylist()) & closed
    return list(dict.fromkeys([*config.submissions, *best, *sorted(there)]))


def _best(config: ReferenceBoardConfig, results: Path, closed: set[str], console: Console) -> list[str]:
    """The best of another board, once enough are on it; else none, in one line."""
    best = config.best
    assert best is not None
    source = load("reference", best.board, ReferenceBoardConfig)
    ruleset = load("ruleset", source.ruleset, RulesetConfig)
    workloads = load("suite", source.suite, SuiteConfig).workloads
    rows = BoardFile(results, source.name).read()
    studies = rows.trials.select(["workload", "submission", "study"]).to_pandas().drop_duplicates()
    count = studies[studies["workload"].isin(workloads)].groupby("submission").size()
    names = [str(name) for name in count.index[count >= ruleset.studies * len(workloads)] if name in closed]
    if len(names) < best.among:
        console.print(
            f"{config.name}: {len(names)} submissions are on {source.name} with all their studies, and its best "
            f"{best.count} are asked for once {best.among} are: {', '.join(config.submissions)} until then",
            soft_wrap=True,
        )
        return []
    return best_of(rows, names, best.count)


def _chosen(given: list[str], known: Collection[str], what: str) -> list[str]:
    """The names that were given, or all. Raises ConfigError for one that is not known."""
    for name in given:
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r} on these boards. {near_matches(name, known)}")
    return given or sorted(known)


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))

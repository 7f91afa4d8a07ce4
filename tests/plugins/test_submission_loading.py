"""A submission's directory is read without running it, and every fault in it is named with its file and line."""

import importlib.metadata
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from harness.api import ConfigError
from harness.plugins.optimizer_entry import Entry
from harness.plugins.search import draw, resolve_overrides
from harness.plugins.submission import find_submission, listed, load_submission, name_of, train_function
from harness.plugins.submission_files import library_versions

YAML = """
title: Mine
authors: me
hyperparameters: {learning_rate: 1e-3, nesterov: true}
search_space:
  learning_rate: {min: 1e-4, max: 1e-2, scaling: log}
"""
CODE = "def train(trial, hp):\n    return trial, hp\n"


def write(folder: Path, *, yaml: str = YAML, code: str | None = CODE, requirements: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "submission.yaml").write_text(yaml)
    if code is not None:
        (folder / "submission.py").write_text(code)
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    return folder


def complaint_about(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_submission(str(folder))
    return str(caught.value)


def test_a_directory_anywhere_on_disk_is_a_submission(tmp_path: Path):
    folder = write(tmp_path / "mine")
    submission = load_submission(str(folder))
    assert submission.name == "mine"
    assert submission.folder == folder
    assert (submission.title, submission.authors, submission.paper) == ("Mine", "me", "")
    assert dict(submission.hyperparameters) == {"learning_rate": 0.001, "nesterov": True}
    assert submission.space.dimensions["learning_rate"].contains(0.005)
    assert submission.entry is None


def test_a_plain_name_is_looked_up_among_the_submissions(tmp_path: Path):
    write(tmp_path / "mine")
    assert load_submission("mine", tmp_path).folder == tmp_path / "mine"


def test_a_list_is_a_default_too_whose_numbers_are_of_one_type(tmp_path: Path):
    folder = write(tmp_path / "mine", yaml=YAML.replace("1e-3", "1e-3, betas: [0, 0.95], widths: [64, 32]"))
    defaults = load_submission(str(folder)).hyperparameters
    assert repr(defaults.betas) == "(0.0, 0.95)"
    assert defaults.widths == (64, 32)


def test_a_link_gives_a_submission_its_name(tmp_path: Path):
    folder = write(tmp_path / "a" / "mine")
    (tmp_path / "fast").symlink_to(folder)
    fast = load_submission(str(tmp_path / "fast"))
    assert (fast.name, fast.folder, fast.given_as) == ("fast", folder, str(tmp_path / "fast"))


def test_a_submission_is_found_again_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "root" / "ours")
    write(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert load_submission("ours", tmp_path / "root").given_as == "ours"
    assert load_submission("../root/ours/", tmp_path / "root").given_as == "ours"
    assert load_submission(".").given_as == load_submission("../mine/").given_as == str(tmp_path / "mine")


def test_a_list_of_submissions_has_each_once_and_a_comma_in_a_path_is_no_separator(tmp_path: Path):
    folder = write(tmp_path / "a,b" / "mine")
    assert listed(f"adamw, {folder},muon,adamw,") == ["adamw", str(folder), "muon"]
    assert [name_of(name) for name in ("adamw", f"{folder}/", "~/x/rule")] == ["adamw", "mine", "rule"]


def test_a_list_longer_than_any_path_is_a_list_and_a_name_that_long_is_unknown():
    names = [f"submission_{number}" for number in range(60)]
    assert listed(",".join(names)) == names
    with pytest.raises(ConfigError, match="there is no submission"):
        find_submission("x" * 5000)


def test_an_unknown_name_is_answered_with_its_near_matches(tmp_path: Path):
    write(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"no submission 'mime' in .* Did you mean 'mine'\?"):
        load_submission("mime", tmp_path)


def test_reading_runs_no_line_of_the_submission(tmp_path: Path):
    folder = write(tmp_path / "mine", code=f"open({str(tmp_path / 'ran')!r}, 'w')\n{CODE}")
    load_submission(str(folder))
    assert not (tmp_path / "ran").exists()
    train_function(folder, None)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        (YAML.replace("title", "titel"), "unknown key 'titel'. Did you mean 'title'?"),
        (YAML.replace("authors: me", ""), "authors is None. Write a line of text."),
        ("title: Mine\nauthors: me\n", "hyperparameters is None"),
        (YAML.replace("1e-3", "[1, [2]]"), "hyperparameters.learning_rate.1 is [2]"),
        (YAML.replace("1e-3", "[]"), "hyperparameters.learning_rate is an empty list"),
        (YAML.replace("1e-3", "{a: 1}"), "hyperparameters.learning_rate is {'a': 1}"),
        (YAML.replace("nesterov:", "is nesterov:"), "hyperparameters has the name 'is nesterov'"),
        (YAML.replace("min: 1e-4", "min: 1"), "search_space.learning_rate has min 1 > max 0.01. Swap them."),
        (YAML.replace("min: 1e-4", "min: 0"), "with scaling log"),
        (YAML.replace("  learning_rate:", "  learning_rat:"), "'learning_rat', which is not a hyperparameter"),
        ("title: {\n", "is not YAML"),
        ("title: a\ntitle: b\n", "is not YAML"),
        ("- title\n", "Write a mapping"),
        (YAML.replace("Mine", "${nowhere}"), "cannot be read"),
        (YAML + "schedule: warmup_cosine\n", "schedule goes with an entry only"),
        (YAML + "entry: torch.optim.Adagrad\n", "there is a submission.py as well"),
    ],
)
def test_a_fault_in_submission_yaml_is_named_with_its_file(tmp_path: Path, yaml: str, complaint: str):
    folder = write(tmp_path / "mine", yaml=yaml)
    message = complaint_about(folder)
    assert message.startswith(str(folder / "submission.yaml"))
    assert complaint in message


@pytest.mark.parametrize(
    ("code", "line", "complaint"),
    [
        ("import torch\n", 1, "there is no top-level function train(trial, hp)"),
        ("class Loop:\n    def train(self, hp): ...\n", 1, "there is no top-level function"),
        ("import torch\ndef train(trial, hp)\n    pass\n", 2, "expected ':'"),
        ("\n\ndef train(trial): ...\n", 3, "train(trial) cannot be called with two arguments"),
        ("def train(trial, hp, model): ...\n", 1, "train(trial, hp, model) cannot be called"),
        ("def train(trial, hp, *, model): ...\n", 1, "train(trial, hp, *, model) cannot be called"),
        ("async def train(trial, hp): ...\n", 1, "train is no plain function"),
        ("def train(trial, hp): ...\ndef train(trial): ...\n", 2, "train(trial) cannot be called"),
    ],
)
def test_a_fault_in_submission_py_is_named_with_its_line(tmp_path: Path, code: str, line: int, complaint: str):
    folder = write(tmp_path / "mine", code=code)
    message = complaint_about(folder)
    assert message.startswith(f"{folder / 'submission.py'}:{line}: ")
    assert complaint in message


@pytest.mark.parametrize(
    "code",
    [
        "def train(trial, hp, *, verbose=False): ...\n",
        "def train(*arguments): ...\n",
        "from loop import train\n",
        "from loop import main as train\n",
        "train = print\n",
    ],
)
def test_any_train_that_can_be_called_with_two_arguments_will_do(tmp_path: Path, code: str):
    assert load_submission(str(write(tmp_path / "mine", code=code))).name == "mine"


def test_a_directory_needs_code_or_an_entry(tmp_path: Path):
    assert "neither a submission.py nor an entry" in complaint_about(write(tmp_path / "mine", code=None))


def test_a_directory_needs_a_submission_yaml(tmp_path: Path):
    assert f"there is no {tmp_path / 'submission.yaml'}" in complaint_about(tmp_path)


def test_a_path_needs_a_directory(tmp_path: Path):
    assert "there is no directory" in complaint_about(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["keys", "items", "lambda", "two words"])
def test_a_hyperparameter_must_be_a_name_that_code_can_read(tmp_path: Path, name: str):
    yaml = f"title: Mine\nauthors: me\nhyperparameters: {{{name}: 1.0}}\n"
    assert f"has the name '{name}'. Use a Python name" in complaint_about(write(tmp_path / "mine", yaml=yaml))


def test_a_name_must_fit_into_the_paths_of_the_records(tmp_path: Path):
    assert "use letters, digits" in complaint_about(write(tmp_path / "my=optimizer"))


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("entry: Adagrad", "Give a dotted name"),
        ("entry: nowhere_at_all.Adagrad", "nowhere_at_all is not installed"),
        ("entry: torch.optim.Adagrad\nschedule: warmup_cosin", "Did you mean 'warmup_cosine' or"),
        ("entry: torch.optim.Adagrad\nschedule: warmup_cosine", "needs warmup_fraction"),
        ("entry: torch.optim.Adagrad\nlearning: 1", "unknown key 'learning'"),
        ("entry: torch.optim.Adagrad\nstep: clousure", "step is 'clousure'. Did you mean 'closure'?"),
        ("entry: torch.optim.Adagrad\ngroups: {rest: torch.optim.SGD}", "there are an entry and groups"),
        ("entry: torch.optim.Adagrad\narguments: [1]", "arguments is [1]. Use a mapping"),
        ("entry: torch.optim.Adagrad\narguments: {base: nowhere_at_all.SGD}", "nowhere_at_all is not installed"),
        ("entry: torch.optim.Adagrad\narguments: {nesterov: false}", "nesterov is an argument and a hyperparameter"),
        ("arguments: {nesterov: false}", "arguments goes with an entry only"),
        ("groups: torch.optim.Muon", "groups is 'torch.optim.Muon'. Use a mapping"),
        ("groups: {matrices: torch.optim.Muon}", "groups has no rest"),
        ("groups: {matrixes: torch.optim.Muon}", "unknown name 'matrixes'. Did you mean 'matrices' or"),
        ("groups: {rest: Muon}", "groups.rest is 'Muon'. Give a dotted name"),
        ("groups: {rest: {arguments: {}}}", "groups.rest.entry is None. Give a dotted name"),
        ("groups: {rest: {entry: torch.optim.SGD, lr: 1}}", "groups.rest has an unknown key 'lr'"),
        ("groups: {rest: torch.optim.SGD}\narguments: {lr: 1}", "arguments of groups stand in each"),
        ("groups: {rest: torch.optim.SGD}\nstep: closure", "step closure goes with an entry for all parameters"),
    ],
)
def test_a_fault_in_an_entry_is_named(tmp_path: Path, lines: str, complaint: str):
    message = complaint_about(write(tmp_path / "mine", yaml=YAML + lines, code=None))
    assert message.startswith(str(tmp_path / "mine" / "submission.yaml"))
    assert complaint in message


GROUPS = """
title: Mine
authors: me
groups: {matrices: torch.optim.Muon, rest: torch.optim.AdamW}
schedule: warmup_linear
hyperparameters:
  warmup_fraction: 0.05
  matrices: {learning_rate: 0.02}
  rest: {learning_rate: 1e-3, betas: [0.9, 0.95]}
search_space:
  matrices.learning_rate: {min: 2e-3, max: 0.2, scaling: log}
  rest.betas.1: {values: [0.95, 0.99]}
"""


def test_groups_have_hyperparameters_of_their_own(tmp_path: Path):
    submission = load_submission(str(write(tmp_path / "mine", yaml=GROUPS, code=None)))
    assert dict(submission.hyperparameters) == {
        "warmup_fraction": 0.05,
        "matrices.learning_rate": 0.02,
        "rest.learning_rate": 1e-3,
        "rest.betas": (0.9, 0.95),
    }
    points = draw(submission.space, count=8, seed=0)
    assert len({point["matrices.learning_rate"] for point in points}) == 8
    assert {point["rest.betas"] for point in points} == {(0.9, 0.95), (0.9, 0.99)}
    given = {"matrices": {"learning_rate": "3e-2"}, "rest": {"betas": {"0": 0.8}}}
    overridden = resolve_overrides(submission.hyperparameters, given)
    assert (overridden["matrices.learning_rate"], overridden["rest.betas"]) == (0.03, (0.8, 0.95))
    assert Entry.from_message(json.loads(json.dumps(submission.entry.message()))) == submission.entry


def test_an_entry_may_lie_in_the_directory_itself(tmp_path: Path):
    folder = write(tmp_path / "mine", yaml=YAML + "entry: my_rule.Rule\n", code=None)
    (folder / "my_rule.py").write_text("import torch\nclass Rule(torch.optim.SGD): ...\n")
    submission = load_submission(str(folder))
    assert callable(train_function(submission.folder, submission.entry))


def test_helpers_beside_submission_py_can_be_imported(tmp_path: Path):
    folder = write(tmp_path / "mine", code="from loop_of_mine import train\n")
    (folder / "loop_of_mine.py").write_text("def train(trial, hp):\n    return trial + hp\n")
    assert train_function(folder, None)(1, 2) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("helper", "other"),
    [
        ("random.py", "a module of Python's standard library"),
        ("types.py", "a module of Python's standard library"),
        ("workloads.py", "a package of this project"),
        ("scipy.py", "an installed package"),
        ("torch/__init__.py", "an installed package"),
    ],
)
def test_a_helper_that_has_the_name_of_another_module_is_refused(tmp_path: Path, helper: str, other: str):
    folder = write(tmp_path / "mine")
    (folder / helper).parent.mkdir(exist_ok=True)
    (folder / helper).write_text("")
    message = complaint_about(folder)
    assert message.startswith(str(folder / helper.split("/")[0]))
    assert f"is also {other}" in message
    assert "Give the helper another name" in message


@pytest.mark.parametrize("helper", ["data.py", "tests/__init__.py", "random/notes.txt", "random.txt", "plot-all.py"])
def test_a_helper_that_nothing_else_is_called_by_is_welcome(tmp_path: Path, helper: str):
    folder = write(tmp_path / "mine")
    (folder / helper).parent.mkdir(exist_ok=True)
    (folder / helper).write_text("")
    assert load_submission(str(folder)).name == "mine"


def test_what_the_submissions_import_raises_passes_through(tmp_path: Path):
    folder = write(tmp_path / "mine", code="raise ZeroDivisionError('mine')\n" + CODE)
    with pytest.raises(ZeroDivisionError, match="mine"):
        train_function(folder, None)


def test_met_requirements_are_accepted(tmp_path: Path):
    lines = "# what it needs\ntorch>=2.0  # any\n\nnowhere-at-all>=1; python_version < '3'\n"
    assert load_submission(str(write(tmp_path / "mine", requirements=lines))).name == "mine"


@pytest.mark.parametrize(
    ("requirements", "complaint"),
    [
        ("nowhere-at-all>=1.0\n", "asks for nowhere-at-all>=1.0 (not installed)"),
        ("torch>=999\n", "asks for torch>=999 (installed: "),
    ],
)
def test_unmet_requirements_are_named_with_the_command_that_installs_them(
    tmp_path: Path, requirements: str, complaint: str
):
    message = complaint_about(write(tmp_path / "mine", requirements=requirements))
    assert complaint in message
    assert (
        f"-m pip install --constraint constraints.txt --requirement {tmp_path / 'mine' / 'requirements.txt'}" in message
    )


def test_a_line_that_is_no_requirement_is_named_with_its_number(tmp_path: Path):
    message = complaint_about(write(tmp_path / "mine", requirements="torch\n-r other.txt\n"))
    assert message.startswith(f"{tmp_path / 'mine' / 'requirements.txt'}:2: ")


def test_the_hash_follows_names_and_bytes_of_the_files_and_nothing_else(tmp_path: Path):
    first = load_submission(str(write(tmp_path / "a" / "mine"))).content_hash
    copy = write(tmp_path / "b" / "mine")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "submission.pyc").write_bytes(b"compiled")
    (copy / ".hidden").write_text("notes")
    assert load_submission(str(copy)).content_hash == first
    (copy / "helper.py").write_text("")
    renamed = load_submission(str(copy)).content_hash
    assert renamed != first
    (copy / "helper.py").write_text("x = 1")
    assert load_submission(str(copy)).content_hash not in (first, renamed)


@pytest.mark.parametrize(
    ("yaml", "predictor", "complaint"),
    [
        (
            "division: shut",
            "def build(settings): ...",
            "division is 'shut'. Use one of closed, open, replay.",
        ),
        ("division: open", None, "is of the open division and has no predictor.py. Write one, with a build(settings)"),
        ("division: open", "x = 1", "predictor.py:1: there is no top-level function build(settings). Define it."),
        ("division: open", "\ndef build(): ...", "predictor.py:2: build() cannot be called with one argument. Define"),
        ("division: open\napi: algoperf", "def build(settings): ...", "division: open goes with a submission.py alone"),
    ],
)
def test_an_open_submission_needs_a_predictor_that_builds(tmp_path: Path, yaml, predictor, complaint):
    folder = write(tmp_path / "mine", yaml=f"{YAML}{yaml}\n")
    if predictor is not None:
        (folder / "predictor.py").write_text(predictor)
    assert complaint in complaint_about(folder)


def test_a_submission_is_of_the_closed_division_unless_it_says_otherwise(tmp_path: Path):
    folder = write(tmp_path / "mine")
    assert load_submission(str(folder)).division == "closed"
    (folder / "predictor.py").write_text("def build(settings): ...")
    write(folder, yaml=f"{YAML}division: open\n")
    assert load_submission(str(folder)).division == "open"
    write(folder, yaml=f"{YAML}division: replay\n")
    assert load_submission(str(folder)).division == "replay"


def test_a_submission_travels_to_another_process(tmp_path: Path):
    submission = load_submission(str(write(tmp_path / "mine")))
    assert pickle.loads(pickle.dumps(submission)) == submission


def test_importing_the_loader_stays_light():
    heavy = "('omegaconf', 'hydra', 'scipy', 'wandb', 'torchvision', 'packaging.requirements')"
    code = f"import sys, harness.plugins.submission; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_libraries_of_a_submission_are_those_of_its_entry_and_of_its_requirements(tmp_path: Path):
    folder = write(tmp_path / "mine", requirements="numpy  # arrays\nnowhere; python_version < '3'\n")
    numpy, torch, yaml = (importlib.metadata.version(name) for name in ("numpy", "torch", "PyYAML"))
    assert library_versions(folder, []) == {"numpy": numpy}
    assert library_versions(folder, ["torch.optim.Adagrad"]) == {"numpy": numpy, "torch": torch}
    assert library_versions(folder, ["yaml.Loader"]) == {"numpy": numpy, "PyYAML": yaml}
    (folder / "yaml.py").write_text("class Loader: ...\n")
    assert library_versions(folder, ["yaml.Loader"]) == {"numpy": numpy}, "a module of its own is in its hash"


def test_a_directory_that_could_hold_weights_is_refused_unread(tmp_path: Path):
    folder = write(tmp_path / "mine")
    (folder / "weights.py").write_text("W = '" + "x" * (600 << 10) + "'\n")
    complaint = complaint_about(folder)
    assert f"{folder} holds 600 KiB, 600 of them in weights.py; 512 are allowed" in complaint


def test_a_directory_of_a_thousand_files_is_refused(tmp_path: Path):
    folder = write(tmp_path / "mine")
    for number in range(1000):
        (folder / f"{number}.txt").touch()
    assert f"{folder} holds more than 500 files" in complaint_about(folder)

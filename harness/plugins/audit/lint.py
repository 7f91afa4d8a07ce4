"""Reads the source of a submission for signs that it knows the workloads, without running a line of it.

A sign is a question for a person, no proof: whoever hides well leaves none, and twins see what he gains.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.plugins.audit.knowledge import tests_of_knowledge
from harness.plugins.audit.names import Names
from harness.plugins.submission_files import read_files

_FILES = "reads or writes files"
_NETWORK = "reaches for a network"
_PROCESS = "reaches beyond its own loop, to processes, threads or memory"
_PACKED = "unpacks what was packed, such as weights"
_DATA = "imports a package that ships data or trained weights"
_OURS = "imports what is no public name of the suite"
_CODE = "makes code out of text"
_SEED = "sets a seed of its own choice for what the harness draws"
_MODULES = {
    _FILES: "os io pathlib shutil tempfile mmap glob fileinput sqlite3 dbm shelve zipfile tarfile h5py pandas polars "
    "pyarrow safetensors torch.load torch.save torch.jit.load torch.from_file torch.UntypedStorage.from_file "
    "torch.serialization numpy.load numpy.fromfile numpy.loadtxt numpy.genfromtxt numpy.memmap numpy.lib.format open",
    _NETWORK: "socket ssl urllib http ftplib smtplib xmlrpc asyncio requests httpx aiohttp torch.hub "
    "torch.utils.model_zoo wandb",
    _PROCESS: "ctypes cffi gc inspect signal subprocess multiprocessing threading concurrent sys psutil "
    "torch.multiprocessing torch.utils.cpp_extension",
    _PACKED: "base64 binascii codecs zlib gzip bz2 lzma pickle marshal dill cloudpickle joblib",
    _DATA: "sklearn.datasets scipy.datasets torchvision torchaudio torchtext datasets transformers huggingface_hub "
    "timm nltk keras tensorflow tensorflow_datasets seaborn skimage statsmodels sacrebleu",
    _OURS: "workloads submissions benchmarks tests hydra_plugins",
    _CODE: "importlib runpy code codeop exec eval compile __import__ builtins globals",
}
_SEEDS = ("torch.manual_seed", "torch.random.manual_seed", "random.seed", "numpy.random.seed")
_INSIDES = {"__globals__", "__subclasses__", "__code__", "__closure__", "__module__", "f_back", "f_globals", "gi_frame"}
_RUN = re.compile(r"\S{160,}")  # no address of a paper is as long
_BYTES_AT_MOST = 64
_CONSTANTS_AT_MOST = 64  # in one list; tables of coefficients have two dozen
_LARGEST_NUMBER = 2**64
_OTHER_FILES = (".md", ".txt", ".yaml", ".yml", ".json", ".toml", ".cfg")
_OTHER_BYTES = 1 << 14


@dataclass(frozen=True, order=True)
class Sign:
    """A line that a person should look at, and why."""

    file: str
    line: int
    what: str


def read_source(folder: Path, *, workloads: Sequence[str]) -> list[Sign]:
    """All signs in the directory of a submission, by file and line. `workloads`: names that it must not know.

    Raises ConfigError where a file cannot be read.
    """
    found: set[Sign] = set()
    for name, content in read_files(folder).content.items():
        signs = _of_python(content, workloads) if name.endswith(".py") else _of_others(name, content, workloads)
        found |= {Sign(name, line, what) for line, what in signs}
    return sorted(found)


def _of_python(content: bytes, workloads: Sequence[str]) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        yield getattr(error, "lineno", None) or 1, "is no Python that can be read"
        return
    names = Names(tree)
    prose = _docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        yield from ((line, what) for what in _imports(node, names))
        yield from ((line, what) for what in _insides(node, names))
        if node not in prose:
            yield from ((line, what) for what in _blobs(node))
            yield from ((line, what) for what in _names_of_workloads(node, workloads))
    yield from tests_of_knowledge(tree, names)


def _of_others(name: str, content: bytes, workloads: Sequence[str]) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        yield 1, "is no text"
        return
    if len(content) > _OTHER_BYTES or not (name.endswith(_OTHER_FILES) or "." not in name):
        yield 1, f"is {len(content)} bytes that are no Python"
    for number, line in enumerate(text.splitlines(), start=1):
        if _RUN.search(line):
            yield number, "holds a long run of letters without a blank"
        if name.endswith((".yaml", ".yml", ".json")):
            yield from ((number, f"names the workload {each}") for each in workloads if each in line.partition("#")[0])


def _imports(node: ast.AST, names: Names) -> Iterator[str]:
    """Modules and functions that a training algorithm has no use for."""
    for dotted in names.used_by(node):
        for what, modules in _MODULES.items():
            yield from (f"{what} ({each})" for each in modules.split() if f"{dotted}.".startswith(f"{each}."))
        if dotted.startswith("harness.") and isinstance(node, ast.Import | ast.ImportFrom) and _is_inner(node):
            yield f"{_OURS} ({dotted})"
    if isinstance(node, ast.Call) and names.dotted(node.func) in _SEEDS and _is_number(node.args):
        yield f"{_SEED} ({ast.unparse(node)})"


def _is_inner(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether a module below `harness` is imported, instead of a name that it gives out itself."""
    return isinstance(node, ast.Import) or "." in (node.module or "")


def _is_number(arguments: list[ast.expr]) -> bool:
    return bool(arguments) and isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, int)


def _insides(node: ast.AST, names: Names) -> Iterator[str]:
    """What is no part of the interface of a trial."""
    if isinstance(node, ast.Attribute) and node.attr in _INSIDES:
        yield f"looks behind what it is given ({node.attr})"
    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and names.is_of_trial(node.value):
        yield f"looks behind what it is given ({ast.unparse(node)})"
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "vars", "dir") and node.args:
        name = node.args[1] if len(node.args) > 1 else None
        is_plain = isinstance(name, ast.Constant) and not str(name.value).startswith("_")
        if names.is_of_trial(node.args[0]) and not is_plain:
            yield f"looks behind what it is given ({ast.unparse(node)})"


def _blobs(node: ast.AST) -> Iterator[str]:
    """Constants that may be weights or data."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str) and _RUN.search(value):
            yield f"holds a text of {len(value)} letters without a blank"
        if isinstance(value, bytes) and len(value) > _BYTES_AT_MOST:
            yield f"holds {len(value)} bytes"
        if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
            yield f"holds a whole number of {value.bit_length()} bits"
    if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
        count = sum(isinstance(each, ast.Constant) for each in ast.walk(node))
        if count > _CONSTANTS_AT_MOST:
            yield f"holds a table of {count} constants"


def _names_of_workloads(node: ast.AST, workloads: Sequence[str]) -> Iterator[str]:
    texts: list[str] = [value for _, value in ast.iter_fields(node) if isinstance(value, str)]
    yield from (f"names the workload {each}" for each in workloads if any(each in text for text in texts))


def _docstrings(tree: ast.AST) -> set[ast.AST]:
    """Texts that stand for themselves and do nothing."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }

"""The modules that AlgoPerf submissions import, so that their files run as they are: the API's words, no framework.

What such files take from elsewhere in AlgoPerf's repository (data pipelines, models, JAX) is not here; the import says
so.
"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from harness.api import ConfigError

API = ("algoperf", "algorithmic_efficiency")
"""The package's name today, and at version 0.5."""
_NOT_HERE = ("jax", "jaxlib", "flax", "optax", "chex", "tensorflow")
_TYPES = (
    "Tensor", "ParameterKey", "ParameterContainer", "ParameterTypeTree", "ParameterShapeTree", "Shape", "RandomState",
    "OptimizerState", "Hyperparameters", "Timing", "Steps", "ModelAuxiliaryState", "ModelInitState", "UpdateReturn",
    "InitOptimizerFn", "UpdateParamsFn", "PrepareForEvalFn", "DataSelectionFn",
)  # fmt: skip


class LossType(enum.Enum):
    """AlgoPerf's names of losses."""

    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    CTC_LOSS = 3
    MEAN_ABSOLUTE_ERROR = 4


class ForwardPassMode(enum.Enum):
    """In which mode a forward pass is made."""

    TRAIN = 0
    EVAL = 1


class ParameterType(enum.Enum):
    """AlgoPerf's roles of parameters."""

    WEIGHT = 0
    BIAS = 1
    CONV_WEIGHT = 2
    BATCH_NORM_SCALE = 3
    BATCH_NORM_BIAS = 4
    LAYER_NORM_SCALE = 5
    LAYER_NORM_BIAS = 6
    EMBEDDING = 7
    ATTENTION_Q = 8
    ATTENTION_K = 9
    ATTENTION_V = 10
    ATTENTION_OUT = 11
    ATTENTION_QKV = 12
    ATTENTION_KV = 13
    ATTENTION_BIAS = 14


class ShapeTuple:
    """The shape of a parameter as one leaf of a tree."""

    def __init__(self, shape_tuple: tuple[int, ...]) -> None:
        self.shape_tuple = shape_tuple

    def __repr__(self) -> str:
        return f"ShapeTuple({self.shape_tuple})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeTuple) and self.shape_tuple == other.shape_tuple

    def __hash__(self) -> int:
        return hash(self.shape_tuple)


class TrainingCompleteError(Exception):
    """A submission's word that it has nothing left to do."""


class Workload:
    """For annotations: what a submission gets is `AlgoPerfWorkload`."""


def pytorch_setup() -> tuple[bool, int, torch.device, int]:
    """Whether there are data-parallel ranks, which one this is, its device, the number of GPUs: one process here."""
    return (
        False,
        0,
        torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
        torch.cuda.device_count(),
    )


def install(folder: Path) -> None:
    """Let the files of `folder` import AlgoPerf's names, absl's logging, and each other, wherever they once lay.

    Raises ConfigError for a file that imports JAX or TensorFlow: such a submission is not one in PyTorch.
    """
    imports = {path: list(_imports(path)) for path in sorted(folder.rglob("*.py"))}
    for path, names in imports.items():
        for name in names:
            if name.partition(".")[0] in _NOT_HERE:
                raise ConfigError(
                    f"{path.relative_to(folder)} imports {name}. Only AlgoPerf submissions in PyTorch run here: "
                    "give the directory of the PyTorch version."
                )
    _install_api()
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, _Relocated(folder))
    if any(name.startswith("torch.distributed") for names in imports.values() for name in names):
        _join_alone()


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, those in functions too."""
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _install_api() -> None:
    spec = _module(
        "spec",
        LossType=LossType, ForwardPassMode=ForwardPassMode, ParameterType=ParameterType, ShapeTuple=ShapeTuple,
        TrainingCompleteError=TrainingCompleteError, Workload=Workload, **dict.fromkeys(_TYPES, Any),
    )  # fmt: skip
    pytorch_utils = _module("pytorch_utils", pytorch_setup=pytorch_setup)
    for package in API:
        _register(package, spec=spec, pytorch_utils=pytorch_utils)
    said = logging.getLogger("absl")
    names = ("debug", "info", "warning", "error", "fatal", "exception", "log")
    words: dict[str, Any] = {name: getattr(said, name) for name in names} | {"warn": said.warning}
    levels = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR", "FATAL")}
    # Level names have other values in absl; here they only go back into set_verbosity and log.
    _register("absl", logging=_module("logging", set_verbosity=said.setLevel, **words, **levels))


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def _register(package: str, **modules: ModuleType) -> None:
    """Make a package of `modules`, in place of one of that name that may be installed."""
    parent = ModuleType(package)
    parent.__path__ = []
    sys.modules[package] = parent
    for name, module in modules.items():
        sys.modules[f"{package}.{name}"] = module
        setattr(parent, name, module)


class _Relocated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of the directory under paths that end in theirs.

    `submissions_algorithms.leaderboard.external_tuning.x.optimizers.y` is `optimizers.y`, if the directory has that:
    such files name each other by where they lay in AlgoPerf's repository. The module is one object under both names.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.rglob("*.py"))
        # Every import of the trainer asks here first, by the hundred: looking at the disk each time would be charged.
        self._packages = {path.relative_to(folder).parent.parts for path in files} - {()}
        self._modules = {path.relative_to(folder).with_suffix("").parts for path in files} | self._packages
        self._prefixes = {
            ".".join(parts[:length])
            for path in files
            for name in _imports(path)
            for parts in [name.split(".")]
            if self._own_suffix(name) not in (None, name)
            for length in range(1, len(parts))
        }

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of such a name, or of a folder on the way to it."""
        own = self._own_suffix(fullname)
        if own is not None and own != fullname:
            return importlib.machinery.ModuleSpec(fullname, self, loader_state=own, is_package=self._is_package(own))
        if own is None and fullname in self._prefixes:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """The module itself; a new, empty package for a folder on the way."""
        return importlib.import_module(spec.loader_state) if spec.loader_state else None

    def exec_module(self, module: ModuleType) -> None:
        """It has run when it was made."""

    def _own_suffix(self, name: str) -> str | None:
        """The longest end of a dotted name that is a module of the directory, if any."""
        parts = name.split(".")
        for start in range(len(parts)):
            if tuple(parts[start:]) in self._modules:
                return ".".join(parts[start:])
        return None

    def _is_package(self, name: str) -> bool:
        return tuple(name.split(".")) in self._packages


def _join_alone() -> None:
    """Make a process group of one: files that import torch.distributed expect that there is one."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the name of this machine need not resolve where there is no network
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)

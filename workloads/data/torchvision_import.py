"""The one place where torchvision is imported. Not needed to read data sets that are already on the disk.

Wheels of torchvision are compiled against one build of torch. Beside another build (a CPU torch under the default
wheel, say) their compiled operators do not load, and `import torchvision` then fails while it describes the shapes of
operators that nobody here uses. Data sets, transforms and models need none of them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
from types import ModuleType

import torch

from harness.api import ConfigError

# The two operators that torchvision/_meta_registrations.py describes even where no compiled operator was loaded;
# their schemas as in torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp.
_SCHEMAS = ("nms", "qnms")
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# torch forgets the schemas when this object dies.
_definitions: list[torch.library.Library] = []


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """`torchvision` or a module inside it, such as `torchvision.datasets`, whether or not its compiled operators load.

    Raises ConfigError where torchvision is not installed.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("torchvision is not installed. Run: pip install torchvision")
    if not _definitions and not _compiled_operators_load(found.submodule_search_locations[0]):
        library = torch.library.Library("torchvision", "DEF")
        for operator in _SCHEMAS:
            library.define(operator + _ARGUMENTS)
        _definitions.append(library)
    return importlib.import_module(name)


def _compiled_operators_load(folder: str) -> bool:
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    loader = (importlib.machinery.ExtensionFileLoader, suffixes)
    extension = importlib.machinery.FileFinder(folder, loader).find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True

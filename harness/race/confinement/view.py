"""What of the file system a trainer sees, as a list of steps that build it. Touches nothing.

The trainer's root starts empty. What is not named here is not there: no data, no results, no home, no history.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Programs and libraries of the system, and the few settings that these read.
_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
    # How many processors there are, and which memory is near them.
    "/sys/devices/system/cpu", "/sys/devices/system/node",
    # Whether malloc may ask for huge pages, which it looks up in every new program.
    "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
_SYSTEM_OF_GPUS = ("/sys", "/etc/OpenCL", "/etc/vulkan")
_LINKS_AT_MOST = 40


@dataclass(frozen=True)
class View:
    """Steps in their order: `shown` paths appear as they are, `hidden` ones become empty folders."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    """("show" or "hide", a real path) or ("link", a path that is a symbolic link)."""
    masked: list[str] = field(default_factory=list)
    """Files and folders that are seen empty."""
    scratch: str = ""
    """The one folder of the host that may be written."""
    devices: list[str] = field(default_factory=list)


def packages_of(entry: str) -> list[str]:
    """The folder of the top-level package that the dotted name `entry` lies in: what it needs to be imported."""
    spec = importlib.util.find_spec(entry.partition(".")[0])
    if spec is None:
        return []
    return [*(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))]


def interpreter() -> list[str]:
    """The running Python, its library, and every folder that it imports from."""
    places = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path]
    return [str(Path(place).absolute()) for place in places if place and Path(place).exists()]


def view_of(
    *, readable: Iterable[str], private: Iterable[str], masked: Iterable[str], scratch: str, gpus: bool
) -> View:
    """The view of a trainer that may read `readable` beside system and interpreter.

    `private`: folders that stay out of sight, such as the data, though something else that is shown should hold them;
    `masked`: files and folders in it that are seen empty; `gpus`: whether it drives NVIDIA devices.
    """
    hidden = [os.path.realpath(path) for path in (str(ROOT), *private, str(Path(scratch).parent))]
    code = [str(ROOT / "harness"), *interpreter(), *readable]
    steps: list[tuple[str, str]] = []
    shown: list[str] = []
    for path in (*_SYSTEM, *(_SYSTEM_OF_GPUS if gpus else ())):
        _show(path, steps, shown, hidden=())
    for path in hidden:
        if any(_is_in(path, above) for above in shown):
            steps.append(("hide", path))
    shown = [path for path in shown if not any(_is_in(path, folder) for folder in hidden)]
    kept = [path for path in shown if not any(_is_in(folder, path) for folder in hidden)]
    for path in code:
        # A folder on the path that holds the repository or the data holds more than code.
        _show(path, steps, kept, hidden=hidden)
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    if gpus:
        devices += sorted(str(path) for path in Path("/dev").glob("nvidia*"))
    return View(steps, [os.path.realpath(path) for path in masked], os.path.realpath(scratch), devices)


def _show(path: str, steps: list[tuple[str, str]], shown: list[str], *, hidden: Iterable[str]) -> None:
    """Add what makes `path` appear, with the links on the way to it."""
    links, real = _resolved(path)
    if not Path(real).exists() or any(_is_in(folder, real) for folder in hidden):
        return
    for link in links:
        if ("link", link) not in steps and not any(_is_in(link, above) for above in shown):
            steps.append(("link", link))
    if not any(_is_in(real, above) for above in shown):
        steps.append(("show", real))
        shown.append(real)


def _resolved(path: str) -> tuple[list[str], str]:
    """The symbolic links that are followed on the way to `path`, and where it leads."""
    links: list[str] = []
    left = [part for part in path.split("/") if part][::-1]
    real = ""
    while left:
        part = left.pop()
        if part == "..":
            real = real.rpartition("/")[0]
            continue
        step = f"{real}/{part}"
        if Path(step).is_symlink() and len(links) < _LINKS_AT_MOST:
            links.append(step)
            target = str(Path(step).readlink())
            real = "" if target.startswith("/") else real
            left += [each for each in target.split("/") if each not in ("", ".")][::-1]
        else:
            real = step
    return links, real or "/"


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")

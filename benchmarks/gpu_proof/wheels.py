"""Brings what a bare machine lacks from wheels beside the repository. Uses the standard library alone.

`make gpu-wheels` downloads them where there is a network; `make gpu-proof` installs them where there is none.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".gpu_wheels"
SITE = ROOT / ".gpu_site"
BYTES_AT_MOST = 60 << 20

LACKING = {
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "antlr4": "antlr4-python3-runtime",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "schedulefree": "schedulefree",
    "rich": "rich",
    "psutil": "psutil",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "pynvml": "nvidia-ml-py",
}
"""What the proof imports beside torch, NumPy, SciPy, pandas, scikit-learn, pyarrow and PyYAML: module -> package."""
WITHOUT = {"nvidia-ml-py"}
"""What the proof can do without: then nvidia-smi alone tells of energy."""
# Python 3.12 on x86-64; pip matches each of these names exactly.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def missing() -> list[str]:
    """Packages of LACKING that this Python cannot import."""
    return [package for module, package in LACKING.items() if importlib.util.find_spec(module) is None]


def install(packages: list[str], *, folder: Path = WHEELS, site: Path = SITE) -> str | None:
    """Unpack the wheels of these packages in `folder` into `site`; returns why not, if so."""
    wanted = [name.replace("-", "_").lower() for name in packages]
    found = {path.name.partition("-")[0].lower().replace(".", "_"): path for path in sorted(folder.glob("*.whl"))}
    spared = {name.replace("-", "_") for name in WITHOUT}
    absent = [name for name in wanted if name not in found and name not in spared]
    if absent:
        return f"{folder.name}/ has no wheel of {', '.join(absent)}. Run make gpu-wheels where there is a network."
    chosen = [str(found[name]) for name in wanted if name in found]
    if not chosen:
        return None
    done = _pip("install", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site), *chosen)
    return None if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def describe_project(site: Path = SITE) -> None:
    """Say in `site` which version of the project this is, as an installation would; rows name it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name, version = (re.search(rf'^{key} = "(.*)"', text, re.MULTILINE) for key in ("name", "version"))
    assert name is not None
    assert version is not None
    folder = site / f"{name[1]}-{version[1]}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    content = f"Metadata-Version: 2.1\nName: {name[1]}\nVersion: {version[1]}\n"
    (folder / "METADATA").write_text(content, encoding="utf-8")


def fetch() -> int:
    """Download a wheel of each package in LACKING into WHEELS, in the versions of constraints.txt; an exit code."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {line.partition("==")[0].lower().replace("_", "-"): line.strip() for line in constraints if "==" in line}
    platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
    for package in LACKING.values():
        wanted = versions.get(package, package)
        fits = ["--only-binary", ":all:", "--python-version", "3.12", "--implementation", "cp", *platforms]
        done = _pip("download", "--no-deps", *fits, "--dest", str(WHEELS), wanted)
        if done.returncode != 0:  # some are published as source alone, which is pure Python here
            done = _pip("wheel", "--no-deps", "--wheel-dir", str(WHEELS), wanted)
        if done.returncode != 0:
            print(f"error: no wheel of {wanted}: {done.stderr.strip().rpartition(chr(10))[2]}", file=sys.stderr)
            return 1
    size = sum(path.stat().st_size for path in WHEELS.glob("*.whl"))
    if size > BYTES_AT_MOST:
        print(f"error: {size / 2**20:.0f} MiB of wheels, {BYTES_AT_MOST / 2**20:.0f} fit. Need less.", file=sys.stderr)
        return 1
    print(f"{len(LACKING)} packages, {size / 2**20:.1f} MiB, in {WHEELS.name}/")
    return 0


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


if __name__ == "__main__":
    sys.exit(fetch())

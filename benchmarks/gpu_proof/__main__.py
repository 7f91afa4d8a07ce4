"""Runs the parts of the proof one after the other, each in a process and with a time limit of its own.

`make gpu-proof` on a machine with a GPU, at most ten minutes; `DEVICE=cpu SMALL=1` runs all of it on a CPU in little.
`PART=a,b` chooses parts, `OUT=folder` where their JSON files go. What a part has found is written as soon as it ends;
one that fails or is out of time does not stop the next. Until the wheels are there, the standard library must do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_proof import wheels

TOTAL_SECONDS = 580.0
LIMITS = {
    "gpu_tests": (80.0, 60.0),
    "freezing": (45.0, 90.0),
    "trials": (90.0, 120.0),
    "energy": (15.0, 20.0),
    "calibration": (40.0, 60.0),
    "optimizers": (50.0, 60.0),
    "ranks": (30.0, 60.0),
    "throughput": (400.0, 120.0),
}
"""Seconds that each part may take on a GPU, and in little on a CPU; in the order in which they run.

The last one, which compiles eleven networks, gets what the others leave.
"""


def main(arguments: list[str]) -> int:
    """`device=cuda|cpu small=1 part=a,b out=folder`; 0: every part was done, 1: one was not, 2: bad input."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    chosen = [name for name in given.pop("part", "").split(",") if name] or list(LIMITS)
    device, small, out = given.pop("device", "cuda"), given.pop("small", "") not in ("", "0"), given.pop("out", "")
    unknown = [*given, *(name for name in chosen if name not in LIMITS)]
    if unknown or device not in ("cuda", "cpu"):
        wrong = unknown[0] if unknown else device
        return _complain(f"{wrong!r} is unknown. Use device=cuda|cpu small=1 out=folder part={','.join(LIMITS)}.")
    lacking = wheels.missing()
    if lacking:
        print(f"installing {', '.join(lacking)} ...", flush=True)
        why_not = wheels.install(lacking)
        if why_not is not None:
            return _complain(why_not)
    environment = _environment()
    name = _device_name(device, environment)
    if name is None:
        return _complain("there is no CUDA device here. Use DEVICE=cpu SMALL=1 to see that the script runs.")
    place = Path(out) if out else _place(name)
    place.mkdir(parents=True, exist_ok=True)
    print(f"{name}: results go to {place}", flush=True)
    ends_at = time.monotonic() + TOTAL_SECONDS
    states = {}
    for part in chosen:
        limit = min(LIMITS[part][small], ends_at - time.monotonic())
        states[part] = _run(part, place / f"{part}.json", device, small, limit, environment)
        print(f"  {part}: {states[part]}", flush=True)
    if not out:
        subprocess.run([sys.executable, "-m", "benchmarks.gpu_proof.page"], env=environment, check=False)
    return 0 if all(state.startswith("done") for state in states.values()) else 1


def _run(part: str, path: Path, device: str, small: bool, limit: float, environment: dict[str, str]) -> str:
    """Run one part; returns how it ended, as its file says too."""
    began = time.monotonic()
    path.unlink(missing_ok=True)
    if limit <= 0:
        return _note(path, part, "out of time", "no time was left for it", 0.0)
    command = [sys.executable, "-m", "benchmarks.gpu_proof.part", part, str(path), device, "1" if small else ""]
    # A group of its own: what is out of time ends with all its children.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        errors="replace", start_new_session=True, cwd=wheels.ROOT,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
        state, reason = ("done", "") if process.returncode == 0 else ("failed", f"exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        state, reason = "out of time", f"was not done after {limit:.0f} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if state == "failed":
        reason = said.strip().rpartition("\n")[2] or reason
    return _note(path, part, state, reason, time.monotonic() - began)


def _note(path: Path, part: str, state: str, reason: str, seconds: float) -> str:
    """Add to what the part has written how it ended."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {"part": part, "result": None}
    content |= {"state": state, "reason": reason, "seconds": round(seconds, 1)}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return f"{state} in {seconds:.0f} s{f' ({reason})' if reason else ''}"


def _environment() -> dict[str, str]:
    """That of the parts: with what was installed, and the project's own metadata where it is not installed."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    try:
        from importlib.metadata import version

        version("timetrial")
    except ImportError:
        wheels.describe_project()
    places = [str(wheels.ROOT), *([str(wheels.SITE)] if wheels.SITE.is_dir() else [])]
    environment["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
    return environment


def _device_name(device: str, environment: dict[str, str]) -> str | None:
    if device == "cpu":
        return "cpu"
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout.strip() or None


def _place(name: str) -> Path:
    """Results of GPUs are committed; those of a CPU prove nothing but that the script runs."""
    results = wheels.ROOT / "results"
    return (
        results / "gpu_proof" / "cpu"
        if name == "cpu"
        else results / "reference" / "gpu" / "-".join(name.lower().split())
    )


def _complain(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The tests that need a GPU, as `make test-gpu` runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from benchmarks.gpu_proof.part import Part
from harness.config import ROOT


def gpu_tests(part: Part) -> dict[str, Any]:
    """How many passed, failed and were skipped, and the end of what pytest printed.

    Only files that have such a test are collected: a bare machine lacks what other tests import. Raises RuntimeError
    where a test failed, after its result has been kept.
    """
    files = [
        path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", "-rs"]
    done = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    result = {"files": [str(path.relative_to(ROOT)) for path in files], **counts, "output": done.stdout[-6000:]}
    part.keep(result)
    if done.returncode not in (0, 5):  # 5: no test was collected
        raise RuntimeError(f"pytest ended with exit code {done.returncode}: {counts}")
    return result

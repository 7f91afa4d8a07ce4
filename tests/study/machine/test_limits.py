"""What a process may use of its machine: affinity, quotas and memory limits of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from harness.study.machine.hardware import departures, this_machine
from harness.study.machine.limits import usable

GIB = 2**30
THERE = psutil.virtual_memory().total
V1_MOUNTS = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {top} /sys/fs/cgroup/mem\\040ory rw,relatime shared:4 - cgroup cgroup rw,memory
22 31 0:20 / /home rw - ext4 /dev/vda rw
"""
V2_MOUNT = "29 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def system(root: Path, *, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """The files of Linux that say what a process may use, below `root`."""
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_control_groups_all_is_usable_that_the_affinity_allows(tmp_path):
    found = usable(tmp_path)
    assert found.cores == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    assert found.memory_bytes == found.memory_there == THERE
    assert 0 < found.free_bytes <= THERE


def test_the_tightest_quota_and_limit_above_a_process_bind_it(tmp_path):
    root = system(
        tmp_path,
        groups="0::/job/step",
        mounts=V2_MOUNT.format(top="/"),
        files={
            "sys/fs/cgroup/job/cpu.max": "50000 100000",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000",
            "sys/fs/cgroup/job/memory.max": "max",
            "sys/fs/cgroup/job/step/memory.max": str(GIB),
            "sys/fs/cgroup/job/step/memory.current": str(GIB // 2),
            "sys/fs/cgroup/job/step/memory.stat": f"anon 5\ninactive_file {GIB // 4}",
        },
    )
    found = usable(root)
    assert found.cores == 0.5
    assert found.memory_bytes == GIB
    assert found.free_bytes == GIB - GIB // 4, "what the page cache holds can be had back"
    assert f"0.5 of {os.cpu_count()} cores, 1 of " in found.words


def test_limits_of_the_first_version_of_control_groups_are_read_too(tmp_path):
    root = system(
        tmp_path,
        groups="3:cpu,cpuacct:/slurm/job_7\n2:memory:/slurm/job_7\n0::/",
        mounts=V1_MOUNTS.format(top="/"),
        files={
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/mem ory/slurm/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/mem ory/slurm/job_7/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    found = usable(root)
    assert (found.cores, found.memory_bytes) == (1, GIB)


@pytest.mark.parametrize("path", ["/docker/4f2a", "/docker/4f2a/inner", "/", "/../../other"])
def test_in_a_container_the_limit_of_its_own_group_lies_at_the_mount(tmp_path, path):
    root = system(
        tmp_path,
        groups=f"2:memory:{path}",
        mounts=V1_MOUNTS.format(top="/docker/4f2a"),
        files={"sys/fs/cgroup/mem ory/memory.limit_in_bytes": str(2 * GIB)},
    )
    assert usable(root).memory_bytes == min(2 * GIB, THERE)


def test_no_quota_and_no_limit_leave_the_machine_as_it_is(tmp_path):
    root = system(
        tmp_path,
        groups="0::/",
        mounts=V2_MOUNT.format(top="/"),
        files={"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"},
    )
    bare, found = usable(tmp_path / "nothing"), usable(root)
    assert (found.cores, found.memory_bytes, found.words) == (bare.cores, bare.memory_bytes, bare.words)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
def test_on_one_of_its_cores_a_machine_is_another_one():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("needs two cores")
    whole = this_machine("local", "cpu", 1, None)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        part = this_machine("local", "cpu", 1, None)
    finally:
        os.sched_setaffinity(0, allowed)
    assert part.fingerprint != whole.fingerprint
    assert f"1 of {os.cpu_count()} cores" in part.description
    wanted = {name: value for name, value in whole.properties.items() if value is not None}
    assert departures(part, wanted) == [f"cores is 1 instead of {len(allowed)}"]
    assert this_machine("local", "cpu", 1, None).fingerprint == whole.fingerprint

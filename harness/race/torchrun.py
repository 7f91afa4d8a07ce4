"""Starts one trainer per device under torch's elastic agent, on this machine, and says which of them failed first.

The agent runs no line of a submission. It forks the ranks, so that they share what has been imported and loaded.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import select
import signal
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from harness.race.channel import Message
from harness.race.processes import die_with_parent, exit_text

# How long a rank that has failed stays: one that was killed is seen to go first, whatever it made others raise.
_LINGER_SECONDS = 1.0
# Long, since ranks are stopped by signal while the referee evaluates; the budget ends a trial that hangs.
_PATIENCE = datetime.timedelta(days=7)

RankMain = Callable[[], Message | None]
"""One rank's whole work. Returns how it failed, as a message to the referee, or None."""


def run_ranks(count: int, main: RankMain) -> Message | None:
    """Run `main` in `count` processes, numbered by $RANK, until all are done or one has failed; none is left.

    Returns the message of the rank that failed first, None where none did.
    """
    # A look for GPUs must not start CUDA here: it does not survive a fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # A rank that is blocked in a collective ends by SIGTERM at once; one that ignores it is killed.
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "2"
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The agent's tables of failures would bury what the submission printed.
    logging.disable(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="trial",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any port that is free
        local_addr="localhost",
        max_restarts=0,
        start_method="fork",
    )
    failures, says = os.pipe()
    try:
        elastic_launch(config, _run_rank)(main, says)
    except ChildFailedError as error:
        number, failure = next(iter(error.failures.items()))
        return _first_failure(_lines(failures), number, failure.exitcode)
    return None


def join(device: torch.device) -> None:
    """Make torch's default process group on one of the ranks: gloo between CPUs, NCCL between GPUs."""
    # The name of this machine need not resolve where there is no network.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # Its threads too are stopped while the referee evaluates, which its watchdog would take for a hang.
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_PATIENCE)


def _run_rank(main: RankMain, says: int) -> None:
    die_with_parent()
    logging.disable(logging.NOTSET)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # the agent's handlers would wait for Python to run
    failure = main()
    if failure is None:
        return
    rank = int(os.environ["RANK"])
    message = {**failure, "reason": f"rank {rank}: {failure['reason']}", "rank": rank}
    os.write(says, json.dumps(message).encode() + b"\n")
    time.sleep(_LINGER_SECONDS)
    os._exit(1)


def _lines(descriptor: int) -> list[Message]:
    """What failed ranks have written, oldest first: each line is short enough to arrive whole."""
    if not select.select([descriptor], [], [], 0)[0]:
        return []
    return [json.loads(line) for line in os.read(descriptor, 1 << 16).splitlines()]


def _first_failure(said: list[Message], rank: int, code: int) -> Message:
    """`rank` was the first that was seen to have gone, with exit code `code`."""
    if all(message["rank"] != rank for message in said):
        return {"type": "crashed", "reason": f"rank {rank} {exit_text(code)}"}
    return {"type": said[0]["type"], "reason": said[0]["reason"]}

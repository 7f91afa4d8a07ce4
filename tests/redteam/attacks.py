"""Dishonest submissions, each with the end that it must get. Runs nothing.

Each source runs after PRELUDE, which tells it what an attacker may know: paths, ports, process numbers.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

PRELUDE = """
    import ctypes, gc, json, mmap, os, signal, socket, struct, sys, threading, time
    from pathlib import Path
    import torch

    libc = ctypes.CDLL(None, use_errno=True)

    def gained(what):
        print("GAINED", what, flush=True)

    def attempt(what, deed):
        # A deed that succeeds has gained; one that fails, or returns False, was held.
        try:
            if deed() is not False:
                gained(what)
                return
        except Exception as error:
            print(f"held {what}: {type(error).__name__}: {error}", flush=True)
            return
        print(f"held {what}", flush=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def system_call(number, *arguments):
        if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments]) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def copies(row):
        # Where these bytes lie in memory, beside the place of `row` itself.
        libc.memmem.restype = ctypes.c_void_p
        own, found = id(row), []
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, *_, path = *line.split(), ""
            begin, end = (int(edge, 16) for edge in span.split("-"))
            while rights.startswith("r") and "[v" not in line and begin < end:
                span = ctypes.c_size_t(end - begin)
                place = libc.memmem(ctypes.c_void_p(begin), span, row, ctypes.c_size_t(len(row)))
                if place is None:
                    break
                if not own <= place < own + sys.getsizeof(row):
                    found.append(line)
                begin = place + 1
        return found

    def channel():
        # The socket to the referee, as a program of its own may find it.
        for descriptor in range(3, 64):
            try:
                found = socket.socket(fileno=os.dup(descriptor))
                found.getpeername()
                return found
            except OSError:
                pass

    def honest(trial, until=None):
        optimizer = torch.optim.SGD(trial.model.parameters(), lr=0.05)
        for batch in trial.batches():
            optimizer.zero_grad()
            trial.loss(batch).backward()
            optimizer.step()
            if trial.step == until:
                trial.finish()
"""


@dataclass(frozen=True)
class Attack:
    """A submission that tries to get what it must not have."""

    name: str
    what: str
    """What it tries, in words."""
    answer: str
    """Why that gains nothing, in words."""
    source: str
    status: str = "finished"
    """How its last trial must end. It is honest beside its attack, and so finishes, unless something stops it."""
    reason: str = ""
    """What the reason of that end must say."""
    trials: int = 1
    """How often it is run: what an earlier trial leaves is for a later one."""
    walls: bool = False
    """True where it fails for the sandbox alone: without one it gains, or could."""
    harmful: bool = False
    """True where it would harm the machine without a sandbox, and so is not run without one."""
    busy: bool = False
    """True where a machine that is busy with other things gives the attack nothing to gain."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What of the trial's specification is other than usual."""


def _deed(name: str, what: str, answer: str, code: str, **more: Any) -> Attack:
    """An attack that tries `code`, once, before it trains honestly for a few steps."""
    more["changes"] = {"max_runtime": 20.0, **more.get("changes", {})}
    body = textwrap.indent(textwrap.dedent(code).strip(), " " * 8)
    return Attack(
        name,
        what,
        answer,
        f"""
    def deed(trial):
{body}

    def train(trial, hp):
        attempt({name!r}, lambda: deed(trial))
        honest(trial, until=3)
""",
        **more,
    )


HELD_OUT = "The trainer's file system holds no data; the training split comes from a process that has ended."
NO_TRACE = "What a trial writes lies in file systems of its own, which end with it."
NO_NETWORK = "The trainer's network has one device, the loopback of its own, where nobody else is."
ALONE = "The trainer's process numbers are of its own namespace."
NO_RIGHTS = "The trainer has no capability and cannot win one; limits on priority are zero."
NO_CALL = "seccomp refuses the call."
STOPPED = "All processes of the trainer are stopped while the clock stands still, and what they used is checked."
CHARGED = "The clock runs from the word to go."
WATCHED = "The referee, or the system, keeps a limit and ends the trial."
CHECKED = "The referee believes nothing that it has not checked."
PROCESSOR = "Processor time of all threads and children is measured against threads times seconds."

ATTACKS = [
    # --- held-out data ---
    _deed(
        "validation split by the workload's module",
        "imports the workload and loads the validation split",
        HELD_OUT,
        """
        from tests.blobs import Blobs
        return len(Blobs(stored=True).load("validation", Path(WORLD["data"]))) > 0
        """,
        walls=True,
    ),
    _deed(
        "validation split by the trial",
        "loads the validation split through the trial's own workload",
        HELD_OUT,
        """
        return len(trial._workload.load("validation", Path(WORLD["data"]))) > 0
        """,
        walls=True,
    ),
    _deed(
        "data folder",
        "lists the data folder, and the wheels in it",
        HELD_OUT,
        "return len(os.listdir(WORLD['data'])) > 0",
        walls=True,
    ),
    _deed(
        "data files by number",
        "opens files by their handles instead of their paths",
        NO_CALL,
        """
        handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
        mount = ctypes.c_int()
        call("name_to_handle_at", -100, b"/", handle, ctypes.byref(mount), 0)
        """,
        walls=True,
    ),
    _deed(
        "held-out rows in memory",
        "searches its own memory for rows of the validation split",
        HELD_OUT,
        """
        hidden, seen = (
            (int(WORLD[name], 16) ^ ((1 << 256) - 1)).to_bytes(32, "big") for name in ("hidden_row", "seen_row")
        )
        if not copies(seen):
            gained("nothing, since this search does not find what is there")
        return len(copies(hidden)) > 0
        """,
    ),
    _deed(
        "held-out tensors among live objects",
        "looks through all live objects for tensors of the held-out rows",
        HELD_OUT,
        """
        return any(
            type(one) is torch.Tensor and (one.untyped_storage().nbytes() == 1024 * 9 * 4 or one.shape[:1] == (256,))
            for one in gc.get_objects()
        )
        """,
    ),
    _deed(
        "mapped data files",
        "looks for data files that are still mapped into its memory",
        HELD_OUT,
        "return WORLD['data'] in Path('/proc/self/maps').read_text()",
    ),
    _deed(
        "digits in scikit-learn",
        "reads the digits that ship with scikit-learn, the held-out ones among them",
        "Files of packages that a workload reads are seen empty.",
        """
        import gzip, importlib.util
        package = Path(importlib.util.find_spec("sklearn").origin).parent
        return len(gzip.decompress((package / "datasets/data/digits.csv.gz").read_bytes())) > 0
        """,
        walls=True,
        changes={"entry": "workloads.digits_mlp.DigitsMlp", "options": {"hidden": [8]}},
    ),
    _deed(
        "installed copies",
        "reads the same data where the system, or an installed package, has them too",
        "Copies that a source of data knows of are seen empty.",
        """
        import importlib.util
        tests = Path(importlib.util.find_spec("tests").submodule_search_locations[0])
        return bool(os.listdir(tests / "algoperf")) or bool((tests / "conftest.py").read_bytes())
        """,
        walls=True,
        changes={"options": {"copied": True}},
    ),
    _deed(
        "repository",
        "reads configuration, results and history of the repository",
        "Of the repository only the harness and the workload's modules are there.",
        "return not set(os.listdir(WORLD['repository'])) <= {'harness', 'tests', 'workloads', '.venv'}",
        walls=True,
    ),
    _deed(
        "descriptors of the server",
        "looks for open files and sockets beside its own two",
        "All descriptors but the channel and the weights are closed.",
        """
        paths = []
        for name in os.listdir("/proc/self/fd"):
            try:
                paths.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
        # The channel, the weights, and where it prints.
        return len({path for path in paths if path.startswith(("socket:", "pipe:", "/memfd:"))}) > 3
        """,
    ),
    _deed(
        "environment of the referee",
        "reads secrets from its environment",
        "It is given a short list of variables.",
        "return 'TIMETRIAL_SECRET' in os.environ",
    ),
    # --- from one trial to the next ---
    _deed(
        "weights on the disk",
        "keeps trained weights in every folder that it can write, for the next trial",
        NO_TRACE,
        """
        places = ["/tmp", "/var/tmp", "/dev/shm", str(Path.home()), os.getcwd(), os.path.dirname(os.getcwd()),
                  os.path.dirname(__file__), os.path.dirname(torch.__file__), WORLD["repository"]]
        marks = [Path(place) / "left.timetrial" for place in places]
        found = [mark for mark in marks if mark.exists()]
        for mark in marks:
            try:
                mark.unlink() if found else mark.write_text("weights")
            except OSError:
                pass
        return len(found) > 0
        """,
        trials=2,
        walls=True,
    ),
    _deed(
        "weights in shared memory",
        "keeps trained weights in System V shared memory",
        NO_CALL,
        """
        libc.shmget.restype = ctypes.c_int
        found = libc.shmget(0x7469, 4096, 0o600)
        if found >= 0:
            libc.shmctl(found, 0, None)
            return True
        call("shmget", 0x7469, 4096, 0o1600)
        return False
        """,
        trials=2,
        walls=True,
    ),
    _deed(
        "weights in a process",
        "leaves a process behind, which serves weights to the next trial",
        "Everything in the trial's process namespace ends with it.",
        """
        server = socket.socket(socket.AF_UNIX)
        try:
            socket.socket(socket.AF_UNIX).connect("\\0left.timetrial")
            return True
        except OSError:
            pass
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                server.bind("\\0left.timetrial")
                server.listen()
                time.sleep(30)
            os._exit(0)
        return False
        """,
        trials=2,
    ),
    _deed(
        "weights in the training split",
        "writes into the training split, which the next trial shares",
        "Each trainer has a copy of its own, made when it writes.",
        """
        values = trial.train_set.tensors()["inputs"]
        found = bool(values[0, 0] == 1234.5)
        values[0, 0] = 1234.5
        return found
        """,
        trials=2,
    ),
    _deed(
        "weights in a keyring",
        "keeps trained weights in a keyring of the kernel",
        NO_CALL,
        "system_call(248, 0, 0, 0, 0, 0) if os.uname().machine == 'x86_64' else system_call(217, 0, 0, 0, 0, 0)",
    ),
    # --- results ---
    _deed(
        "forged row",
        "writes a row of its own into results/runs",
        "It has no results: what it writes there is a copy.",
        """
        folder = Path(WORLD["results"]) / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "forged.parquet").write_text("time_to_target=0.1")
        return False
        """,
        walls=True,
    ),
    _deed(
        "edited journal",
        "edits, then deletes, the journal of its trial",
        "It has no results.",
        """
        path = Path(WORLD["results"]) / "runs" / "journal.jsonl"
        path.write_text("forged")
        path.unlink()
        return False
        """,
        walls=True,
    ),
    _deed(
        "harness on the disk",
        "edits the harness, for the next trial",
        "The system and the harness are read-only.",
        "open(os.path.join(WORLD['repository'], 'harness', '__init__.py'), 'r+').close()",
        walls=True,
    ),
    _deed(
        "own source",
        "edits its own directory after it was hashed",
        "Its directory is read-only.",
        "Path(__file__).with_name('more.py').write_text('x = 1')",
        walls=True,
    ),
    # --- network ---
    _deed(
        "connection to this machine",
        "connects to a server on 127.0.0.1",
        NO_NETWORK,
        "socket.create_connection(('127.0.0.1', WORLD['port']), timeout=2)",
        walls=True,
    ),
    _deed(
        "unix socket",
        "connects to a unix socket of the host",
        NO_NETWORK,
        "socket.socket(socket.AF_UNIX).connect(WORLD['unix'])",
        walls=True,
    ),
    _deed(
        "abstract socket",
        "connects to an abstract unix socket of the host",
        NO_NETWORK,
        "socket.socket(socket.AF_UNIX).connect('\\0' + WORLD['abstract'])",
        walls=True,
    ),
    _deed("network devices", "looks for a way out", NO_NETWORK, "return len(socket.if_nameindex()) > 1", walls=True),
    _deed(
        "other kinds of sockets",
        "talks to the hypervisor, or to the kernel's cryptography",
        NO_CALL,
        """
        for family in (40, 38):
            try:
                socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_SEQPACKET)
                return True
            except OSError:
                pass
        return False
        """,
        walls=True,
    ),
    # --- other processes ---
    _deed(
        "signal to the referee",
        "signals the referee (a real one would stop or kill it)",
        ALONE,
        "os.kill(WORLD['referee'], 0)",
        walls=True,
    ),
    _deed(
        "memory of the referee",
        "reads the referee's memory through /proc",
        ALONE,
        "return len(open(f\"/proc/{WORLD['referee']}/maps\").read()) > 0",
        walls=True,
    ),
    _deed(
        "list of processes",
        "lists the processes of the machine",
        ALONE,
        "return len([name for name in os.listdir('/proc') if name.isdigit()]) > 3",
        walls=True,
    ),
    _deed(
        "memory of its keeper",
        "traces, and reads the memory of, the first process of its namespace",
        NO_CALL,
        """
        for deed in (lambda: call("ptrace", 0x4206, 1, None, None), lambda: open("/proc/1/mem", "rb").close()):
            try:
                deed()
                return True
            except OSError:
                pass
        return False
        """,
        walls=True,
        harmful=True,
    ),
    Attack(
        "signal to everybody",
        "kills every process that it can see",
        ALONE,
        """
    def train(trial, hp):
        for number in (-1, 1):
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:
                pass
        honest(trial, until=3)
""",
        walls=True,
        harmful=True,
    ),
    _deed(
        "server of trainers",
        "kills the process that started it",
        ALONE,
        """
        parent = os.getppid()
        if parent == 0:
            return False
        os.kill(parent, signal.SIGKILL)
        """,
        walls=True,
        harmful=True,
    ),
    # --- rights ---
    _deed("negative nice", "raises its priority", NO_RIGHTS, "os.nice(-10)", walls=True),
    _deed(
        "realtime scheduling",
        "asks for FIFO scheduling",
        NO_RIGHTS,
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        walls=True,
    ),
    _deed(
        "capabilities",
        "looks for capabilities that it has, or could get",
        NO_RIGHTS,
        """
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        has_some = any(int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapBnd"))
        return has_some or lines["NoNewPrivs"].strip() != "1"
        """,
        walls=True,
    ),
    _deed("namespaces", "makes a user namespace to be root in", NO_CALL, "call('unshare', 0x10000000)", walls=True),
    _deed(
        "namespaces by clone",
        "clones a child into a user namespace",
        NO_CALL,
        """
        number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
        child = libc.syscall(ctypes.c_long(number), ctypes.c_long(0x10000000 | 17), None, None, None, None)
        if child == 0:
            os._exit(0)
        return child > 0
        """,
        walls=True,
    ),
    _deed(
        "mounts",
        "mounts a file system",
        NO_CALL,
        "call('mount', b'x', b'/tmp', b'tmpfs', 0, None)",
        walls=True,
        harmful=True,
    ),
    _deed(
        "settings of the kernel",
        "opens settings of the kernel for writing",
        "/proc is read-only, and Landlock lets nothing there be written.",
        "open('/proc/sys/kernel/core_pattern', 'r+').close()",
        walls=True,
    ),
    _deed(
        "devices",
        "makes a device file for the disk and opens it",
        NO_RIGHTS,
        """
        os.mknod("disk", 0o60600, os.makedev(254, 0))
        open("disk", "rb").close()
        """,
        walls=True,
    ),
    _deed(
        "young system calls",
        "tries calls in which holes have been found: io_uring, bpf, userfaultfd, perf",
        NO_CALL,
        """
        numbers = {"x86_64": (425, 321, 323, 298), "aarch64": (425, 280, 282, 241)}[os.uname().machine]
        for number in numbers:
            try:
                system_call(number, 0, 0, 0, 0, 0)
                return True
            except OSError as error:
                if error.errno not in (1, 38):
                    return True
        return False
        """,
        walls=True,
    ),
    # --- the clock ---
    Attack(
        "thread while the clock stands still",
        "computes in a thread while the referee evaluates",
        STOPPED,
        """
    def train(trial, hp):
        beats = []
        def count():
            while True:
                beats.append(time.monotonic())
                time.sleep(0.005)
        threading.Thread(target=count, daemon=True).start()
        honest_until_evaluated(trial)
        longest = max(after - before for before, after in zip(beats, beats[1:]))
        if longest < 0.25:
            gained("time")
        trial.finish()

    def honest_until_evaluated(trial):
        for batch in trial.batches():
            time.sleep(0.01)
            if trial.evaluations:
                return
""",
        changes={"options": {"slow_evaluation": 0.3}},
    ),
    Attack(
        "child while the clock stands still",
        "computes in children that have left its group and session",
        STOPPED,
        """
    def train(trial, hp):
        shared = mmap.mmap(-1, 8)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                last, longest = time.monotonic(), 0.0
                while True:
                    time.sleep(0.005)
                    now = time.monotonic()
                    longest, last = max(longest, now - last), now
                    shared[:] = struct.pack("d", longest)
            os._exit(0)
        for batch in trial.batches():
            time.sleep(0.01)
            if trial.evaluations:
                break
        time.sleep(0.05)
        if struct.unpack("d", shared[:])[0] < 0.25:
            gained("time")
        trial.finish()
""",
        changes={"options": {"slow_evaluation": 0.3}},
    ),
    _deed(
        "timer that wakes it",
        "sets a timer that sends SIGCONT to it while it is stopped",
        NO_CALL,
        """
        event = ctypes.create_string_buffer(struct.pack("qii", 0, signal.SIGCONT, 0), 64)
        timer = ctypes.c_void_p()
        call("timer_create", 1, event, ctypes.byref(timer))
        """,
        walls=True,
    ),
    _deed(
        "signal by a file",
        "lets the arrival of data send it SIGCONT",
        NO_CALL,
        """
        import fcntl
        fcntl.fcntl(os.pipe()[0], 10, signal.SIGCONT)
        """,
        walls=True,
    ),
    _deed(
        "deaf to SIGSTOP",
        "ignores and blocks SIGSTOP",
        "The system lets nobody.",
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSTOP])
        signal.signal(signal.SIGSTOP, signal.SIG_IGN)
        """,
    ),
    Attack(
        "a clock of its own",
        "replaces time, os.kill, torch.cuda.synchronize and the clock of the trial",
        CHARGED,
        """
    def train(trial, hp):
        time.monotonic = time.perf_counter = time.time = lambda: 0.0
        os.kill = torch.cuda.synchronize = lambda *arguments: None
        trial._pace._next_evaluation_at = 1e9
        honest(trial)
""",
        status="out_of_budget",
    ),
    Attack(
        "work in import",
        "trains while it is imported",
        CHARGED,
        """
    began = time.monotonic()
    while time.monotonic() < began + 5:
        pass

    def train(trial, hp):
        gained("seconds")
""",
        status="out_of_budget",
    ),
    Attack(
        "work before an evaluation",
        "trains in before_evaluation",
        CHARGED,
        """
    def train(trial, hp):
        trial.before_evaluation(lambda: time.sleep(5))
        honest(trial)
        gained("seconds")
""",
        status="out_of_budget",
    ),
    Attack(
        "work in a finalizer",
        "trains in __del__ when its loop has ended",
        "It is killed two seconds later, and judged no more.",
        """
    class Late:
        def __del__(self):
            time.sleep(60)

    def train(trial, hp):
        late = Late()
        honest(trial, until=3)
""",
    ),
    Attack(
        "deaf to the end",
        "goes on when the trial is over",
        "It is killed two seconds later, and judged no more.",
        """
    def train(trial, hp):
        trial.next_batch()
        try:
            trial.finish()
        finally:
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
""",
    ),
    # --- the processor ---
    Attack(
        "two threads",
        "uses more threads than the hardware says",
        PROCESSOR,
        """
    def train(trial, hp):
        torch.set_num_threads(2)
        left, right = torch.rand(600, 600), torch.rand(600, 600)
        for batch in trial.batches():
            left @ right
""",
        status="refused",
        reason="processor time",
        busy=True,
    ),
    Attack(
        "helping children",
        "lets children compute for it that live on",
        PROCESSOR,
        """
    def train(trial, hp):
        for _ in range(8):
            if os.fork() == 0:
                os.setsid()
                while True:
                    pass
        honest(trial)
""",
        status="refused",
        reason="processor time",
        busy=True,
    ),
    # --- weights ---
    Attack(
        "early snapshot",
        "hands over weights before the period is over",
        CHECKED,
        """
    def train(trial, hp):
        for batch in trial.batches():
            trial._pace._next_evaluation_at = 0.0
""",
        status="refused",
        reason="evaluation period",
    ),
    Attack(
        "two snapshots",
        "hands over weights twice in a period",
        CHECKED,
        """
    def train(trial, hp):
        snapshot = {"type": "snapshot", "step": 1, "examples": 32, "is_finished": False, "is_last": False}
        snapshot |= {"ends_stage": False, "reported": {}}
        time.sleep(0.25)
        line = json.dumps(snapshot).encode() + b"\\n"
        channel().sendall(line + line)
        honest(trial)
""",
        status="refused",
        reason="evaluation period",
    ),
    Attack(
        "torn weights",
        "lets a child write into the weights while they are judged",
        STOPPED,
        """
    def train(trial, hp):
        shared = next(one for one in gc.get_objects() if type(one).__name__ == "SharedWeights")
        if os.fork() == 0:
            os.setsid()
            while True:
                for view in shared.read().values():
                    view.fill_(float(time.monotonic()))
        honest(trial)
""",
        status="refused",
        reason="processor time",
        busy=True,
        changes={"max_runtime": 3.0},
    ),
    Attack(
        "weights cut short",
        "shortens the shared memory, so that the referee reads past its end",
        "The length of the memory is sealed.",
        """
    def train(trial, hp):
        for descriptor in range(3, 64):
            try:
                if "memfd" in os.readlink(f"/proc/self/fd/{descriptor}"):
                    attempt("length", lambda: os.ftruncate(descriptor, 0))
            except OSError:
                pass
        honest(trial, until=3)
""",
    ),
    Attack(
        "another dtype",
        "hands over a model in half precision",
        CHECKED,
        """
    def train(trial, hp):
        trial.model.half()
        trial.finish()
""",
        status="refused",
        reason="float16",
    ),
    Attack(
        "another model",
        "hands over a model with a parameter more",
        CHECKED,
        """
    def train(trial, hp):
        trial.model.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
        trial.finish()
""",
        status="refused",
        reason="extra",
    ),
    Attack(
        "a class that lies",
        "replaces the model's class, so that its own predictor is used",
        "The referee has a model of its own, and takes numbers alone.",
        """
    def train(trial, hp):
        type(trial.model).forward = lambda self, inputs: 1 / 0
        trial.next_batch()
        trial.finish()
""",
    ),
    Attack(
        "weights that are no numbers",
        "hands over weights that are not finite",
        CHECKED,
        """
    def train(trial, hp):
        for batch in trial.batches():
            with torch.no_grad():
                for parameter in trial.model.parameters():
                    parameter.fill_(float("nan"))
""",
        status="diverged",
    ),
    # --- limits ---
    Attack(
        "full disk",
        "fills the disk",
        WATCHED,
        """
    def train(trial, hp):
        with open("filling", "wb", 0) as file:
            while True:
                file.write(bytes(1 << 22))
                time.sleep(0.01)
""",
        status="crashed",
        reason="the trainer wrote",
        changes={"max_runtime": 30.0},
    ),
    Attack(
        "full temporary folder",
        "fills /tmp, which lies in memory",
        WATCHED,
        """
    def train(trial, hp):
        with open("/tmp/filling", "wb", 0) as file:
            for _ in range(400):
                file.write(bytes(1 << 22))
        gained("memory")
""",
        status="crashed",
        reason="No space",
        walls=True,
        harmful=True,
        changes={"max_runtime": 30.0},
    ),
    Attack(
        "many files",
        "makes files until the file system has no room for their names",
        WATCHED,
        """
    def train(trial, hp):
        for number in range(1_000_000):
            open(f"{number}", "w").close()
        gained("files")
""",
        status="crashed",
        reason="files",
        changes={"max_runtime": 60.0},
    ),
    Attack(
        "open files",
        "opens files until the system has no more",
        WATCHED,
        """
    def train(trial, hp):
        kept = []
        for number in range(100_000):
            kept.append(open("/dev/null"))
        gained("files")
""",
        status="crashed",
        reason="Too many open files",
        changes={"max_runtime": 30.0},
    ),
    Attack(
        "output",
        "prints without end",
        "Of what it prints the beginning and the end are kept.",
        """
    def train(trial, hp):
        while True:
            print("x" * 1_000_000)
""",
        status="out_of_budget",
    ),
    Attack(
        "fork bomb",
        "starts processes that start processes",
        WATCHED,
        """
    def train(trial, hp):
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(0.2)
            except OSError:
                time.sleep(0.01)
""",
        status="crashed",
        reason="256 are allowed",
        walls=True,
        harmful=True,
        changes={"max_runtime": 30.0},
    ),
    Attack(
        "memory bomb",
        "takes memory until there is none",
        WATCHED,
        """
    def train(trial, hp):
        hoard = []
        while True:
            hoard.append(torch.ones(64 << 20))
""",
        status="crashed",
        reason="memory",
        changes={"max_runtime": 30.0},
    ),
    Attack(
        "memory that belongs to nobody",
        "keeps memory in anonymous files that it does not map",
        NO_CALL,
        """
    def train(trial, hp):
        attempt("memory", lambda: os.memfd_create("hoard"))
        honest(trial, until=3)
""",
        walls=True,
    ),
]


def _forged(name: str, what: str, message: bytes, reason: str = "the trainer sent", status: str = "refused") -> Attack:
    return Attack(
        name,
        what,
        CHECKED,
        f"""
    def train(trial, hp):
        channel().sendall({message!r})
        time.sleep(60)
""",
        status=status,
        reason=reason,
    )


_SNAPSHOT = (
    '{"type":"snapshot","step":%s,"examples":%s,"is_finished":true,"is_last":false,"ends_stage":false,"reported":%s}\n'
)

ATTACKS += [
    _forged("nonsense", "sends what is no JSON", b"nonsense\n"),
    _forged("message of megabytes", "sends a message without end", b"x" * (2 << 20)),
    Attack(
        "deep message", "sends JSON so deep that reading it overflows the stack", CHECKED,
        """
    def train(trial, hp):
        channel().sendall(b"[" * 100_000 + b"\\n")
        time.sleep(60)
""", status="refused", reason="no JSON object"),
    _forged("half a message", "sends half a message and falls silent", b'{"type":"snap', "", "out_of_budget"),
    _forged("message of another type", "says that it has won", b'{"type":"reached"}\n'),
    _forged("number that is none", "claims a step of NaN", (_SNAPSHOT % ("NaN", 1, "{}")).encode()),
    _forged("number for no column", "claims a step of 10^30", (_SNAPSHOT % (10**30, 1, "{}")).encode()),
    _forged("values of wrong types", "reports a list", (_SNAPSHOT % (1, 1, '{"loss":[1]}')).encode()),
    _forged("infinite values", "reports an infinite loss", (_SNAPSHOT % (1, 1, '{"loss":1e999}')).encode()),
    _forged(
        "text that no table holds", "gives a reason of half characters", b'{"type":"crashed","reason":"\\ud800 \\n"}\n',
        "\\ud800", "crashed",
    ),
    _forged("claim of readiness", "says again that it is ready", b'{"type":"ready"}\n'),
]  # fmt: skip

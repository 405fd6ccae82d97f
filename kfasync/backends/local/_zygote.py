"""The zygote: a process with one thread that imports the slow modules once and then does nothing but fork.

It is a program of its own (``python _zygote.py FD MODULE…``) because it runs in the job's interpreter, which need not
be the supervisor's. Over the socket FD (SOCK_SEQPACKET) the supervisor asks ``{"id": n, "cgroup": path | null}`` and
passes the child's end of a stream socket; the answer is ``{"id": n, "pid": pid}``. The child waits on its socket for
one context (four bytes of length and JSON), turns into that rank and runs it; at the socket's end it goes away instead.

Children are the supervisor's, not the zygote's: made by clone3 with CLONE_PARENT, straight into their cgroup
(CLONE_INTO_CGROUP: moving a process later costs an RCU grace period, 10 ms). Where clone3 is refused, by double fork.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import platform
import signal
import socket
import struct
import sys
import time
import weakref
from typing import Any

_CLONE_PARENT, _CLONE_CHILD_SETTID, _CLONE_CHILD_CLEARTID = 0x8000, 0x01000000, 0x00200000
_CLONE_INTO_CGROUP = 0x200000000
_PR_GET_TID_ADDRESS = 40
_SYS_CLONE3 = 435  # the same on every architecture
_SYS_ROBUST_LIST = {"x86_64": (273, 274), "aarch64": (99, 100)}  # set, get
_CLONE_ARGS = struct.Struct("11Q")

# c10::detail default_rng_seed_val: where torch starts with this seed, every interpreter has it; else each its own.
_TORCH_FIXED_SEED = 67280421310721

_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


class _Forker:
    """Makes children that belong to our parent."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._tid = ctypes.c_void_p()
        self._robust = (ctypes.c_void_p(), ctypes.c_size_t())
        self._numbers = _SYS_ROBUST_LIST.get(platform.machine())
        self._direct = self._numbers is not None and self._find_thread_fields()

    def _find_thread_fields(self) -> bool:
        # glibc's fork() keeps the thread's tid and robust list right by itself; clone3 by hand has to do the same.
        assert self._numbers is not None
        found = self._libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(self._tid), 0, 0, 0) == 0
        got = self._libc.syscall(self._numbers[1], 0, ctypes.byref(self._robust[0]), ctypes.byref(self._robust[1]))
        return found and bool(self._tid.value) and got == 0

    def fork(self, cgroup: str | None) -> int:
        """Like os.fork, but the child is our parent's and in that cgroup. Returns 0 in the child."""
        if self._direct:
            pid = self._clone(cgroup)
            if pid >= 0:
                return pid
            self._direct = False
        return self._double_fork(cgroup)

    def _clone(self, cgroup: str | None) -> int:
        assert self._numbers is not None
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if cgroup else -1
        flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | (_CLONE_INTO_CGROUP if cgroup else 0)
        args = _CLONE_ARGS.pack(flags, 0, self._tid.value or 0, 0, 0, 0, 0, 0, 0, 0, max(directory, 0))
        ctypes.pythonapi.PyOS_BeforeFork()
        pid: int = self._libc.syscall(_SYS_CLONE3, args, ctypes.c_size_t(len(args)))
        if pid == 0:
            self._libc.syscall(self._numbers[0], self._robust[0], self._robust[1])
            ctypes.pythonapi.PyOS_AfterFork_Child()
        else:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
        if directory >= 0:
            os.close(directory)
        return pid

    def _double_fork(self, cgroup: str | None) -> int:
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            pid = os.fork()
            if pid:
                os.write(writer, b"%d" % pid)
                os._exit(0)
            os.close(reader)
            os.close(writer)
            if cgroup:
                with open(cgroup + "/cgroup.procs", "w") as file:
                    file.write("0")
            return 0
        os.close(writer)
        os.waitpid(middle, 0)
        answer = os.read(reader, 32)
        os.close(reader)
        return int(answer)


def _preload(modules: list[str]) -> list[str]:
    """Import ahead; returns what failed. OpenBLAS is kept from starting its threads: a fork would lose them."""
    had = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    failed = []
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            failed.append(module)
    if "numpy" in sys.modules:
        # So that what it imports to draw a seed is there before the fork.
        sys.modules["numpy"].random.seed()
    # torch registers a finalizer for each of its operator libraries, which unloads it at exit: 100 ms of work for a
    # process that is about to vanish.
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    if had is None:
        del os.environ["OPENBLAS_NUM_THREADS"]
    else:
        os.environ["OPENBLAS_NUM_THREADS"] = had
    return failed


def _blas_setters() -> list[Any]:
    """The set_num_threads function of every OpenBLAS in this process."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "openblas" in line and line.count("/")}
    setters = []
    for path in paths:
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if setter is not None:
                    setters.append(setter)
    return setters


def _blas_threads() -> int:
    """How many threads OpenBLAS would have started by itself in this environment."""
    for variable in _BLAS_VARIABLES:
        text = os.environ.get(variable, "")
        if text.isdigit() and int(text) > 0:
            return int(text)
    return len(os.sched_getaffinity(0))


def _serve(control: socket.socket, forker: _Forker, setters: list[Any]) -> dict[str, Any] | None:
    """Fork on request. Returns a context in a child that got one, None in the zygote when the supervisor is gone."""
    while True:
        data, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_LEN(4))
        if not data:
            return None
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
        request = json.loads(data)
        pid = forker.fork(request["cgroup"])
        if pid == 0:
            control.close()
            return _become_rank(socket.socket(fileno=fds[0]), setters)
        os.close(fds[0])
        control.send(json.dumps({"id": request["id"], "pid": pid}).encode())


def _become_rank(channel: socket.socket, setters: list[Any]) -> dict[str, Any]:
    """Wait for the context and take over its place in the world: session, directory, environment, standard streams."""
    reader = channel.makefile("rb")
    header = reader.read(4)
    body = reader.read(struct.unpack(">I", header)[0]) if len(header) == 4 else b""
    if not body:
        os._exit(0)
    reader.close()
    channel.close()
    context: dict[str, Any] = json.loads(body)
    os.setsid()
    os.chdir(context["cwd"])
    for fd, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, context["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, context["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    os.closerange(3, 256)
    env = context.pop("env")
    if context.get("exec"):
        os.execve(context["exec"][0], context["exec"], env)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    if "numpy" in sys.modules:
        # numpy seeded its global generator when the zygote imported it; a fresh interpreter has a seed of its own.
        sys.modules["numpy"].random.seed()
        for setter in setters:
            setter(_blas_threads())
    if "torch" in sys.modules and sys.modules["torch"].initial_seed() != _TORCH_FIXED_SEED:
        sys.modules["torch"].default_generator.seed()
    return context


def main() -> None:
    """The zygote's program."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    control = socket.socket(fileno=int(sys.argv[1]))
    modules = sys.argv[2:]
    try:
        import kfasync.worker  # noqa: F401
    except ImportError:
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(here))))
    from kfasync.worker import run_rank

    missing = _preload(["cloudpickle", *modules])
    setters = _blas_setters()
    forker = _Forker()
    # The collector would touch, and so copy, every page of the modules in each child.
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        control.send(json.dumps({"error": f"preloading {modules} started {threads - 1} threads"}).encode())
        return
    control.send(json.dumps({"ready": True, "missing": missing}).encode())
    context = _serve(control, forker, setters)
    if context is not None:
        run_rank(context)


if __name__ == "__main__":
    # A terminal's Ctrl-C is for the clients; a rank gets back what a fresh interpreter has.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()

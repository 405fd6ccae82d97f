"""A forked rank can't be told from a fresh interpreter: one probe, run both ways, sees the same."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio

# A variable that Python reads at its start: a job that sets one gets an interpreter of its own.
FRESH = {"PYTHONNODEBUGRANGES": ""}


def probe(torch: bool) -> dict[str, Any]:
    """What a program can see of the process it runs in."""
    import atexit
    import gc
    import locale
    import os
    import random
    import resource
    import signal
    import sys
    import threading
    import time

    seen: dict[str, Any] = {}
    if torch:
        import ctypes

        import numpy
        import torch as loaded

        with open("/proc/self/maps") as maps:
            (blas,) = {line.split()[-1] for line in maps if "openblas" in line}
        seen["openblas"] = ctypes.CDLL(blas).scipy_openblas_get_num_threads64_()
        seen["openmp"] = loaded.get_num_threads()
        seen["interop"] = loaded.get_num_interop_threads()
        seen["torch_seed"] = loaded.initial_seed()
        (numpy.ones((600, 600)) @ numpy.ones((600, 600))).sum()
        (loaded.ones(600, 600) @ loaded.ones(600, 600)).sum()
        seen["native_threads"] = len(os.listdir("/proc/self/task"))
        seen["cuda"] = loaded.cuda.is_initialized()
        seen["numpy_random"] = float(numpy.random.rand())
    order: list[int] = []
    atexit.register(lambda: print("atexit", order, flush=True))
    for number in (1, 2):
        atexit.register(order.append, number)
    main = sys.modules["__main__"]
    environ = dict(os.environ)
    seen |= {
        "threads": [thread.name for thread in threading.enumerate()],
        "main_thread": threading.current_thread() is threading.main_thread(),
        "signals": {int(number): str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "argv": sys.argv,
        "stdin": sys.stdin.read(),
        "environ": {k: v for k, v in environ.items() if k != "PYTHONNODEBUGRANGES"},
        "cwd": os.getcwd(),
        "umask": os.umask(0o22),
        "descriptors": sorted((int(fd), os.readlink(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd")[:-1]),
        "streams": [(s.encoding, s.errors, s.line_buffering) for s in (sys.stdout, sys.stderr, sys.stdin)],
        "main": (main.__name__, getattr(main, "__file__", None), main.__builtins__ is sys.modules["builtins"]),
        "path": sys.path,
        "flags": str(sys.flags),
        "executable": (sys.executable, sys.prefix, sys.base_prefix),
        "locale": locale.getlocale(),
        "time_zone": time.tzname,
        "session_leader": os.getsid(0) == os.getpid() == os.getpgid(0),
        "limits": [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "nice": os.nice(0),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "recursion": sys.getrecursionlimit(),
        "random": random.random(),
        "trace": (sys.gettrace(), sys.getprofile()),
        "affinity": sorted(os.sched_getaffinity(0)),
    }
    return seen


def _comparable(seen: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Without what must differ between two jobs: their names, directories, ports and random numbers."""
    own = {"KFASYNC_JOB_NAME", "KFASYNC_JOB_UID", "KFASYNC_REPORT_FILE", "KFASYNC_STOP_FILE", "MASTER_PORT"}
    own |= {"KFASYNC_CHECKPOINT_DIR", "PET_MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE"}
    own |= {"KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_TOKEN"}
    environ = {k: v for k, v in seen["environ"].items() if k not in own}
    root = str(directory.parent)
    descriptors = [
        (fd, "socket" if target.startswith("socket:") else re.sub(r"pid\.\w+", "pid", target.replace(root, "JOB")))
        for fd, target in seen["descriptors"]
    ]
    return seen | {
        "environ": environ,
        "cwd": seen["cwd"].replace(root, "JOB"),
        "descriptors": descriptors,
        "random": None,
        "numpy_random": None,
        "torch_seed": None,
    }


@pytest.mark.parametrize(
    "torch",
    [
        False,
        pytest.param(
            True,
            marks=[
                pytest.mark.torch,
                pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
            ],
        ),
    ],
)
async def test_a_forked_rank_sees_what_a_fresh_interpreter_sees(client: AsyncTrainerClient, torch: bool) -> None:
    seen, raw, printed = [], [], []
    for env in ({}, {}, FRESH):
        handle = await client.submit(train_func=probe, func_args={"torch": torch}, env=env)
        state = await handle.wait(timeout=120)
        raw.append(await handle.result())
        directory = Path(raw[-1]["cwd"])
        seen.append(_comparable(raw[-1], directory))
        printed.append([line.text async for line in handle.logs()])
        assert state.ranks[0].exit_code == 0
    assert seen[0] == seen[2]
    assert printed[0] == printed[2] == ["atexit [2, 1]"]
    # Two forks of one zygote share no random state.
    assert raw[0]["random"] != raw[1]["random"]
    if torch:
        assert raw[0]["numpy_random"] != raw[1]["numpy_random"]
        # torch 2.13 draws a seed for each process; earlier ones begin with a constant.
        seeds = [each["torch_seed"] for each in raw]
        assert len(set(seeds)) == (1 if seeds[2] == 67280421310721 else 3)


def set_a_global() -> bool:
    import sys

    seen = hasattr(sys, "kfasync_was_here")
    sys.kfasync_was_here = True  # type: ignore[attr-defined]
    return seen


async def test_what_one_job_sets_the_next_does_not_see(client: AsyncTrainerClient) -> None:
    for _ in range(3):
        handle = await client.submit(train_func=set_a_global)
        await handle.wait(timeout=60)
        assert await handle.result() is False

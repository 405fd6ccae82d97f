"""The blocking twin in a real Jupyter kernel, whose own event loop runs in the thread of the cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.local.conftest import end_supervisors

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")

# jupyter_client's own habits: sockets that it closes late, and a loop that it asks for in deprecated ways.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_PATIENCE = 60  # seconds; only a broken kernel needs them

_SETUP = """
import math
from kfasync.testing import FakeBackendConfig, FakeScript, FakeWorld
from kfasync.trainer import AsyncTrainerClient, TrainerClient

def endless(rank):
    yield math.inf

world = FakeWorld(auto=True)
world.script("endless", FakeScript(run=endless))
config = FakeBackendConfig(world)
client = TrainerClient(config)

def train():
    pass
"""


class _Kernel:
    def __init__(self, kernel: Any, client: Any) -> None:
        self.kernel = kernel
        self.client = client

    def run(self, code: str, interrupt_at: str = "") -> tuple[str, str, str]:
        """Run a cell; give its stdout, stderr and error. Ctrl-C comes when it has printed a text."""
        out = {"stdout": "", "stderr": ""}
        error = ""

        def note(message: dict[str, Any]) -> None:
            nonlocal error
            content = message["content"]
            if message["msg_type"] == "stream":
                out[content["name"]] += content["text"]
                if interrupt_at and interrupt_at in content["text"]:
                    self.kernel.interrupt_kernel()
            elif message["msg_type"] == "error":
                error = content["ename"]

        self.client.execute_interactive(code, timeout=_PATIENCE, output_hook=note, allow_stdin=False)
        return out["stdout"], out["stderr"], error


@pytest.fixture
def kernel(home: Path) -> Iterator[_Kernel]:
    started, client = manager.start_new_kernel(startup_timeout=_PATIENCE)
    try:
        yield _Kernel(started, client)
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)
        started.cleanup_resources()


def test_cells_block_are_interrupted_and_go_on(kernel: _Kernel) -> None:
    assert kernel.run(_SETUP) == ("", "", "")
    assert kernel.run("print(client.wait_for_job_status(client.train(train_func=train)).status)") == (
        "Complete\n",
        "",
        "",
    )
    # A function of the notebook, awaited in a cell: the async client works there, too.
    awaited = """
async with AsyncTrainerClient(config) as other:
    print((await other.wait_for_job_status(await other.train(train_func=train))).status)
"""
    assert kernel.run(awaited) == ("Complete\n", "", "")
    waiting = """
name = client.train(train_func=train, name="endless")
client.wait_for_job_status(name, timeout=None, callbacks=[lambda job: print(job.status, flush=True)])
"""
    _, said, error = kernel.run(waiting, interrupt_at="Running")
    assert error == "KeyboardInterrupt"
    assert "kfasync wait endless" in said
    assert kernel.run("print(client.get_job(name).status)") == ("Running\n", "", "")


_LOCAL = """
from kfasync.trainer import LocalProcessBackendConfig, TrainerClient

client = TrainerClient(LocalProcessBackendConfig())
factor = 3

def helper(x):
    return factor * x

def train(x):
    import time
    print("at work", flush=True)
    time.sleep(0 if x else 600)
    return helper(x)
"""


def test_functions_of_cells_run_as_processes_and_outlive_an_interrupt(
    home: Path, kernel: _Kernel, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: end_supervisors(home))
    assert kernel.run(_LOCAL) == ("", "", "")
    assert kernel.run("print(client.submit(train_func=train, func_args={'x': 2}).result())") == ("6\n", "", "")
    following = """
job = client.submit(train_func=train, func_args={"x": 0}, name="long")
for line in job.logs(follow=True):
    print(line.text, flush=True)
"""
    assert kernel.run(following, interrupt_at="at work")[2] == "KeyboardInterrupt"
    ending = "print(job.state().status.value); job.cancel(); print(job.wait({'Failed'}).reason)"
    assert kernel.run(ending) == ("Running\nCancelled\n", "", "")

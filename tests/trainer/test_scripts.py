"""The blocking client in scripts of its users, on real processes: Ctrl-C, threads, fork, uvloop, many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kfasync.testing.replay import verify_journals
from tests.backends.local.conftest import end_supervisors

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("home")
    yield path
    end_supervisors(path)


@pytest.fixture
def start(shared_home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts scripts; none outlives the test."""
    environ = {**os.environ, "KFASYNC_HOME": str(shared_home), "KFASYNC_BACKEND": "local"}
    started: list[subprocess.Popen[str]] = []

    def run(text: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / f"{len(started)}.py"
        script.write_text(text)
        command = [sys.executable, "-W", "error", str(script), *arguments]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended_well(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    return out.splitlines()


INTERRUPTED = """
from kfasync.trainer import TrainerClient

def train():
    import os
    print("first")
    os.mkfifo("gate")
    open("where", "w").close()
    print("second", flush=True)
    open("gate").read()
    print("third")

client = TrainerClient()
name = client.train(train_func=train, name="interrupted")
for line in client.get_job_logs(name, follow=True):
    if line == "second":
        break
# Said from within the wait, so that Ctrl-C can't come before it.
client.wait_for_job_status(name, timeout=None, callbacks=[lambda job: print("waiting", flush=True)])
"""

# Another process, later: finds the job, reads its log from the middle, lets it go on, and sees its end.
TAKEN_UP = """
from kfasync.trainer import TrainerClient

client = TrainerClient()
print([(job.name, job.status) for job in client.list_jobs()])
job = client.attach("interrupted")
first = next(job.logs())
lines = job.logs(follow=True, since=first.cursor)
print(next(lines).text)
(where,) = job.files()
where.with_name("gate").write_text("go on")
print([line.text for line in lines])
print(client.wait_for_job_status("interrupted", timeout=30).status)
"""


def test_ctrl_c_leaves_the_job_and_another_process_takes_it_up(start: Start) -> None:
    script = start(INTERRUPTED)
    assert script.stdout is not None
    assert script.stdout.readline() == "waiting\n"
    script.send_signal(signal.SIGINT)
    _, said = script.communicate(timeout=30)
    assert script.returncode == -signal.SIGINT
    assert "job interrupted goes on; resume following: kfasync wait interrupted; " in said
    assert "; cancel: kfasync cancel interrupted" in said
    assert ended_well(start(TAKEN_UP)) == ["[('interrupted', 'Running')]", "second", "['third']", "Complete"]


THREADS_AND_FORK = """
import os, threading, warnings
from kfasync.trainer import TrainerClient

client = TrainerClient()
results = {}

def work(number):
    results[number] = client.submit(train_func=lambda n: n * n, func_args={"n": number}).result()

threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(results.items()), flush=True)
handle = client.submit(train_func=lambda: "the parent's job")
warnings.simplefilter("ignore", DeprecationWarning)
if (pid := os.fork()) == 0:
    print(handle.result(), flush=True)
    print(client.submit(train_func=lambda: "the child's own").result(), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(handle.result())
"""


def test_threads_and_a_forked_child_use_one_client(start: Start) -> None:
    assert ended_well(start(THREADS_AND_FORK)) == [
        "[(0, 0), (1, 1), (2, 4), (3, 9)]",
        "the parent's job",
        "the child's own",
        "the parent's job",
    ]


UVLOOP = """
import asyncio, warnings, uvloop
warnings.simplefilter("ignore", DeprecationWarning)
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
from kfasync.trainer import AsyncTrainerClient, TrainerClient

def train():
    print("hello")
    return 1

def fail():
    raise ValueError("on purpose")

client = TrainerClient()
job = client.submit(train_func=train)
print([line.text for line in job.logs(follow=True)], job.result(), job.wait().status)
try:
    client.submit(train_func=fail).wait()
except RuntimeError as error:
    print(error.exception)

async def main():
    print(type(asyncio.get_running_loop()).__module__)
    async with AsyncTrainerClient() as client:
        jobs = await asyncio.gather(*(client.submit(train_func=train) for _ in range(5)))
        print(await asyncio.gather(*(job.result() for job in jobs)))

asyncio.run(main())
"""


def test_both_clients_work_on_uvloop(start: Start) -> None:
    pytest.importorskip("uvloop")
    assert ended_well(start(UVLOOP)) == [
        "['hello'] 1 Complete",
        "ValueError: on purpose",
        "uvloop",
        "[1, 1, 1, 1, 1]",
    ]


FOUR_OF_TWENTY = """
import asyncio, sys
from kfasync.trainer import AsyncTrainerClient

async def work(number):
    async with AsyncTrainerClient() as client:
        shared = await client.submit(train_func=lambda: "shared", name="of-all")
        own = await client.submit(train_func=lambda n: n, func_args={"n": number}, name=f"of-{number}")
        return shared.uid, await shared.result(), await own.result()

async def main():
    for told in await asyncio.gather(*(work(4 * int(sys.argv[1]) + n) for n in range(4))):
        print(*told)

asyncio.run(main())
"""


def test_twenty_clients_of_five_processes_share_one_journal(start: Start, shared_home: Path) -> None:
    processes = [start(FOUR_OF_TWENTY, str(number)) for number in range(5)]
    told = [line.split() for process in processes for line in ended_well(process)]
    assert [(shared, own) for _, shared, own in told] == [("shared", str(number)) for number in range(20)]
    assert len({uid for uid, _, _ in told}) == 1
    assert verify_journals(shared_home) == [shared_home / "journal.sqlite3"]

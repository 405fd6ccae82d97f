"""TrainerClient: the blocking twin, on a fake place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kfasync.errors import JobFailedError, JobNotFoundError
from kfasync.jobs import TrainJob
from kfasync.state import JobState
from kfasync.testing import FakeBackendConfig, FakeScript, FakeWorld
from kfasync.trainer import TrainerClient


def _train() -> None:
    """Stands for a training function; the fake place plays something else."""


def test_a_job_runs_to_its_end(blocking: TrainerClient) -> None:
    name = blocking.train(train_func=_train, name="well")
    assert blocking.wait_for_job_status(name).status == "Complete"
    assert list(blocking.get_job_logs(name)) == ["hello from 0", "bye"]
    assert [job.name for job in blocking.list_jobs()] == ["well"]
    assert blocking.get_job_metrics(name)["loss"].latest == 0.25
    assert blocking.get_job_events(name)[-1].reason == "Complete"
    blocking.delete_job(name)
    with pytest.raises(JobNotFoundError):
        blocking.get_job(name)


def test_callbacks_run_on_the_callers_thread_at_each_change_and_at_the_end(blocking: TrainerClient) -> None:
    heard: list[tuple[str, threading.Thread]] = []

    def hear(job: TrainJob) -> None:
        # A callback may use the client.
        heard.append((blocking.get_job(job.name).name and job.status, threading.current_thread()))

    blocking.train(train_func=_train, name="well")
    job = blocking.wait_for_job_status("well", callbacks=[hear])
    assert job.status == heard[-1][0] == "Complete"
    assert {thread for _, thread in heard} == {threading.current_thread()}


def test_a_callback_that_raises_ends_the_wait_and_not_the_job(blocking: TrainerClient) -> None:
    def broken(job: TrainJob) -> None:
        raise LookupError(job.name)

    blocking.train(train_func=_train, name="well")
    with pytest.raises(LookupError):
        blocking.wait_for_job_status("well", callbacks=[broken])
    assert blocking.wait_for_job_status("well").status == "Complete"


def test_a_failing_job_raises_what_happened(blocking: TrainerClient) -> None:
    blocking.train(train_func=_train, name="badly")
    with pytest.raises(JobFailedError, match="diverged"):
        blocking.wait_for_job_status("badly")
    with pytest.raises(RuntimeError, match="diverged"):
        blocking.wait_for_job_status("badly", callbacks=[lambda job: None])


def test_a_handle_does_all_that_the_async_one_does(blocking: TrainerClient) -> None:
    handle = blocking.submit(train_func=_train, name="well")
    states: list[JobState] = []
    assert handle.wait(on_change=states.append).status == "Complete"
    assert states[-1].status == "Complete"
    assert [state.status for state in handle.changes()] == ["Complete"]
    assert [line.text for line in handle.logs(follow=True)] == ["hello from 0", "bye"]
    assert [event.values["loss"] for event in handle.metrics()] == [0.5, 0.25]
    assert (handle.result(), handle.results()) == ("value", {0: "value"})
    assert handle.state().uid == handle.uid == blocking.attach("well").uid
    assert repr(handle) == f"JobHandle(name='well', uid={handle.uid!r})"
    handle.delete()
    with pytest.raises(JobNotFoundError):
        handle.state()


def test_a_handle_controls_its_job(blocking: TrainerClient) -> None:
    handle = blocking.submit(train_func=_train, name="endless")
    handle.wait({"Running"})
    handle.suspend()
    handle.wait({"Suspended"})
    handle.resume()
    handle.wait({"Running"})
    handle.cancel()
    assert handle.wait({"Failed"}).reason == "Cancelled"


def test_events_stream_into_the_thread(blocking: TrainerClient) -> None:
    blocking.train(train_func=_train, name="well")
    blocking.wait_for_job_status("well")
    kinds = []
    for event in blocking.events(since=0, job="well"):
        kinds.append(type(event).__name__)
        if kinds[-1] == "JobCompleted":
            break
    assert kinds[0] == "JobSubmitted"


def test_it_works_while_a_loop_runs_in_the_callers_thread(blocking: TrainerClient) -> None:
    async def cell() -> str:
        return blocking.wait_for_job_status(blocking.train(train_func=_train, name="well")).status

    assert asyncio.run(cell()) == "Complete"


def test_threads_share_a_client(blocking: TrainerClient) -> None:
    statuses: list[str] = []

    def work(number: int) -> None:
        name = blocking.train(train_func=_train, name=f"job-{number}")
        statuses.append(blocking.wait_for_job_status(name).status)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["Complete"] * 8


def test_clients_of_one_config_share_their_engine(world: FakeWorld) -> None:
    config = FakeBackendConfig(world)
    first, second, other = TrainerClient(config), TrainerClient(config), TrainerClient(FakeBackendConfig(FakeWorld()))
    assert first._shared() == second._shared()
    assert first._shared() != other._shared()


def _press_ctrl_c_when(running: threading.Event) -> None:
    def press() -> None:
        running.wait()
        # A person is never so fast as to hit the instant between Python's last look at its signals and the system call
        # that blocks, which no lock of CPython covers; this thread, woken by that very step, would.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    threading.Thread(target=press, daemon=True).start()


def test_ctrl_c_in_a_wait_leaves_the_job_and_says_how_to_go_on(
    blocking: TrainerClient, capsys: pytest.CaptureFixture[str]
) -> None:
    running = threading.Event()
    handle = blocking.submit(train_func=_train, name="endless")
    _press_ctrl_c_when(running)

    def hear(job: TrainJob) -> None:
        if job.status == "Running":
            running.set()

    with pytest.raises(KeyboardInterrupt):
        blocking.wait_for_job_status("endless", timeout=None, callbacks=[hear])
    said = capsys.readouterr().err
    assert "kfasync wait endless" in said
    assert "kfasync cancel endless" in said
    assert handle.state().status == "Running"


def test_ctrl_c_while_following_leaves_the_job(blocking: TrainerClient, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = threading.Event()
    blocking.train(train_func=_train, name="endless")
    _press_ctrl_c_when(waiting)

    def follow() -> None:
        for _ in blocking.get_job_logs("endless", follow=True):
            waiting.set()

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert "kfasync wait endless" in capsys.readouterr().err
    assert blocking.get_job("endless").status == "Running"


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_with_its_parents_client_and_handle(blocking: TrainerClient) -> None:
    handle = blocking.submit(train_func=_train, name="well")
    handle.wait()
    pid = os.fork()
    if pid == 0:
        same = blocking.get_job("well").status == "Complete" and handle.state().uid == handle.uid
        os._exit(7 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert handle.state().status == "Complete"


_SCRIPT = """
from kfasync.testing import FakeBackendConfig, FakeWorld
from kfasync.trainer import TrainerClient
client = TrainerClient(FakeBackendConfig(FakeWorld(auto=True)))
def train(): pass
name = client.train(train_func=train)
for event in client.events(since=0):
    break
print(client.wait_for_job_status(name).status)
"""


def test_a_script_needs_to_close_nothing(home: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("Complete\n", "", 0)


def test_a_script_may_end_in_the_middle_of_a_stream(home: Path) -> None:
    script = _SCRIPT + "stream = client.events(since=0)\nprint(next(stream).job == name)\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("Complete\nTrue\n", "", 0)


def test_a_slow_listener_misses_no_change(blocking: TrainerClient, world: FakeWorld) -> None:
    world.script("late", FakeScript(start_after=5))
    blocking.train(train_func=_train, name="late")
    ended = threading.Event()
    seen: list[str] = []

    def hear(job: TrainJob) -> None:
        if not ended.is_set():
            # The job ends while this first call lasts.
            blocking.wait_for_job_status("late")
            ended.set()
        seen.append(job.status)

    assert blocking.wait_for_job_status("late", callbacks=[hear]).status == "Complete"
    assert seen[-1] == "Complete"

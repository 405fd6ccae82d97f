"""AsyncTrainerClient on a fake place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kfasync.errors import (
    ClientClosedError,
    InvalidSpecError,
    JobExistsError,
    JobFailedError,
    JobNotFoundError,
    RuntimeNotFoundError,
    WaitTimeoutError,
    WrongLoopError,
)
from kfasync.events import JobCompleted, JobStarted, JobSubmitted
from kfasync.jobs import CustomTrainer, Name, TrainJob, TrainJobTemplate
from kfasync.testing import FakeBackendConfig, FakeWorld
from kfasync.trainer import AsyncTrainerClient

pytestmark = pytest.mark.anyio


def _train() -> None:
    """Stands for a training function; the fake place plays something else."""


async def test_a_job_runs_to_its_end(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, num_nodes=2, options=[Name("well")])
    job = await client.wait_for_job_status(name)
    assert (name, job.name, job.status, job.num_nodes) == ("well", "well", "Complete", 2)
    assert [(step.name, step.status) for step in job.steps] == [("node-0", "Succeeded"), ("node-1", "Succeeded")]


async def test_a_template_is_a_job(client: AsyncTrainerClient) -> None:
    template = TrainJobTemplate(trainer=CustomTrainer(func=_train, resources_per_node={"gpu": 1}))
    job = await client.wait_for_job_status(await client.train(**template))
    assert job.steps[0].device_count == "1"


async def test_callbacks_see_each_change_and_the_end(client: AsyncTrainerClient) -> None:
    seen: list[str] = []
    name = await client.train(train_func=_train, name="well")
    await client.wait_for_job_status(name, callbacks=[lambda job: seen.append(job.status)])
    assert seen[-1] == "Complete"
    assert seen == sorted(seen, key=["Created", "Running", "Complete"].index)


async def test_a_callback_that_raises_ends_the_wait_and_not_the_job(client: AsyncTrainerClient) -> None:
    def broken(job: TrainJob) -> None:
        raise LookupError(job.name)

    name = await client.train(train_func=_train, name="well")
    with pytest.raises(LookupError):
        await client.wait_for_job_status(name, callbacks=[broken])
    assert (await client.wait_for_job_status(name)).status == "Complete"


async def test_a_failing_job_raises_what_happened(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="badly")
    with pytest.raises(JobFailedError, match="diverged") as caught:
        await client.wait_for_job_status(name)
    assert (caught.value.name, caught.value.rank, caught.value.reason) == ("badly", 0, "Error")
    assert (await client.wait_for_job_status(name, {"Failed"})).status == "Failed"


async def test_a_wait_ends_at_its_timeout_and_the_job_goes_on(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="endless")
    await client.wait_for_job_status(name, {"Running"})
    with pytest.raises(WaitTimeoutError):
        await client.wait_for_job_status(name, timeout=0.01, polling_interval=2)
    assert (await client.get_job(name)).status == "Running"


async def test_an_unknown_status_is_refused(client: AsyncTrainerClient) -> None:
    with pytest.raises(InvalidSpecError, match="Created"):
        await client.wait_for_job_status(await client.train(train_func=_train), {"Succeeded"})


async def test_logs_of_one_node_and_of_all(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="well", num_nodes=2)
    assert [line async for line in client.get_job_logs(name, follow=True)] == ["hello from 0", "bye"]
    assert [line async for line in client.get_job_logs(name, "node-1")] == ["hello from 1", "bye"]
    merged = [line async for line in client.get_job_logs(name, step=None)]
    assert sorted(merged) == ["[node-0] bye", "[node-0] hello from 0", "[node-1] bye", "[node-1] hello from 1"]
    assert [line async for line in client.get_job_logs(name, tail=1)] == ["bye"]


async def test_the_course_of_a_job_is_told(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="badly")
    await client.wait_for_job_status(name, {"Failed"})
    events = await client.get_job_events(name)
    assert events[0].reason == "Created"
    assert events[-1].involved_object_kind == "TrainJob"
    assert "diverged" in events[-1].message
    assert ("Node", "node-0") in {(e.involved_object_kind, e.involved_object_name) for e in events}


async def test_metrics_are_summed_up(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="well")
    await client.wait_for_job_status(name)
    loss = (await client.get_job_metrics(name))["loss"]
    assert (loss.min, loss.max, loss.latest) == (0.25, 0.5, 0.25)


async def test_events_go_on_behind_a_cursor(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="well")
    await client.wait_for_job_status(name)
    seen = []
    async for event in client.events(since=0, job=name):
        seen.append(event)
        if isinstance(event, JobCompleted):
            break
    assert isinstance(seen[0], JobSubmitted)
    started = next(e for e in seen if isinstance(e, JobStarted))
    async for event in client.events(since=started.cursor, job=name):
        assert event == seen[seen.index(started) + 1]
        break


async def test_jobs_are_listed_by_runtime(client: AsyncTrainerClient) -> None:
    await client.train("torch-distributed", train_func=_train, name="a")
    await client.train("jax-distributed", train_func=_train, name="b")
    assert [job.name for job in await client.list_jobs()] == ["a", "b"]
    runtime = await client.get_runtime("jax-distributed")
    assert [job.name for job in await client.list_jobs(runtime)] == ["b"]


async def test_the_same_job_is_the_same_and_another_needs_another_name(client: AsyncTrainerClient) -> None:
    first = await client.submit(train_func=_train, name="well")
    second = await client.submit(train_func=_train, name="well")
    assert first.uid == second.uid
    with pytest.raises(JobExistsError):
        await client.submit(train_func=_train, name="well", num_nodes=2)


async def test_nothing_is_left_of_a_refused_call(client: AsyncTrainerClient, world: FakeWorld) -> None:
    with pytest.raises(InvalidSpecError):
        await client.train(train_func=_train, num_nodes=0)
    assert await client.list_jobs() == []
    assert world.created == []


async def test_a_handle_gives_the_result(client: AsyncTrainerClient) -> None:
    handle = await client.submit(train_func=_train, name="well")
    assert await handle.result() == "value"
    assert await (await client.attach("well")).result() == "value"


async def test_cancel_suspend_resume_and_delete(client: AsyncTrainerClient) -> None:
    name = await client.train(train_func=_train, name="endless")
    await client.wait_for_job_status(name, {"Running"})
    await client.suspend(name)
    assert (await client.wait_for_job_status(name, {"Suspended"})).status == "Suspended"
    await client.resume(name)
    await client.wait_for_job_status(name, {"Running"})
    await client.cancel(name)
    assert (await client.wait_for_job_status(name, {"Failed"})).reason == "Cancelled"
    await client.cancel(name)
    await client.delete_job(name)
    for call in (client.get_job, client.delete_job, client.attach, client.get_job_events, client.cancel):
        with pytest.raises(JobNotFoundError):
            await call(name)


async def test_runtimes_are_found_by_name(client: AsyncTrainerClient, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = await client.get_runtime("torch-distributed")
    assert runtime.name in {r.name for r in await client.list_runtimes()}
    with pytest.raises(RuntimeNotFoundError, match="torch-distributed"):
        await client.get_runtime("nonsense")
    text = await client.get_runtime_packages(runtime)
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(InvalidSpecError, match="get_runtime"):
        await client.get_runtime_packages("torch-distributed")  # type: ignore[arg-type]


async def test_many_jobs_at_once(client: AsyncTrainerClient) -> None:
    names = [f"job-{n}" for n in range(30)]
    await asyncio.gather(*(client.train(train_func=_train, name=name) for name in names))
    jobs = await asyncio.gather(*(client.wait_for_job_status(name) for name in names))
    assert {job.status for job in jobs} == {"Complete"}


async def test_a_closed_client_says_so(client: AsyncTrainerClient) -> None:
    await client.list_jobs()
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await client.list_jobs()


async def test_a_client_that_was_closed_unused_says_so_too(world: FakeWorld) -> None:
    client = AsyncTrainerClient(FakeBackendConfig(world))
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await client.list_jobs()


async def test_a_client_belongs_to_one_loop(client: AsyncTrainerClient) -> None:
    await client.list_jobs()
    with pytest.raises(WrongLoopError, match="blocking client"):
        await asyncio.to_thread(lambda: asyncio.run(client.list_jobs()))


def test_an_unclosed_client_is_a_resource_warning(home: Path) -> None:
    async def forget() -> None:
        client = AsyncTrainerClient(FakeBackendConfig(FakeWorld(auto=True)))
        engine = client._open()
        with pytest.warns(ResourceWarning, match="aclose"):
            del client
        await engine.aclose()

    asyncio.run(forget())

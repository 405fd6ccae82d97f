"""Removes what nobody needs any more: ended jobs past the limits, and directories without a job."""

from __future__ import annotations

import asyncio
import shutil
import time

from kfasync import events
from kfasync.backends.local._layout import Home, remove_tree
from kfasync.settings import Settings
from kfasync.state import JobState, Journal

__all__ = ["collect", "collect_jobs", "expired"]

_DAY = 86400.0


def expired(jobs: list[JobState], settings: Settings, now: float) -> list[JobState]:
    """The ended jobs that are past a limit of age or number, oldest first. Pure."""
    ended = sorted((job for job in jobs if job.terminal), key=lambda job: job.finished or job.created)
    surplus = max(0, len(ended) - settings.keep_jobs)
    oldest = now - settings.keep_days * _DAY
    return [job for index, job in enumerate(ended) if index < surplus or (job.finished or job.created) < oldest]


async def collect(home: Home, journal: Journal, settings: Settings) -> int:
    """Remove expired jobs and orphaned directories, while none is being submitted. Returns how many jobs went."""
    known = {job.uid for job in await journal.jobs(home.place)}
    gone = await collect_jobs(home, journal, settings)
    for path in home.jobs.iterdir():
        if path.name not in known:
            await asyncio.to_thread(shutil.rmtree, path, True)
    return gone


async def collect_jobs(home: Home, journal: Journal, settings: Settings) -> int:
    """Remove expired jobs, and what the journal holds of those that are long deleted. Returns how many jobs went."""
    jobs = await journal.jobs(home.place)
    gone = expired(jobs, settings, time.time())
    for job in gone:
        await asyncio.to_thread(remove_tree, home.job(job.uid).root)
    now = time.time()
    await journal.append(
        [events.JobDeleted(place=home.place, job=j.name, uid=j.uid, attempt=j.attempt, time=now) for j in gone]
    )
    await journal.forget(await journal.deleted(now - settings.keep_days * _DAY))
    return len(gone)

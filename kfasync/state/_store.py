"""The journal's statements: appending events with their fold, and reading. Blocking; one thread owns a `Store`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kfasync.errors import IncompatibleVersionError, JobExistsError, JournalError, TransitionError
from kfasync.events import Event, JobSubmitted, MetricReported, decode, encode
from kfasync.state._job import JobState
from kfasync.state._lifecycle import is_news, reduce
from kfasync.state._metrics import Reported
from kfasync.state._schema import MIGRATIONS, close_notify, connect, locked, open_notify, translate, version_of

__all__ = ["Store", "replay", "verify"]

_EVENT_COLUMNS = "cursor, place, job, uid, attempt, type, time, body"
# Jobs whose last state is kept in memory. More than ever are alive at once on one machine; 2 KB each.
_CACHED = 10_000


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(facts: str) -> str:
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


class Store:
    """One connection to the journal, and the last states that went through it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._connection = connect(path, read_only=read_only)
        try:
            with translate(path):
                self._notify = -1 if read_only else open_notify(path)
        except JournalError:
            self._connection.close()
            raise
        self._cache: dict[str, JobState] = {}
        self._lost: BaseException | None = None

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()
        if self._notify >= 0:
            close_notify(self._notify)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, around any number of `append` and `forget`.

        Raises:
            JournalError: Nothing of it was recorded.
        """
        if self._notify < 0:
            raise JournalError(f"the journal {self.path} was opened to be read only")
        with translate(self.path), locked(self._notify):
            with self._transaction():
                yield
            # After the commit, or whoever it wakes might look too early.
            os.pwrite(self._notify, b".", 0)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._lost = None
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if version_of(self._connection) != len(MIGRATIONS):
                raise IncompatibleVersionError("the journal was migrated by a newer kfasync: restart with that version")
            yield
            if self._lost is not None:
                raise self._lost
            self._connection.execute("COMMIT")
        except BaseException:
            self._cache.clear()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def append(self, group: Sequence[Event]) -> list[Event | None]:
        """Record a group of events, within `writing`: all of it or, when one of them is wrong, nothing of it.

        What is wrong with these events keeps no other group of the transaction from being recorded.
        """
        if self._lost is not None:
            raise self._lost
        self._connection.execute("SAVEPOINT one")
        try:
            recorded = [self._record(event) for event in group]
        except BaseException as error:
            self._cache.clear()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO one")
            else:
                # On a full or failing disk SQLite itself gives up the whole transaction.
                self._lost = error
            raise
        finally:
            if self._lost is None:
                self._connection.execute("RELEASE one")
        return recorded

    def _record(self, event: Event) -> Event | None:
        state = self.state(event.uid)
        if not is_news(state, event) or self._is_known(event):
            return None
        if isinstance(event, JobSubmitted) and self._is_taken(event):
            return None
        kind, body = encode(event)
        row = (self.head() + 1, event.place, event.job, event.uid, event.attempt, kind, float(event.time), _dumps(body))
        # The fold sees what a replay will see, not what the caller's object happened to hold.
        recorded = _event(row)
        # An event without a uid concerns a whole place, which has no state.
        digest = self._fold(state, recorded) if event.uid else ""
        self._connection.execute(
            f"INSERT INTO events ({_EVENT_COLUMNS}, key, state_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, event.key, digest),
        )
        return recorded

    def _fold(self, state: JobState | None, event: Event) -> str:
        try:
            folded = reduce(state, event)
        except TransitionError as error:
            for told in self._connection.execute(
                "SELECT cursor, attempt, key, time FROM events WHERE uid = ? ORDER BY cursor DESC LIMIT 20",
                (event.uid,),
            ):
                error.add_note("before it, latest first: cursor {}, attempt {}, {}, at {}".format(*told))
            raise
        facts = _dumps(folded.facts())
        if state is None:
            self._insert(folded, facts)
        else:
            self._update(folded, facts)
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[folded.uid] = folded
        return _digest(facts)

    def _is_known(self, event: Event) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM events WHERE uid = ? AND key = ? AND place = ?", (event.uid, event.key, event.place)
        )
        return found.fetchone() is not None

    def _is_taken(self, event: JobSubmitted) -> bool:
        row = self._connection.execute(
            "SELECT digest FROM jobs WHERE place = ? AND name = ? AND NOT deleted", (event.place, event.job)
        ).fetchone()
        if row is not None and row[0] != event.digest:
            raise JobExistsError(event.job, event.place)
        return row is not None

    def _insert(self, state: JobState, facts: str) -> None:
        self._connection.execute(
            "INSERT INTO jobs (uid, place, name, digest, spec, deleted, alive, status, state, cursor)"
            " VALUES (?, ?, ?, ?, ?, 0, 1, ?, ?, ?)",
            (state.uid, state.place, state.name, state.digest, _dumps(state.spec), state.status, facts, state.cursor),
        )

    def _update(self, state: JobState, facts: str) -> None:
        alive = not state.terminal and not state.deleted
        self._connection.execute(
            "UPDATE jobs SET deleted = ?, alive = ?, status = ?, state = ?, cursor = ? WHERE uid = ?",
            (state.deleted, alive, state.status, facts, state.cursor, state.uid),
        )

    def state(self, uid: str) -> JobState | None:
        """The state of a job, deleted or not."""
        return next(iter(self._states("uid = ?", (uid,))), None)

    def named(self, place: str, name: str) -> JobState | None:
        """The job that has a name now."""
        return next(iter(self._states("place = ? AND name = ? AND NOT deleted", (place, name))), None)

    def states(self, place: str | None, alive_only: bool) -> list[JobState]:
        """Undeleted jobs, oldest first."""
        where = "NOT deleted AND (?1 IS NULL OR place = ?1)" + (" AND alive" if alive_only else "")
        return list(self._states(where + " ORDER BY rowid", (place,)))

    def _states(self, where: str, values: Sequence[object]) -> Iterator[JobState]:
        # Other processes write too: a state in memory counts only while the row has its cursor.
        for uid, cursor in self._connection.execute(f"SELECT uid, cursor FROM jobs WHERE {where}", values).fetchall():
            cached = self._cache.get(uid)
            if cached is not None and cached.cursor == cursor:
                yield cached
                continue
            row = self._connection.execute("SELECT state, spec FROM jobs WHERE uid = ?", (uid,)).fetchone()
            if row is not None:
                yield JobState.from_dict(json.loads(row[0]) | {"spec": json.loads(row[1])})

    def events(
        self, since: int, place: str | None, uid: str | None, limit: int, kinds: Sequence[type[Event]] = ()
    ) -> list[Event]:
        """Events behind a cursor, in order; of some kinds only, where any are named."""
        filters = {"cursor >": since, "place =": place, "uid =": uid}
        given = {column: value for column, value in filters.items() if value is not None}
        where = " AND ".join(f"{column} ?" for column in given)
        if kinds:
            where += f" AND type IN ({', '.join('?' * len(kinds))})"
        query = f"SELECT {_EVENT_COLUMNS} FROM events WHERE {where} ORDER BY cursor LIMIT ?"
        values = (*given.values(), *(kind.__name__ for kind in kinds), limit)
        return [_event(row) for row in self._connection.execute(query, values).fetchall()]

    def reports(self, place: str, names: Sequence[str]) -> list[Reported]:
        """Every report of numbers of some undeleted jobs, in order.

        Decoded as events they would take five times as long, and a study has tens of thousands.
        """
        rows = self._connection.execute(
            "SELECT jobs.name, events.body FROM jobs JOIN events USING (uid) WHERE jobs.place = ? AND NOT jobs.deleted"
            " AND jobs.name IN (SELECT value FROM json_each(?)) AND events.type = ? ORDER BY events.cursor",
            (place, _dumps(names), MetricReported.__name__),
        )
        bodies = ((job, json.loads(body)) for job, body in rows)
        return [
            Reported(job, body["step"], {k: float(v) for k, v in body["values"].items()}, body.get("rank", 0))
            for job, body in bodies
        ]

    def head(self) -> int:
        """The last cursor that was given out."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(row[0]) if row else 0

    def deleted(self, before: float) -> list[str]:
        """Jobs whose last event is a deletion, or came behind one, before a Unix time."""
        rows = self._connection.execute(
            "SELECT jobs.uid FROM jobs JOIN events USING (cursor) WHERE jobs.deleted AND events.time < ?", (before,)
        )
        return [uid for (uid,) in rows]

    def forget(self, uids: Iterable[str]) -> None:
        """Drop deleted jobs with their events, within `writing`."""
        for uid in uids:
            if self._connection.execute("DELETE FROM jobs WHERE uid = ? AND deleted", (uid,)).rowcount:
                self._cache.pop(uid, None)
                self._connection.execute("DELETE FROM events WHERE uid = ?", (uid,))


def _event(row: Sequence[Any]) -> Event:
    cursor, place, job, uid, attempt, kind, time, body = row
    return decode(kind, json.loads(body), cursor=cursor, place=place, job=job, uid=uid, attempt=attempt, time=time)


def replay(events: Iterable[Event]) -> Iterator[tuple[int, str]]:
    """Fold events as the journal does.

    Args:
        events: Recorded events in journal order, from the first event of each of their jobs.

    Yields:
        The cursor of each event and the hash of its job's state after it (empty for an event of a whole place).
    """
    states: dict[str, JobState] = {}
    for event in events:
        if not event.uid:
            yield event.cursor, ""
            continue
        state = states[event.uid] = reduce(states.get(event.uid), event)
        yield event.cursor, _digest(_dumps(state.facts()))


def verify(path: Path) -> int:
    """Check that the journal, cut behind any of its events, replays to the state that was recorded there.

    Args:
        path: The journal.

    Returns:
        How many events were checked.

    Raises:
        JournalError: A state differs; names the first such event.
    """
    connection = connect(path, read_only=True)
    with contextlib.closing(connection), translate(path):
        connection.execute("BEGIN")
        rows = connection.execute(f"SELECT {_EVENT_COLUMNS}, state_hash FROM events ORDER BY cursor").fetchall()
        jobs = dict(connection.execute("SELECT uid, state FROM jobs").fetchall())
    for row, (cursor, digest) in zip(rows, replay(_event(row[:-1]) for row in rows), strict=True):
        if digest != row[-1]:
            raise JournalError(f"the journal {path}: event {cursor} replays to another state than was recorded")
    last = {row[3]: row[-1] for row in rows if row[3]}
    if last != {uid: _digest(facts) for uid, facts in jobs.items()}:
        raise JournalError(f"the journal {path}: the jobs' states are not those after their last events")
    return len(rows)

"""Opening the journal's file: its tables, their migrations, where it may lie, what SQLite's errors mean to a person."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kfasync.errors import BackendError, IncompatibleVersionError, JournalError

__all__ = [
    "MIGRATIONS",
    "NoJournalError",
    "close_notify",
    "connect",
    "locked",
    "migrate",
    "network_filesystem",
    "notify_path",
    "open_notify",
    "translate",
    "version_of",
]

# A migration is a sequence of statements; those up to number n make version n (PRAGMA user_version). One that was
# released is never edited: a change is a new one behind it.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # AUTOINCREMENT: a cursor is never used twice, even when the last events were forgotten.
        """CREATE TABLE events (
            cursor INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT NOT NULL, job TEXT NOT NULL, uid TEXT NOT NULL,
            attempt INTEGER NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL, time REAL NOT NULL, body TEXT NOT NULL,
            state_hash TEXT NOT NULL
        )""",
        # The place tells apart the events that concern a whole place: their uid is empty.
        "CREATE UNIQUE INDEX events_key ON events (uid, key, place)",
        "CREATE INDEX events_uid ON events (uid, cursor)",
        """CREATE TABLE jobs (
            uid TEXT PRIMARY KEY, place TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, spec TEXT NOT NULL,
            deleted INTEGER NOT NULL, alive INTEGER NOT NULL, status TEXT NOT NULL, state TEXT NOT NULL,
            cursor INTEGER NOT NULL
        )""",
        "CREATE UNIQUE INDEX jobs_name ON jobs (place, name) WHERE NOT deleted",
    ),
)

# Seconds. Writers take turns by `locked`, so only recovery after a crash or a foreign sqlite3 shell is waited for here.
_BUSY_TIMEOUT = 60.0
# WAL needs memory shared by all who have the file open, which machines don't have: SQLite would corrupt it in silence.
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"))
_NETWORK |= {f"fuse.{kind}" for kind in ("sshfs", "glusterfs", "ceph", "s3fs", "gcsfuse")}
# Descriptors of notify files. A forked child closes them: it would keep the lock of a parent that died holding it.
_NOTIFY: set[int] = set()


class NoJournalError(JournalError):
    """There is no journal to be read, or not yet: somebody is just making it."""


def notify_path(path: Path) -> Path:
    """The file beside the journal that is written after each commit; it is also the lock that writers take turns by."""
    return path.with_name(path.name + ".notify")


def open_notify(path: Path) -> int:
    """Open the notify file of a journal, for its owner only, and return the descriptor."""
    fd = os.open(notify_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _NOTIFY.add(fd)
    try:
        if os.fstat(fd).st_size == 0:
            # Later writes go over this byte, so that they need no space on a full disk.
            os.pwrite(fd, b".", 0)
    except OSError:
        close_notify(fd)
        raise
    return fd


def close_notify(fd: int) -> None:
    """Close what `open_notify` gave."""
    _NOTIFY.discard(fd)
    os.close(fd)


def _close_inherited() -> None:
    while _NOTIFY:
        os.close(_NOTIFY.pop())


os.register_at_fork(after_in_child=_close_inherited)


@contextlib.contextmanager
def locked(fd: int) -> Iterator[None]:
    """Hold the lock of the journal's writers; the kernel wakes the next one, and frees it when a process dies.

    SQLite's own way to wait is to try again after a sleep.
    """
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open or create the journal's database and bring it to the present version.

    Args:
        path: The file; its directory is made when missing.
        read_only: Whether the connection must change nothing; the file must exist then.

    Raises:
        NoJournalError: There is none to be read.
        JournalError: It can't be opened.
        IncompatibleVersionError: Its version is not this one's.
    """
    with translate(path):
        if read_only and not path.exists():
            raise NoJournalError(f"there is no journal at {path}")
        if not read_only:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if filesystem := network_filesystem(path):
            raise JournalError(
                f"the journal {path} would lie on {filesystem}, which SQLite can't share safely: "
                "set KFASYNC_HOME to a directory on a local disk"
            )
        if read_only:
            return _or_closed(_connect(path, "ro"), _check_version)
        fd = open_notify(path)
        try:
            # Two first opens at once: SQLite fails at once, whatever its timeout, when both switch to WAL.
            with locked(fd):
                # Only a new file is opened here: closing a descriptor of one that this process has open already would
                # drop the locks that SQLite holds on it.
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                return _or_closed(_connect(path, "rw"), _prepare)
        finally:
            close_notify(fd)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # isolation_level=None: transactions are ours to begin.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None)


def _or_closed(connection: sqlite3.Connection, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    try:
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL: a commit survives the death of any process; the last ones may be lost with the machine's power.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Bytes of WAL kept on disk between bursts.
    connection.execute(f"PRAGMA journal_size_limit = {8 << 20}")
    migrate(connection)


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the database's schema."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the database to the version that ``migrations`` lead to, in one transaction.

    Raises:
        IncompatibleVersionError: It is newer.
    """
    version = version_of(connection)
    if version > len(migrations):
        raise IncompatibleVersionError(
            f"the journal has schema version {version}, this kfasync knows up to {len(migrations)}: "
            "upgrade kfasync here, or set KFASYNC_HOME to another directory"
        )
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_version(connection: sqlite3.Connection) -> None:
    version = version_of(connection)
    if version == 0:
        raise NoJournalError("the journal is just being made: try again")
    if version != len(MIGRATIONS):
        raise IncompatibleVersionError(
            f"the journal has schema version {version}, this kfasync reads {len(MIGRATIONS)}: "
            + ("upgrade kfasync here" if version > len(MIGRATIONS) else "open it for writing once, which migrates it")
        )


def network_filesystem(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the network filesystem that a path lies on; empty when it lies on none, or nobody can tell.

    Args:
        path: The path; it need not exist.
        mountinfo: The kernel's list of mounts, see proc(5).
    """
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.resolve()
    best, kind = -1, ""
    for line in lines:
        mount, _, filesystem = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount.split()[4]))
        # Of two mounts on one point the later one is seen.
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), filesystem.split()[0]
    return kind if kind in _NETWORK else ""


_ADVICE = {
    "SQLITE_FULL": "there is no space left on its disk: free some and try again; what was recorded is intact",
    "SQLITE_BUSY": f"another program has held it locked for {_BUSY_TIMEOUT:.0f} s",
    "SQLITE_CORRUPT": "it is damaged: move it away, or restore it",
    "SQLITE_NOTADB": "it is not a journal: move that file away",
    "SQLITE_READONLY": "it may not be written: check its owner and mode",
    "SQLITE_CANTOPEN": "it can't be opened: check the owner and mode of its directory",
}


@contextlib.contextmanager
def translate(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into `JournalError`, once, at the edge."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        advice = next((text for start, text in _ADVICE.items() if name.startswith(start)), None)
        raise JournalError(f"the journal {path}: {advice or error} ({name or type(error).__name__})") from error
    except BackendError:
        raise
    except OSError as error:
        raise JournalError(f"the journal {path}: {error.strerror or error}") from error

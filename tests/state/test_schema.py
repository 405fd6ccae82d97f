"""The journal's file: versions, and where it may lie."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kfasync.errors import IncompatibleVersionError, JournalError
from kfasync.state import Journal, _schema
from kfasync.state._schema import MIGRATIONS, NoJournalError, connect, migrate, network_filesystem, version_of
from tests.state.happenings import submitted

NEXT = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",))


@pytest.mark.anyio
async def test_a_migration_keeps_what_was_recorded(journal: Journal, path: Path) -> None:
    await journal.append([submitted()])
    await journal.aclose()
    with closing(connect(path)) as connection:
        migrate(connection, NEXT)
        assert version_of(connection) == len(NEXT)
        assert connection.execute("SELECT name, colour FROM jobs").fetchall() == [("demo", "red")]
        migrate(connection, NEXT)
        connection.execute("PRAGMA user_version = 1")


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with closing(connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, (*NEXT, ("CREATE TABLE more (x)", "CREATE TABLE jobs (x)")))
        assert version_of(connection) == len(MIGRATIONS)
        assert "colour" not in str(connection.execute("SELECT sql FROM sqlite_schema").fetchall())


@pytest.mark.anyio
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_journal_is_refused_with_advice(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "newer.sqlite3"
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(IncompatibleVersionError, match=r"99.*upgrade kfasync"):
        await Journal.open(path, read_only=read_only)


@pytest.mark.anyio
async def test_an_older_journal_is_not_migrated_by_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "older.sqlite3"
    await (await Journal.open(path)).aclose()
    monkeypatch.setattr(_schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE later (a)",)))
    with pytest.raises(IncompatibleVersionError, match="writing once"):
        await Journal.open(path, read_only=True)


@pytest.mark.anyio
async def test_a_journal_that_is_not_made_yet_is_none_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite3"
    for make in (lambda: None, path.touch):
        make()
        with pytest.raises(NoJournalError):
            await Journal.open(path, read_only=True)
    await (await Journal.open(path)).aclose()
    await (await Journal.open(path, read_only=True)).aclose()


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/me/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/my\\040share rw - cifs //server/share rw
33 22 0:42 / /data rw - nfs server:/data rw
34 33 0:43 / /data rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/journal", ""),
        ("/home/me/journal", "nfs4"),
        ("/home/me/local/journal", ""),
        ("/homes/journal", ""),
        ("/mnt/my share/journal", "cifs"),
        ("/data/journal", ""),
    ],
)
def test_network_filesystems_are_told_from_local_ones(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_filesystem(Path(path), mounts) == kind


def test_a_link_to_a_network_filesystem_is_seen_through(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / {tmp_path}/far rw - nfs4 server:/ rw\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to("far")
    assert network_filesystem(tmp_path / "near" / "journal", mounts) == "nfs4"


def test_without_a_list_of_mounts_nothing_is_refused(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path, tmp_path / "missing") == ""


def test_a_directory_in_the_journals_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="directory"):
        connect(tmp_path)

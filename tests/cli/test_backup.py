"""`postroom backup`: a copy that can be started on, of a daemon that runs and of one that does not."""

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from broker.cli.app import main
from broker.cli.demo.daemon import Daemon

pytestmark = pytest.mark.system


def make(copy: Path, folder: Path) -> int:
    return main(["backup", str(copy), "--data-dir", str(folder)])


def published(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The bodies that a daemon on this copy has."""
    folder = tmp_path / "restored"
    folder.mkdir()
    restored = Daemon(folder)
    restored.data.mkdir()
    shutil.copy(copy, restored.data / "postroom.db")
    restored.start()
    try:
        capsys.readouterr()
        url = ["--url", restored.url]
        assert main(["sub", "t", "--from", "earliest", "-n", "2", "-o", "ndjson", *url]) == 0
    finally:
        restored.stop()
    return capsys.readouterr().out.splitlines()


def test_the_copy_of_a_running_daemon_has_what_was_confirmed(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for body in ("one", "two"):
        assert main(["pub", "t", body, "--url", daemon.url]) == 0
    copy = tmp_path / "copy.db"
    assert make(copy, daemon.data) == 0
    said = capsys.readouterr()
    assert f"{copy}: {copy.stat().st_size:,} bytes, checked" in said.out
    assert "To restore" in said.err
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [f.name for f in tmp_path.iterdir()] == ["copy.db"]
    assert len(published(copy, tmp_path, capsys)) == 2


def test_the_copy_of_a_stopped_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed, so that all is still in the file beside."""
    (tmp_path / "first").mkdir()
    daemon = Daemon(tmp_path / "first")
    daemon.start()
    for body in ("one", "two"):
        assert main(["pub", "t", body, "--url", daemon.url]) == 0
    daemon.kill()
    assert make(tmp_path / "copy.db", daemon.data) == 0
    assert len(published(tmp_path / "copy.db", tmp_path, capsys)) == 2


def test_the_copy_is_of_one_moment_while_others_write(tmp_path: Path) -> None:
    """Thousands of pages, and a writer that never rests: the copy ends all the same, and both halves agree."""
    from broker.engine.sqlite.backup import back_up
    from broker.engine.sqlite.connection import APPLICATION_ID

    source = tmp_path / "postroom.db"
    with closing(sqlite3.connect(source, isolation_level=None, check_same_thread=False)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE a (n)")
        db.execute(
            "CREATE TABLE filler AS WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 4000)"
            " SELECT zeroblob(4000) AS body FROM i"
        )
        db.execute("CREATE TABLE b (n)")
        steps: list[int] = []

        def write(done: int, total: int) -> None:
            steps.append(total - done)
            db.execute("BEGIN")
            db.execute("INSERT INTO a VALUES (1)")
            db.execute("INSERT INTO b VALUES (1)")
            db.execute("COMMIT")

        back_up(source, tmp_path / "copy.db", write)
    assert len(steps) > 2
    assert steps == sorted(steps, reverse=True), "it began anew"
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)").fetchone() == (0, 0)


def test_what_is_there_is_not_overwritten(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("dear")
    assert make(copy, daemon.data) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert copy.read_text() == "dear"
    (tmp_path / "other.part").write_text("half")
    assert make(tmp_path / "other", daemon.data) == 1
    assert "another backup runs, or one broke off" in capsys.readouterr().err
    assert (tmp_path / "other.part").read_text() == "half"
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_copied_is_said_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, data = tmp_path / "copy.db", tmp_path / "data"
    assert make(copy, data) == 1
    assert "--data-dir DIR" in capsys.readouterr().err
    data.mkdir()
    (data / "postroom.db").write_text("no database at all" * 100)
    assert make(copy, data) == 1
    assert "it is no database of Postroom's" in capsys.readouterr().err
    (data / "postroom.db").unlink()
    sqlite3.connect(data / "postroom.db").execute("CREATE TABLE mine (n)")
    assert make(copy, data) == 1
    assert "is not a Postroom file" in capsys.readouterr().err
    assert make(tmp_path / "nowhere" / "copy.db", data) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["data"]


def test_a_damaged_database_gives_no_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    daemon.stop()
    database = daemon.data / "postroom.db"
    whole = database.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    database.write_bytes(whole[:middle] + bytes(8 * 4096) + whole[middle + 8 * 4096 :])
    assert make(tmp_path / "copy.db", daemon.data) == 1
    assert "the file is damaged" in capsys.readouterr().err
    assert not (tmp_path / "copy.db").exists()

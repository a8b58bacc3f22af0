"""Files and disks that are not as they should be: the daemon says what to do, harms nothing, goes on where it can."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.engine.sqlite.connection import VERSION
from tests.system.door import ask, bodies, publish, status
from tests.system.served import Served

pytestmark = pytest.mark.system

QUEUE = '[queues.work]\ntopics = ["work/#"]\n'
NO_ALARM = "[engine.sqlite]\ndisk_free_limit = 0\nballast = 0\n"


def check_refusal(folder: Path, *mends: str, prefix: tuple[str, ...] = ()) -> None:
    """It ends with 1 and a last line that says what to do, and leaves the database as it is, but for what SQLite moves
    from the WAL into it."""
    database = folder / "data" / "postroom.db"
    before = digest(database)
    unclean = database.with_name("postroom.db-wal").exists()
    with Served(folder, QUEUE + NO_ALARM, prefix=prefix) as served:
        assert served.ended() == 1
        for mend in mends:
            assert mend in served.log[-1]
        assert served.log[-1].startswith("postroom: ")
        assert not any("Traceback" in line for line in served.log)
    assert unclean or digest(database) == before


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def used(folder: Path, count: int = 5) -> list[str]:
    """A daemon was here and left so many messages; all of it is in the one file."""
    said = [f"{i} {'x' * 60_000}" for i in range(count)]
    with Served(folder, QUEUE + NO_ALARM) as served:
        served.ready()
        for text in said:
            assert publish(served, "work/1", text.encode())[0] == 201
        served.signal(signal.SIGTERM)
        assert served.ended() == 0
    assert not (folder / "data" / "postroom.db-wal").exists()
    return said


def check_intact(folder: Path, said: list[str]) -> None:
    with Served(folder, QUEUE + NO_ALARM) as served:
        assert bodies(served.ready(), "work/1") == said
        assert publish(served, "work/1", b"more")[0] == 201


# The database


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postroom.db").write_bytes(b"Dear diary, " * 1_000)
    check_refusal(tmp_path, "data/postroom.db", "name another data folder, or restore a backup")


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    db = sqlite3.connect(tmp_path / "data" / "postroom.db")
    db.execute("CREATE TABLE message (text)")
    db.close()
    check_refusal(tmp_path, "is not a Postroom file; name another data folder")


def test_a_database_of_a_newer_program_or_from_before_the_first_release(tmp_path: Path) -> None:
    said = used(tmp_path)
    set_version(tmp_path, 99)
    check_refusal(tmp_path, "has schema 99", "upgrade postroom")
    set_version(tmp_path, 1)
    check_refusal(tmp_path, "has schema 1", "name another data folder")
    set_version(tmp_path, VERSION)
    check_intact(tmp_path, said)


def set_version(folder: Path, version: int) -> None:
    db = sqlite3.connect(folder / "data" / "postroom.db")
    db.execute(f"PRAGMA user_version = {version}")
    db.close()


def test_a_database_with_a_hole(tmp_path: Path) -> None:
    """Noticed after an unclean stop; put right, it has everything."""
    said = used(tmp_path)
    with Served(tmp_path, QUEUE) as served:
        served.ready().signal(signal.SIGKILL)
        served.ended()
    database = tmp_path / "data" / "postroom.db"
    whole = database.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    database.write_bytes(whole[:middle] + bytes(8 * 4096) + whole[middle + 8 * 4096 :])
    check_refusal(
        tmp_path,
        "the file is damaged",
        'restore a backup; without one, "Back up" in the README says how to save what can be read',
    )
    database.write_bytes(whole)
    check_intact(tmp_path, said)


def test_what_can_be_read_of_a_damaged_database_is_saved_as_the_readme_says(tmp_path: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is missing (Debian package sqlite3)")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (command,) = [line for line in readme.splitlines() if " .dump)" in line]
    said = used(tmp_path)
    folder = tmp_path / "data"
    folder.rename(tmp_path / "postroom-data")
    folder.mkdir()
    database = tmp_path / "postroom-data" / "postroom.db"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])  # where pages belong; what is in them is whole
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok"
    subprocess.run(["bash", "-c", command.replace("saved/", "data/")], cwd=tmp_path, check=True, timeout=20)
    check_intact(tmp_path, said)


def test_half_a_database(tmp_path: Path) -> None:
    said = used(tmp_path)
    database = tmp_path / "data" / "postroom.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    check_refusal(tmp_path, "malformed", "restore a backup")
    database.write_bytes(whole)
    check_intact(tmp_path, said)


# Rights


@pytest.fixture
def obedient() -> tuple[str, ...]:
    """What makes a daemon obey the rights of files, also when root starts it."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root passes over the rights of files, and there is no setpriv to stop it")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--")


def test_a_data_folder_that_cannot_be_written(tmp_path: Path, obedient: tuple[str, ...]) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    check_refusal(tmp_path, "cannot use the data folder", "give this user the right to write there", prefix=obedient)


def test_a_database_that_cannot_be_read(tmp_path: Path, obedient: tuple[str, ...]) -> None:
    said = used(tmp_path)
    (tmp_path / "data" / "postroom.db").chmod(0)
    check_refusal(tmp_path, "postroom.db", "the right to read and write it", prefix=obedient)
    (tmp_path / "data" / "postroom.db").chmod(0o600)
    check_intact(tmp_path, said)


def test_a_database_that_cannot_be_written(tmp_path: Path, obedient: tuple[str, ...]) -> None:
    said = used(tmp_path)
    (tmp_path / "data" / "postroom.db").chmod(0o400)
    check_refusal(tmp_path, "postroom.db", "the right to read and write it", prefix=obedient)
    (tmp_path / "data" / "postroom.db").chmod(0o600)
    check_intact(tmp_path, said)


# Room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data folder is a disk of 8 MiB."""
    data = tmp_path / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "postroom-test", str(data)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only, where mounting is allowed")
    yield tmp_path
    subprocess.run(["umount", str(data)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """Everything confirmed is there; who is refused is told so; with room again it goes on."""
    confirmed: list[str] = []
    with Served(small_disk, QUEUE + NO_ALARM) as served:
        served.ready()
        while True:
            text = f"{len(confirmed)} {'x' * 65_536}"
            code, answer = publish(served, "work/1", text.encode())
            if code != 201:
                break
            confirmed.append(text)
        assert (code, answer["code"]) == (503, "storage_failed")
        assert "full" in answer["detail"]
        assert len(confirmed) > 20
        assert publish(served, "other/1", b"x")[1]["code"] == "storage_failed"
        ready, told, _ = ask(served, "GET", "/readyz")
        assert (ready, told["state"]) == (503, "failed")
        assert "full" in told["reason"]
        assert ask(served, "GET", "/livez")[0] == 200
        assert bodies(served, "work/1") == confirmed
        served.signal(signal.SIGTERM)
        assert served.ended() == 0
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk / "data")], check=True)
    check_intact(small_disk, confirmed)


def test_a_start_on_a_full_disk(small_disk: Path) -> None:
    said = used(small_disk, 20)
    fill(small_disk / "data" / "filler")
    check_refusal(small_disk, "full", "free space")
    (small_disk / "data" / "filler").unlink()
    check_intact(small_disk, said)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass


def test_a_disk_that_runs_low(small_disk: Path) -> None:
    """Publishers are refused before it is full, acks go on, and it ends by itself."""
    config = f"{QUEUE}[engine.sqlite]\ndisk_free_limit = {4 << 20}\nballast = 0\n"
    filler = small_disk / "data" / "filler"
    with Served(small_disk, config) as served:
        assert publish(served.ready(), "work/1", b"one")[0] == 201
        filler.write_bytes(bytes(5 << 20))
        served.until(lambda: status(served)["state"] == "disk_low")
        code, problem = publish(served, "work/1", b"two")
        assert (code, problem["code"]) == (503, "disk_low")
        assert "free space" in problem["detail"]
        (message,) = ask(served, "POST", "/v1/queues/work/receive?wait=5s")[1]["messages"]
        settle = b'[{"receipt": "%s", "outcome": "ack"}]' % message["receipt"].encode()
        assert ask(served, "POST", "/v1/queues/work/settle", settle)[1]["results"][0]["ok"]
        filler.unlink()
        served.until(lambda: status(served)["state"] == "running")
        assert publish(served, "work/1", b"two")[0] == 201

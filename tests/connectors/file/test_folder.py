import os
from pathlib import Path
from typing import Any

import pytest

from broker.connectors.file.folder import Folder, natural
from broker.connectors.file.options import DropOptions
from tests.connectors.world import Clock


def folder(path: Path, clock: Clock, **values: Any) -> Folder:
    made = Folder(DropOptions.model_validate({"path": path, "topic": "t", "stable_for": 5, **values}), clock, clock)
    made.prepare()
    return made


def test_a_file_is_stable_after_the_checks_and_the_time(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock, stable_checks=3)
    (tmp_path / "a.csv").write_text("x")
    os.utime(tmp_path / "a.csv", (0, 0))  # a copied file keeps an old time; it says nothing
    assert drop.stable() == []
    clock.advance(60)
    assert drop.stable() == []
    assert drop.stable() == ["a.csv"]


def test_time_alone_counts_from_the_last_change(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock)
    file = tmp_path / "a.csv"
    for text in ("x", "xx", "xxx"):
        file.write_text(text)
        assert drop.stable() == []
        clock.advance(4)
    assert drop.stable() == []
    clock.advance(1)
    assert drop.stable() == ["a.csv"]
    file.rename(tmp_path / "b.csv")
    (tmp_path / "a.csv").write_text("yyy")
    assert drop.stable() == []


def test_what_is_never_taken(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock, stable_checks=1, stable_for=0, pattern=["*"])
    for name in (".a.csv", "a.csv.tmp", "a.PART", "a.filepart", "a.csv~", "a.crdownload"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.csv").symlink_to("/etc/hostname")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "Good.CSV").write_text("x")
    assert drop.stable() == ["Good.CSV"]


def test_patterns_and_natural_order(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock, stable_checks=1, stable_for=0)
    for name in ("day10.csv", "day9.csv", "DAY1.CSV", "day9.txt"):
        (tmp_path / name).write_text("x")
    assert drop.stable() == ["DAY1.CSV", "day9.csv", "day10.csv"]
    assert sorted(["a10", "a9b", "9", "10", "²", "a9"], key=natural) == ["9", "10", "a9", "a9b", "a10", "²"]


def test_claims_survive_and_go_back(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock)
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").write_text("y")
    first = drop.claim("a.csv")
    clock.advance(1)
    second = drop.claim("b.csv")
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert drop.claim("a.csv") is None
    (tmp_path / ".work" / "0").mkdir()  # a crash between making the folder and moving the file
    (tmp_path / ".work" / "stray").write_text("")
    assert folder(tmp_path, clock).claimed() == [first, second]
    assert folder(tmp_path, clock, pattern="*.txt").claimed() == []
    assert not (tmp_path / ".work" / "0").exists()
    (tmp_path / "a.csv").write_text("new")
    drop.release(first)
    assert (tmp_path / "a.csv").read_text() == "new"
    assert (tmp_path / f"a.{first.id}.csv").read_text() == "x"
    assert drop.claimed() == [second]


def test_nothing_is_overwritten_in_done(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock)
    for text in ("1", "2", "3"):
        (tmp_path / "a.csv").write_text(text)
        claim = drop.claim("a.csv")
        assert claim is not None
        drop.put_away(claim, drop.done)
    assert sorted(p.read_text() for p in drop.done.iterdir()) == ["1", "2", "3"]
    assert list(drop.work.iterdir()) == []


def test_a_missing_folder_says_what_to_do(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(OSError, match="create it"):
        folder(tmp_path / "none", clock)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is no folder"):
        folder(tmp_path / "file", clock)


def test_names_that_are_no_text(tmp_path: Path, clock: Clock) -> None:
    drop = folder(tmp_path, clock, stable_checks=1, stable_for=0)
    name = os.fsdecode(b"\xff\xfe.csv")
    (tmp_path / name).write_text("x")
    assert drop.stable() == [name]
    claim = drop.claim(name)
    assert claim is not None
    assert claim.shown == "\ufffd\ufffd.csv"
    drop.put_away(claim, drop.failed, {"file": claim.shown}, ".err.json")
    assert len(list(drop.failed.iterdir())) == 2

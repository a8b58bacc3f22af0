"""kill -9 in the middle of a file: a real process on a real folder, killed after so many commits and started again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.connectors.world import Broker, Clock

CHILD = """
import asyncio, sys
from pathlib import Path
from broker.connectors.file.drop import DropFolder
from broker.connectors.file.options import DropOptions
from broker.engine.sqlite.engine import SqliteEngine
from broker.hub import Hub
from broker.limits import Limits

async def main():
    engine = SqliteEngine(Path(sys.argv[1]))
    await engine.start()
    hub = Hub(engine, Limits())
    committed = hub.committed
    async def told(unit):
        receipt = await committed(unit)
        print("committed", flush=True)
        return receipt
    hub.committed = told
    options = DropOptions(path=sys.argv[2], topic="rows", stable_checks=1, stable_for=0, batch=10)
    await DropFolder(hub, options).poll()
    print("over", flush=True)
    await engine.stop()

asyncio.run(main())
"""
ROWS = 5_000


def run_until(line: str, count: int, *paths: Path) -> bool:
    """Start the process and kill it at the `count`th such line; True when it ended by itself before."""
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for said in child.stdout:
            if said.strip() == line:
                count -= 1
                if count == 0:
                    child.kill()
                    return False
        assert child.wait(30) == 0
    return True


@pytest.mark.system
async def test_killed_again_and_again_every_row_is_there_once(tmp_path: Path, clock: Clock) -> None:
    data, folder = tmp_path / "data", tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("id\n" + "".join(f"{i}\n" for i in range(ROWS)))
    kills = 0
    for count in (1, 7, 3, 12):
        kills += not run_until("committed", count, data, folder)
    assert kills == 4
    assert run_until("nothing", 1, data, folder)
    broker = Broker(data, clock)
    await broker.start()
    try:
        ids = [int(json.loads(m.body)["id"]) for m in await broker.messages("rows")]
    finally:
        await broker.stop()
    assert ids == list(range(ROWS))
    assert [p.name for p in (folder / "done").iterdir()] == ["a.csv"]

import asyncio
from pathlib import Path

from tests.bench.figures import Results, Values
from tests.bench.plan import Scenario, Step, Table
from tests.bench.progress import Progress
from tests.bench.runner import keys_of, run


def _scenario(*steps: Step) -> Scenario:
    return Scenario("some", steps, lambda results: Table("", [], []))


def _content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _run(scenario: Scenario, runs: int, folder: Path) -> tuple[Results, list[str]]:
    lines: list[str] = []
    progress = Progress(keys_of(scenario, runs), lines.append, lambda: 0.0)
    return run(scenario, runs, folder, progress), lines


def test_steps_alternate_and_each_has_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    order: list[str] = []
    folders: list[tuple[Path, list[Path]]] = []

    def measuring(key: str) -> Step:
        async def measure(folder: Path) -> Values:
            folders.append((folder, _content(folder)))
            order.append(key)
            return {"rate": float(len(order))}

        return Step(key, measure)

    results, _ = _run(_scenario(measuring("a"), measuring("b")), 2, tmp_path)
    assert order == ["a", "b", "a", "b"]
    assert results.all("a", "rate") == [1.0, 3.0]
    assert len({folder for folder, _ in folders}) == 4
    assert all(content == [] for _, content in folders)
    assert _content(tmp_path) == []


def test_a_step_that_fails_is_told_and_stops_no_other(tmp_path: Path) -> None:
    async def fail(folder: Path) -> Values:
        raise RuntimeError("it did not start:\n  much\n  the disk is full")

    async def never(folder: Path) -> Values:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return {}

    async def work(folder: Path) -> Values:
        return {"rate": 0.5}

    results, lines = _run(_scenario(Step("bad", fail), Step("late", never), Step("good", work)), 1, tmp_path)
    assert results.failures == ["bad, run 1: it did not start: … the disk is full", "late, run 1: TimeoutError"]
    assert results.all("good", "rate") == [0.5]
    assert [line.strip() for line in lines[1::2]] == [
        "failed: it did not start: … the disk is full",
        "failed: TimeoutError",
        "0.5 messages/s",
    ]

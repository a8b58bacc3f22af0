"""Drop folders in numbers, for metrics. Floor 4."""

from collections.abc import Sequence

from broker.connectors.file.drop import FolderStatus
from broker.observe.metrics import Figures, counter, gauge


def figures(folders: Sequence[FolderStatus]) -> list[Figures]:
    """Files by what became of them, messages made of them, and files that are still there."""
    results = {
        (folder.feed, result): count
        for folder in folders
        for result, count in (("done", folder.done), ("failed", folder.failed), ("skipped", folder.skipped))
    }
    messages = {(folder.feed,): folder.published for folder in folders}
    watched = {(folder.feed,): folder.watched for folder in folders}
    failing = {(folder.feed,): float(folder.state == "failing") for folder in folders}
    return [
        counter("drop_files", "Files that were put away, by result", ("feed", "result"), results),
        counter("drop_messages", "Messages made of files", ("feed",), messages),
        gauge("drop_watched_files", "Files that lie in the folder", ("feed",), watched),
        gauge("drop_failing", "1 while the folder has a trouble", ("feed",), failing),
    ]

"""The asyncio client of Postroom: publish exactly once, work off queues, follow streams. See README.md.

`postroom_client.sync` is the same for programs without an event loop; `postroom_client.pytest_plugin` starts a real
daemon for tests.
"""

from postroom_client.administration import Page
from postroom_client.backoff import Backoff
from postroom_client.client import Client, connect
from postroom_client.deliveries import Deliveries
from postroom_client.errors import (
    ClientClosed,
    ConnectionLost,
    DecodeFailed,
    LeaseLost,
    PartlyRefused,
    PostroomError,
    Reject,
    Retry,
    WindowFull,
)
from postroom_client.message import LoggedMessage, Message
from postroom_client.receipt import Receipt
from postroom_client.stream import Stream
from postroom_client.thread import ThreadMessage
from postroom_client.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "Client",
    "ClientClosed",
    "ConnectionLost",
    "DecodeFailed",
    "Deliveries",
    "LeaseLost",
    "LoggedMessage",
    "Message",
    "Page",
    "PartlyRefused",
    "PostroomError",
    "Receipt",
    "Reject",
    "Retry",
    "Stream",
    "ThreadMessage",
    "Transaction",
    "WindowFull",
    "connect",
]

"""A message as the HTTP request that a webhook's receiver sees: its headers; the body is the message's, untouched.

Text that HTTP does not carry is percent-encoded as UTF-8, as the CloudEvents HTTP binding does (§3.1.3.2), so that a
receiver gets every value back by one rule. Pure. Floor 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import broker
from broker.connectors.webhook.signing import sign
from broker.core.message import Message
from broker.observe.trace import TRACEPARENT, TRACESTATE, trace_context

_TOKEN_SAFE = "!#$&'*+^`|"  # noqa: S105  the marks of an HTTP token (RFC 9110 §5.6.2) that quote() would encode, without %
_VALUE_SAFE = "!#$&'()*+,/:;<=>?@[\\]^`{|}"
_USER_AGENT = f"Postroom/{broker.__version__}"
_DEFAULT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt to hand one message over."""

    message: Message
    subscription: str
    attempt: int

    def headers(self, extra: Mapping[str, str], secrets: Sequence[bytes], now: float) -> dict[str, str]:
        """All headers of this attempt; the timestamp is the attempt's (Standard Webhooks), `now` in unix seconds."""
        message = self.message
        identity, timestamp = webhook_id(message.id), int(now)
        headers = {
            **extra,
            "User-Agent": _USER_AGENT,
            "Accept-Encoding": "identity",
            "Content-Type": quote(message.content_type or _DEFAULT_TYPE, safe=_VALUE_SAFE + ' "%'),
            "webhook-id": identity,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secrets, identity, timestamp, message.body),
            "Postroom-Topic": quote(message.topic, safe=_VALUE_SAFE),
            "Postroom-Subscription": self.subscription,
            "Postroom-Attempt": str(self.attempt),
            "Postroom-Offset": str(message.offset),
            "Postroom-Position": message.position,
            "Postroom-Published-At": str(message.published_at),
        }
        if message.key is not None:
            headers["Postroom-Key"] = quote(message.key, safe=_VALUE_SAFE)
        if message.priority:
            headers["Postroom-Priority"] = str(message.priority)
        for name, text in message.headers.items():
            headers[f"Postroom-Header-{quote(name, safe=_TOKEN_SAFE)}"] = quote(text, safe=_VALUE_SAFE)
        if TRACEPARENT in message.headers:
            state = message.headers.get(TRACESTATE)
            headers |= trace_context([message.headers[TRACEPARENT]], [state] if state else [])
        return headers


def webhook_id(message_id: str) -> str:
    """The message's id as `webhook-id`: the same over all attempts, and without a `.`, which the signature's grammar
    keeps for itself; what does not fit is percent-encoded."""
    return quote(message_id, safe=_TOKEN_SAFE).replace(".", "%2E")

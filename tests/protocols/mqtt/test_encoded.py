"""Messages of other doors as packets."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import pack_meta
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.packets import V5, Publish
from broker.protocols.mqtt.encoded import encoded

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(TEXTS, TEXTS, TEXTS)
def test_any_text_of_another_door_can_be_sent(name: str, value: str, kind: str) -> None:
    meta = pack_meta({"headers": {name: value}, "key": value, "id": name, "content_type": kind})
    _, fanout = encoded((1, "a", 0, meta, b"x"), "a", 0)
    (packet,) = Decoder(version=V5, from_client=False).feed(fanout.packet(V5, 1, packet_id=1))
    assert isinstance(packet, Publish)
    assert packet.properties["content_type"] == kind.replace("\0", "\ufffd")
    assert packet.properties["user"][0] == (name.replace("\0", "\ufffd"), value.replace("\0", "\ufffd"))

"""Packets of every kind and version for hypothesis, from the codec's own tables."""

from collections.abc import Mapping
from typing import Any, cast

from hypothesis import strategies as st

from broker.protocols.mqtt.codec import properties as table
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import (
    NONE,
    V5,
    V31,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocols.mqtt.codec.reasons import FROM_CLIENT, FROM_SERVER, RETURN_CODES

VERSIONS = (V31, V311, V5)
ACKS = (Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP)

free_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
plain_text = st.text(st.characters(exclude_categories=["C"]), max_size=12)
names = st.text(st.characters(exclude_categories=["C"], exclude_characters="+#"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith("$share/")
)
levels = st.one_of(st.just("+"), st.text(st.characters(exclude_categories=["C"], exclude_characters="+#/"), max_size=4))
bare_filters = (
    st.tuples(st.lists(levels, max_size=4), st.sampled_from([[], ["#"]]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(lambda text: bool(text) and not text.startswith("$share/"))
)
groups = st.text(st.characters(exclude_categories=["C"], exclude_characters="+#/"), min_size=1, max_size=6)
shared_filters = st.tuples(groups, bare_filters).map(lambda parts: f"$share/{parts[0]}/{parts[1]}")
filters = st.one_of(bare_filters, shared_filters)
packet_ids = st.integers(1, 65_535)
payloads = st.one_of(st.binary(max_size=40), st.integers(90, 300).map(lambda size: b"x" * size))

FORMS: Mapping[int, st.SearchStrategy[Any]] = {
    id(table.TEXT): free_text,
    id(table.PLAIN): plain_text,
    id(table.TOPIC): names,
    id(table.BINARY): st.binary(max_size=12),
    id(table.PAIR): st.tuples(free_text, free_text),
}


def _value(row: table.Property) -> st.SearchStrategy[Any]:
    one = st.integers(row.low, row.form.high) if row.form.high else FORMS[id(row.form)]
    return st.lists(one, min_size=1, max_size=3) if row.repeats else one


def properties(place: Kind, version: int, from_client: bool) -> st.SearchStrategy[Properties]:
    """What a packet may carry from this side."""
    if version != V5:
        return st.just(NONE)
    optional = {row.name: _value(row) for row in table.TABLE if place in row.places}
    if place is Kind.SUBSCRIBE:
        optional["subscription_ids"] = st.lists(st.integers(1, 268_435_455), min_size=1, max_size=1)
    if place is Kind.PUBLISH and from_client:
        del optional["subscription_ids"]
    if place is Kind.DISCONNECT and not from_client:
        del optional["session_expiry"]
    chosen = st.fixed_dictionaries({}, optional=optional).map(_with_method)
    return cast("st.SearchStrategy[Properties]", st.one_of(st.just(NONE), chosen))


def _with_method(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"authentication_method": "method"} if "authentication_data" in given else given


def _reasons(kind: Kind, from_client: bool) -> st.SearchStrategy[Reason]:
    return st.sampled_from(sorted((FROM_CLIENT if from_client else FROM_SERVER)[kind])).map(Reason)


@st.composite
def publishes(draw: st.DrawFn, version: int, from_client: bool) -> Publish:
    qos = draw(st.integers(0, 2))
    carried = draw(properties(Kind.PUBLISH, version, from_client))
    topic = draw(st.one_of(st.just(""), names) if "topic_alias" in carried else names)
    dup = qos > 0 and draw(st.booleans())
    return Publish(topic, draw(payloads), qos, draw(st.booleans()), dup, draw(packet_ids) if qos else 0, carried)


@st.composite
def acks(draw: st.DrawFn, version: int, from_client: bool) -> Ack:
    kind = draw(st.sampled_from(ACKS))
    if version != V5:
        return Ack(kind, (draw(packet_ids),))
    carried = draw(properties(kind, version, from_client))
    return Ack(kind, (draw(packet_ids),), draw(_reasons(kind, from_client)), carried)


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    clean = draw(st.booleans())
    named = version == V31 or (version == V311 and not clean)
    client_id = draw(plain_text.filter(bool) if named else plain_text)
    username = draw(st.one_of(st.none(), plain_text))
    password = draw(st.one_of(st.none(), st.binary(max_size=12)))
    if username is None and version != V5:
        password = None
    will = draw(
        st.one_of(
            st.none(),
            st.builds(
                *(Will, names, st.binary(max_size=12), st.integers(0, 2), st.booleans()),
                properties(Kind.WILL, version, from_client=True),
            ),
        )
    )
    carried = draw(properties(Kind.CONNECT, version, from_client=True))
    return Connect(version, client_id, clean, draw(st.integers(0, 65_535)), username, password, will, carried)


@st.composite
def requests(draw: st.DrawFn, version: int) -> Request:
    text = draw(filters)
    if version != V5:
        return Request(text, draw(st.integers(0, 2)))
    no_local = draw(st.booleans()) and not text.startswith("$share/")
    return Request(text, draw(st.integers(0, 2)), no_local, draw(st.booleans()), draw(st.integers(0, 2)))


def _auths(from_client: bool) -> st.SearchStrategy[Packet]:
    carried = properties(Kind.AUTH, V5, from_client).map(
        lambda given: cast(Properties, {**given, "authentication_method": "method"})
    )
    return st.builds(Auth, _reasons(Kind.AUTH, from_client), carried)


def from_clients(version: int) -> st.SearchStrategy[Packet]:
    """What a client sends after its CONNECT."""
    requested = st.lists(requests(version), min_size=1, max_size=3).map(tuple)
    unwanted = st.lists(filters, min_size=1, max_size=3).map(tuple)
    kinds: list[st.SearchStrategy[Packet]] = [
        publishes(version, from_client=True),
        acks(version, from_client=True),
        st.builds(Subscribe, packet_ids, requested, properties(Kind.SUBSCRIBE, version, from_client=True)),
        st.builds(Unsubscribe, packet_ids, unwanted, properties(Kind.UNSUBSCRIBE, version, from_client=True)),
        st.just(Pingreq()),
        _disconnects(version, from_client=True),
    ]
    return st.one_of(*kinds, *([_auths(from_client=True)] if version == V5 else []))


def from_servers(version: int) -> st.SearchStrategy[Packet]:
    """What a server sends."""
    granted = st.lists(_granted(version), min_size=1, max_size=3).map(tuple)
    undone = st.lists(_reasons(Kind.UNSUBACK, from_client=False), min_size=1, max_size=3).map(tuple)
    kinds: list[st.SearchStrategy[Packet]] = [
        publishes(version, from_client=False),
        acks(version, from_client=False),
        _connacks(version),
        st.builds(Suback, packet_ids, granted, properties(Kind.SUBACK, version, from_client=False)),
        st.builds(
            *(Unsuback, packet_ids, undone if version == V5 else st.just(())),
            properties(Kind.UNSUBACK, version, from_client=False),
        ),
        st.just(Pingresp()),
    ]
    if version == V5:
        kinds += [_disconnects(version, from_client=False), _auths(from_client=False)]
    return st.one_of(*kinds)


def _granted(version: int) -> st.SearchStrategy[Reason]:
    if version == V5:
        return _reasons(Kind.SUBACK, from_client=False)
    return st.sampled_from([Reason(0), Reason(1), Reason(2), Reason.UNSPECIFIED_ERROR])


def _connacks(version: int) -> st.SearchStrategy[Packet]:
    reasons = _reasons(Kind.CONNACK, from_client=False) if version == V5 else st.sampled_from(RETURN_CODES)
    carried = properties(Kind.CONNACK, version, from_client=False)
    return st.builds(
        lambda reason, present, given: Connack(reason, present and not reason and version != V31, given),
        *(reasons, st.booleans(), carried),
    )


def _disconnects(version: int, from_client: bool) -> st.SearchStrategy[Packet]:
    if version != V5:
        return st.just(Disconnect())
    carried = properties(Kind.DISCONNECT, version, from_client)
    return st.builds(Disconnect, _reasons(Kind.DISCONNECT, from_client), carried)

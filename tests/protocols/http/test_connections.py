"""The list of connections, and sending one away."""

from tests.protocols.http.conftest import Door, until

REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_connections_are_listed_in_pages_and_closed(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(REQUEST)
    await reader.readuntil(b"alive")
    first = (await door("GET", "/v1/connections?limit=1")).json
    (connection,) = first["connections"]
    assert (connection["door"], connection["address"]) == ("http", "127.0.0.1")
    assert (connection["principal"], connection["how"]) == ("local", "loopback")
    assert connection["port"] == writer.get_extra_info("sockname")[1]
    assert first["next"] == connection["id"]
    second = (await door("GET", f"/v1/connections?after={first['next']}")).json
    assert connection["id"] not in [c["id"] for c in second["connections"]]
    assert second["next"] is None
    assert (await door("DELETE", f"/v1/connections/{connection['id']}")).status == 204
    assert b"HTTP" not in await reader.read()
    await until(lambda: door.server._admission.find(connection["id"]) is None)
    gone = await door("DELETE", f"/v1/connections/{connection['id']}")
    assert (gone.status, gone.code) == (404, "not_found")


async def test_a_poll_that_is_sent_away_is_told(door: Door) -> None:
    await door.queue("q", ["a"])
    reader, writer = await door.connect()
    writer.write(b"POST /v1/queues/q/receive?wait=20 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await until(lambda: bool(door.server._receivers.get("q")))
    port = writer.get_extra_info("sockname")[1]
    (mine,) = [c for c in (await door("GET", "/v1/connections")).json["connections"] if c["port"] == port]
    assert (await door("DELETE", f"/v1/connections/{mine['id']}")).status == 204
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"dismissed"' in answer


async def test_an_id_that_is_none_is_refused(door: Door) -> None:
    assert (await door("GET", "/v1/connections?after=x")).code == "bad_option"

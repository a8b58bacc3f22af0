"""Bridges of real daemons: to another Postroom and to mosquitto, over outages and kill -9 of either side."""

import asyncio
from pathlib import Path
from random import Random
from time import sleep

import aiomqtt
import pytest

from broker.protocols.mqtt.codec.packets import Publish
from tests.authority import Authority
from tests.connectors.mqtt_bridge.upstream import open_upstream
from tests.system.door import ask, bodies, status
from tests.system.served import WITHIN
from tests.system.site import Mosquitto, Site, needs_mosquitto, wait_until
from tests.system.waiting import until

pytestmark = pytest.mark.system

COUNT = 3_000
SETTLED = 1.0
"""Seconds in which what must not come would have."""


def bridge(name: str, port: int, *topics: str, **more: object) -> str:
    """The configuration of one that does not wait long."""
    settings = {"name": name, "address": f"mqtt://127.0.0.1:{port}", "backoff": "50ms", "backoff_cap": "200ms"} | more
    lines = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    return f"[[mqtt_bridge]]\n{lines}\ntopics = [{', '.join(topics)}]\n"


def topics(filter_: str, direction: str, **more: object) -> str:
    given = {"filter": filter_, "direction": direction} | more
    return "{" + ", ".join(f"{key} = {value!r}" for key, value in given.items()) + "}"


def connected(site: Site, name: str = "b") -> None:
    wait_until(lambda: site.bridge(name)["state"] == "ok")


def test_between_two_postrooms_nothing_is_lost_or_doubled_when_either_is_killed(tmp_path: Path) -> None:
    chance = Random(7)
    up, down = topics("up/#", "out"), topics("down/#", "in")
    with Site(tmp_path / "there") as there, Site(tmp_path / "here", bridge("b", there.port, up, down)) as here:
        connected(here)
        done = 0
        for victim in (here, there, here, there):
            more = range(done, done + COUNT)
            here.publish("up/x", more)
            there.publish("down/x", more)
            sleep(chance.uniform(0, 0.3))
            victim.kill()
            survivor, topic = (there, "down/x") if victim is here else (here, "up/x")
            survivor.publish(topic, range(more.stop, more.stop + COUNT))
            victim.start()
            other, topic = (here, "up/x") if victim is here else (there, "down/x")
            other.publish(topic, range(more.stop, more.stop + COUNT))
            done = more.stop + COUNT
        wait_until(lambda: there.count("up/x") >= done and here.count("down/x") >= done)
        wait_until(lambda: here.bridge("b")["backlog"] == 0)
        sleep(SETTLED)
        assert there.numbers("up/x") == list(range(done))
        assert here.numbers("down/x") == list(range(done))


@needs_mosquitto
def test_through_mosquitto_the_ids_pass_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Mosquitto keeps its state when it is stopped in order; killed, it would forget what it has acknowledged."""
    with Mosquitto(tmp_path / "mosquitto") as between:
        near = bridge("b", between.port, topics("t/#", "out", remote_prefix="from/near/"))
        far = bridge("b", between.port, topics("t/#", "in", remote_prefix="from/near/"))
        with Site(tmp_path / "far", far) as there, Site(tmp_path / "near", near) as here:
            connected(here)
            connected(there)
            here.publish("t/x", range(COUNT))
            sleep(0.2)
            here.kill()
            here.start()
            between.stop()
            here.publish("t/x", range(COUNT, 2 * COUNT))
            there.kill()
            there.start()
            between.start()
            wait_until(lambda: there.count("t/x") >= 2 * COUNT)
            wait_until(lambda: here.bridge("b")["backlog"] == 0)
            sleep(SETTLED)
            assert there.numbers("t/x") == list(range(2 * COUNT))


@needs_mosquitto
def test_mqtt_3_1_1_loses_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as between:
        near = bridge("b", between.port, topics("t/#", "out"), version="3.1.1")
        far = bridge("b", between.port, topics("t/#", "in"), version="3.1.1")
        with Site(tmp_path / "far", far) as there, Site(tmp_path / "near", near) as here:
            connected(here)
            connected(there)
            here.publish("t/x", range(COUNT))
            sleep(0.2)
            here.kill()
            there.kill()
            here.start()
            there.start()
            wait_until(lambda: here.bridge("b")["backlog"] == 0 and set(there.numbers("t/x")) == set(range(COUNT)))
            firsts = list(dict.fromkeys(there.numbers("t/x")))
            assert firsts == list(range(COUNT))  # what comes again comes in order, too


def test_two_brokers_that_bridge_to_one_another_both_ways_have_each_message_once(tmp_path: Path) -> None:
    one, two = Site(tmp_path / "one"), Site(tmp_path / "two")
    one.config = bridge("b", two.port, topics("t/#", "both"))
    two.config = bridge("b", one.port, topics("t/#", "both"))
    with one, two:
        connected(one)
        connected(two)
        one.publish("t/one", range(50))
        two.publish("t/two", range(50))
        wait_until(lambda: one.count("t/two") >= 50 and two.count("t/one") >= 50)
        sleep(SETTLED)
        for site in (one, two):
            assert [site.numbers("t/one"), site.numbers("t/two")] == [list(range(50))] * 2
            assert site.bridge("b")["backlog"] == 0


def retained(site: Site, filter_: str = "**") -> list[str]:
    """Topics."""
    return [entry["topic"] for entry in ask(site.served, "GET", f"/v1/mqtt/retained?filter={filter_}")[1]["retained"]]


async def last_values(port: int, topic: str, count: int) -> dict[str, str]:
    """What who subscribes now is told first."""
    found: dict[str, str] = {}
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(topic, 1)
        async with asyncio.timeout(WITHIN):
            async for message in client.messages:
                assert message.retain
                found[str(message.topic)] = bytes(message.payload).decode()
                if len(found) == count:
                    break
    return found


async def retain(port: int, **values: str) -> None:
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for name, value in values.items():
            await client.publish(f"plant/{name}", value, 1, retain=True)


@needs_mosquitto
async def test_dashboards_behind_a_bridge_find_the_last_values(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as there:
        await retain(there.port, oven="180", door="shut", fan="on")
        here = Site(tmp_path / "here", bridge("b", there.port, topics("plant/#", "in", local_prefix="far/")))
        with here:
            await until(lambda: retained(here) == ["far/plant/door", "far/plant/fan", "far/plant/oven"])
            await retain(there.port, oven="181", fan="")
            await until(lambda: retained(here) == ["far/plant/door", "far/plant/oven"])
            await until(lambda: here.bridge("b")["received"] == 5)
            here.kill()
            await retain(there.port, door="open")
            here.start()
            await until(lambda: here.count("far/plant/door") > 1)
            assert await last_values(here.port, "far/#", 2) == {"far/plant/oven": "181", "far/plant/door": "open"}


@needs_mosquitto
async def test_what_is_retained_passes_through_and_does_not_come_back(tmp_path: Path) -> None:
    """By way of a broker in between that keeps it, too, and after which it would come again."""
    both = topics("plant/#", "both")
    with Mosquitto(tmp_path / "mosquitto") as between:
        link = bridge("b", between.port, both)
        with Site(tmp_path / "one", link) as one, Site(tmp_path / "two", link) as two:
            connected(one)
            connected(two)
            await retain(one.port, oven="180", door="shut")
            await until(lambda: retained(two) == ["plant/door", "plant/oven"])
            await retain(two.port, door="")
            await until(lambda: retained(one) == ["plant/oven"])
            one.kill()
            one.config = bridge("b", between.port, both, client_id="another")  # to whom all that is retained comes
            one.start()
            await until(lambda: one.bridge("b")["returned"] == 1)
            assert await last_values(one.port, "plant/#", 1) == {"plant/oven": "180"}
            assert [site.numbers("plant/oven") for site in (one, two)] == [[180], [180]]


def test_what_cannot_be_stored_or_sent_is_told_and_stops_nothing(tmp_path: Path) -> None:
    there = Site(tmp_path / "there", "[limits]\nmax_body = 3000\n")
    down = topics("down/#", "in")
    here = Site(
        tmp_path / "here", "[limits]\nmax_body = 200000\n" + bridge("b", there.port, topics("up/#", "out"), down)
    )
    with there, here:
        connected(here)
        for size in (1, 150_000, 2):
            ask(here.served, "POST", "/v1/topics/up/x/messages", b"x" * size, {"Content-Type": "text/plain"})
        wait_until(lambda: here.bridge("b")["rejected"] == 1 and here.bridge("b")["backlog"] == 0)
        assert [len(body) for body in bodies(there.served, "up/x")] == [1, 2]
        told = here.bridge("b")
        assert (told["sent"], told["rejected"], told["state"]) == (2, 1, "ok")
        assert "150" in told["refusal"]
        (dead,) = ask(here.served, "GET", "/v1/topics/$dead/bridge.b/messages?from=earliest")[1]["messages"]
        assert len(dead["body"]) == 150_000
        here.kill()
        here.config = here.config.replace("200000", "2000")
        here.start()
        connected(here)
        for size in (1, 2_500, 2):
            ask(there.served, "POST", "/v1/topics/down/x/messages", b"x" * size, {"Content-Type": "text/plain"})
        wait_until(lambda: here.count("down/x") == 2)
        told = here.bridge("b")
        assert (told["received"], told["refused"], told["state"]) == (2, 1, "ok")
        assert "2500 bytes" in told["refusal"]


def test_a_wrong_password_is_told_and_the_others_work(tmp_path: Path) -> None:
    with Site(tmp_path / "guarded", "[auth]\n") as guarded, Site(tmp_path / "open") as open_:
        wrong = bridge("wrong", guarded.port, topics("t/#", "out"), user="ann", password="hush-hush")
        dead = bridge("dead", 1, topics("t/#", "out"))
        with Site(tmp_path / "here", wrong + dead + bridge("good", open_.port, topics("t/#", "out"))) as here:
            connected(here, "good")
            here.publish("t/x", range(3))
            wait_until(lambda: open_.count("t/x") == 3)
            wait_until(lambda: all(here.bridge(name)["state"] == "failing" for name in ("wrong", "dead")))
            told = here.bridge("wrong")
            assert "Bad user name or password" in told["error"]
            assert (told["backlog"], told["oldest_seconds"] > 0) == (3, True)
            assert "refused" in here.bridge("dead")["error"].lower()
            metrics = ask_text(here, "/metrics")
            assert 'postroom_bridge_backlog{bridge="dead"} 3.0' in metrics
            assert 'postroom_bridge_messages_total{bridge="good",result="sent"} 3.0' in metrics
            assert "hush-hush" not in "\n".join([*here.served.log, str(status(here.served))])


def test_a_stop_in_the_middle_waits_for_what_is_in_flight_and_loses_nothing(tmp_path: Path) -> None:
    with Site(tmp_path / "there") as there, Site(tmp_path / "here") as here:
        here.kill()
        here.config = bridge("b", there.port, topics("up/#", "out"), rate=1_000)
        here.start()
        connected(here)
        here.publish("up/x", range(COUNT))
        wait_until(lambda: there.count("up/x") > 100)
        assert here.stop() == 0
        assert not here.served.errors()
        assert 100 < there.count("up/x") < COUNT
        here.start()
        wait_until(lambda: there.count("up/x") >= COUNT)
        assert there.numbers("up/x") == list(range(COUNT))


def test_tls_is_verified_and_a_reload_takes_up_what_has_changed(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    server = authority.issue("127.0.0.1")
    there = Site(tmp_path / "there", f'[mqtt.tls]\ncertificate = "{server.certificate}"\nkey = "{server.key}"\n')
    link = bridge("b", there.port, topics("t/#", "out")).replace("mqtt://", "mqtts://")
    trust = link + f'[mqtt_bridge.tls]\nca = "{authority.path}"\n'
    with there, Site(tmp_path / "here", trust.replace(str(authority.path), str(other.path))) as here:
        here.publish("t/x", range(3))
        wait_until(lambda: "certificate verify failed" in here.bridge("b")["error"])
        here.reload(trust)
        connected(here)
        wait_until(lambda: there.count("t/x") == 3)
        here.reload("")
        wait_until(lambda: not status(here.served)["mqtt_bridge"])


def ask_text(site: Site, path: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://{site.served.address('http')}{path}") as response:
        found: str = response.read().decode()
        return found


async def test_a_reset_behind_unread_messages_is_noticed(tmp_path: Path) -> None:
    """uvloop stops watching such a socket: who then read one packet of many heard no more, until the keep alive."""
    async with open_upstream() as there:

        async def subscribed(times: int) -> None:
            await until(lambda: len(there.subscribed) == times)

        with Site(tmp_path / "here", bridge("b", there.port, topics("t/#", "in"))):
            for times in range(1, 11):
                await subscribed(times)
                there.reset_after(*(Publish("t/x", b"1", 1, packet_id=n) for n in range(1, 200)))
            await subscribed(11)

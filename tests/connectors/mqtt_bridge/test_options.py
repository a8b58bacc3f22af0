"""What an operator may write of a bridge, and what he is told when it does not fit."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from broker.config.load import check_config, load_config
from broker.config.problem import ConfigError
from broker.connectors.mqtt_bridge.options import Address, BridgeOptions

TOPIC = {"filter": "t/#", "direction": "out"}


def made(**more: Any) -> BridgeOptions:
    return BridgeOptions.model_validate({"name": "b", "address": "mqtt://host", "topics": [TOPIC]} | more)


def test_an_address_has_a_port_and_says_whether_it_is_encrypted() -> None:
    assert Address.parse("mqtt://host") == Address("mqtt://host", "host", 1883, False)
    assert Address.parse("mqtts://host") == Address("mqtts://host", "host", 8883, True)
    assert Address.parse("mqtts://[::1]:7") == Address("mqtts://[::1]:7", "::1", 7, True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"address": "host:1883"}, "is no address; write mqtts://host"),
        ({"address": "http://host"}, "is no address"),
        ({"address": "mqtt://host:99999"}, "is no address"),
        ({"address": "mqtt://host:0"}, "is no address"),
        ({"address": "mqtt://host/path"}, "is no address"),
        ({"address": "mqtt://u:p@host"}, "set user and password"),
        ({"address": []}, "at least 1"),
        ({"name": "a b"}, "is no name"),
        ({"topics": []}, "at least 1"),
        ({"topics": [TOPIC | {"qos": 2}]}, "a bridge speaks QoS 0 or 1"),
        ({"topics": [TOPIC | {"filter": "a#"}]}, "must be the whole last level"),
        ({"topics": [TOPIC | {"local_prefix": "+/"}]}, "wildcards belong in filters"),
        ({"topics": [TOPIC | {"local_prefix": "$SYS/"}]}, "the broker's own"),
        ({"topics": [TOPIC | {"filter": "$share/g/t"}]}, "the broker's own"),
        ({"password": "x"}, "user is missing"),
        ({"backoff": "10s", "backoff_cap": "1s"}, "must not be less"),
        ({"tls": {"key": "/k"}}, "certificate is missing"),
        ({"notifications": "a/#"}, "wildcard"),
    ],
)
def test_what_does_not_fit_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        made(**given)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("topics", "echoes"),
    [
        ([{"filter": "t/#", "direction": "both"}], True),
        ([{"filter": "t/+", "direction": "out"}, {"filter": "+/x", "direction": "in"}], True),
        ([{"filter": "t/#", "direction": "out"}, {"filter": "u/#", "direction": "in"}], False),
        ([{"filter": "#", "direction": "out", "remote_prefix": "a/"}, {"filter": "b/#", "direction": "in"}], False),
    ],
)
def test_before_mqtt_5_what_goes_out_must_not_come_back(topics: list[dict[str, str]], echoes: bool) -> None:
    made(topics=topics)
    if not echoes:
        made(topics=topics, version="3.1.1")
        return
    with pytest.raises(ValidationError, match=r'would come back .* set version = "5"'):
        made(topics=topics, version="3.1.1")


def test_two_bridges_have_two_names_and_secrets_stay_secret(tmp_path: Path) -> None:
    one = '[[mqtt_bridge]]\nname = "b"\naddress = "mqtt://h"\nuser = "u"\npassword = "hush"\n'
    one += 'topics = [{filter = "t/#", direction = "out"}]\n'
    path = tmp_path / "postroom.toml"
    path.write_text(one)
    assert "hush" in load_config(path, {}).secrets
    path.write_text(one + one)
    with pytest.raises(ConfigError) as raised:
        load_config(path, {})
    assert "mqtt_bridge[1].name: 'b' is mqtt_bridge[0]'s; rename one" in str(raised.value)
    with pytest.raises(ConfigError, match="can be declared in the file only"):
        load_config(None, {"POSTROOM_MQTT_BRIDGE": "x", "POSTROOM_MQTT_BRIDGE__NAME": "x"})


def test_two_bridges_are_two_clients_of_one_broker(tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"

    def bridges(one: str, other: str) -> str:
        link = '[[mqtt_bridge]]\nname = "{0}"\nclient_id = "us"\naddress = {1}\n'
        link += 'topics = [{{filter = "t/#", direction = "out"}}]\n'
        return link.format("a", one) + link.format("b", other)

    path.write_text(bridges('["mqtt://near", "mqtt://far"]', '"mqtt://far:1883"'))
    with pytest.raises(ConfigError, match=r"mqtt_bridge\[1\].client_id: 'us' is mqtt_bridge\[0\]'s at the same broker"):
        load_config(path, {})
    path.write_text(bridges('"mqtt://near"', '"mqtt://far"'))
    assert len(load_config(path, {}).mqtt_bridge) == 2


def test_what_comes_twice_from_some_brokers_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"
    path.write_text(
        '[[mqtt_bridge]]\nname = "b"\naddress = "mqtt://far"\ntopics = [{filter = "a/#", direction = "out"},\n'
        '{filter = "a/+", direction = "in"}, {filter = "c", direction = "in"}, {filter = "+/b", direction = "both"}]\n'
    )
    said: list[str] = []
    assert check_config(path, {}, said.append)
    assert said[0].startswith("warning: mqtt_bridge[0].topics[1] and topics[3] overlap: ")
    assert len(said) == 2


def test_a_password_in_the_clear_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"
    path.write_text(
        '[[mqtt_bridge]]\nname = "b"\naddress = ["mqtt://far", "mqtts://far", "mqtt://127.0.0.1"]\nuser = "u"\n'
        'password = "hush"\ntopics = [{filter = "t/#", direction = "out"}]\n'
    )
    path.chmod(0o600)
    said: list[str] = []
    assert check_config(path, {}, said.append)
    assert said[0] == (
        "warning: mqtt_bridge[0].address: the password travels in the clear to mqtt://far; write mqtts://"
    )
    assert len(said) == 2

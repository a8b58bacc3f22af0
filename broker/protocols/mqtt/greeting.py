"""CONNECT and what CONNACK says to it: who asks, for how long it is believed in, and what we promise. A pure floor."""

from broker.auth.grant import stays_in_its_level
from broker.auth.identity import Credentials, credentials_of
from broker.core.errors import BrokerError, Code
from broker.core.mqtt import ORIGIN, user_property
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import NONE, V5, Connect, Properties
from broker.protocols.mqtt.flow.keep_alive import granted
from broker.protocols.mqtt.kept import escaped
from broker.protocols.mqtt.options import MqttOptions


def credentials_in(packet: Connect) -> Credentials | None:
    """User name and password, or a token in the password's place."""
    if packet.username is None and packet.password is None:
        return None
    return credentials_of(packet.username or "", (packet.password or b"").decode(errors="replace"))


def unproven(error: BrokerError, credentials: Credentials | None) -> BrokerError:
    """Who says nothing hears that it is not allowed; who says something, that it is wrong."""
    wrong = error.code is Code.UNAUTHENTICATED and credentials is not None
    return MqttError(Reason.BAD_USER_NAME_OR_PASSWORD, error.detail) if wrong else error


def expiry_of(packet: Connect, options: MqttOptions) -> int:
    """Seconds that the session is kept without its client. [MQTT-3.1.2-23]"""
    most = options.max_session_expiry // 1000
    if packet.version != V5:
        return 0 if packet.clean_start else most
    return min(packet.properties.get("session_expiry", 0), most)


def keep_alive_of(packet: Connect, options: MqttOptions) -> int:
    """Seconds; a client of MQTT 5 can be told another than it asked for. [MQTT-3.1.2-21, 3.2.2-22]"""
    return granted(packet.keep_alive, options.max_keep_alive // 1000) if packet.version == V5 else packet.keep_alive


def promises(
    packet: Connect, options: MqttOptions, client_id: str, expiry: int, keep_alive: int, largest: int, epoch: str
) -> Properties:
    """What a client of MQTT 5 must know of us, and what is not as it asked; a bridge also hears which log it is.
    [MQTT-3.2.2-16, 3.1.2-28]"""
    if packet.version != V5:
        return NONE
    told: Properties = {"receive_maximum": options.receive_maximum, "maximum_packet_size": largest}
    if options.topic_alias_maximum:
        told["topic_alias_maximum"] = options.topic_alias_maximum
    if expiry != packet.properties.get("session_expiry", 0):
        told["session_expiry"] = expiry
    if not packet.client_id:
        told["assigned_client_id"] = client_id
    if keep_alive != packet.keep_alive:
        told["server_keep_alive"] = keep_alive
    if packet.properties.get("request_response_information"):
        told["response_information"] = reply_topic(client_id)
    if is_bridge(packet):
        told["user"] = [(ORIGIN, epoch)]
    return told


def reply_topic(client_id: str) -> str:
    """Where a client awaits answers: the topic that a grant with `%c` names, where one can."""
    return f"$reply/{client_id if stays_in_its_level(client_id) else escaped(client_id)}"


def is_bridge(packet: Connect) -> bool:
    """Does it hear the id of every message?"""
    return user_property(packet.properties, ORIGIN) is not None

"""TLS as it is configured: what does not fit together, and what the named files say. Floor 5."""

from broker.config.model import DOORS, Config
from broker.config.problem import Problem
from broker.config.secret import is_open
from broker.net.address import is_loopback
from broker.net.tls import Tls, TlsError

IN_THE_CLEAR = "tokens and messages travel in the clear: others can reach this door and it has no [tls]"


def tls_problems(config: Config) -> list[Problem]:
    """Settings that do not fit one another."""
    found: dict[str, Problem] = {}
    for door in DOORS:
        options = getattr(config, door).tls.over(config.tls)
        wants_clients = options.client_certificates != "none"
        if not options.enabled:
            continue
        if options.certificate is None and (options.key or options.client_ca or wants_clients):
            setting, text = "certificate", "is missing; name a PEM file, or set enabled = false"
        elif wants_clients and options.client_ca is None:
            setting, text = "client_ca", "is missing; name a PEM file with the authorities of client certificates"
        elif options.client_ca is not None and not wants_clients:
            setting, text = "client_certificates", 'nobody is asked for one; write "optional" or "required"'
        else:
            continue
        key = config.tls_setting(door, setting)
        found[key] = Problem(key, text)
    return list(found.values())


def read_certificates(config: Config) -> tuple[list[Tls], list[Problem]]:
    """What each door would shake hands with, and why others could not."""
    served: list[Tls] = []
    problems: dict[str, Problem] = {}
    for door in DOORS:
        options = config.tls_of(door)
        try:
            if options is not None:
                served.append(Tls(options))
        except TlsError as error:
            key = config.tls_setting(door, error.setting)
            problems[key] = Problem(key, str(error))
    return served, list(problems.values())


def tls_warnings(config: Config, served: list[Tls]) -> list[str]:
    """Certificates that end soon, private keys that everybody on this machine may read, doors that speak plainly to
    others, names of client certificates that nobody asks for."""
    exposed = [door for door in DOORS if not is_loopback(config.host_of(door)) and config.tls_of(door) is None]
    said = [f"{door}.host: {IN_THE_CLEAR}" for door in exposed]
    if config.auth is not None and config.auth.certificates and not any(map(_asks_clients, served)):
        said.append('auth.certificates: no door asks clients for one; set client_certificates = "optional" in [tls]')
    said += [tls.warning() for tls in served]
    for tls in served:
        key = tls.options.key or tls.certificate.path
        if is_open(key):
            said.append(f"{key} holds a private key and everybody may read it; chmod o-r {key}")
    return list(dict.fromkeys(warning for warning in said if warning))


def _asks_clients(tls: Tls) -> bool:
    return tls.options.client_certificates != "none"

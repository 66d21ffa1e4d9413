"""Where the server may listen.

Where kernels cannot be confined, only this machine may reach the server, unless everybody is trusted. This module
decides on addresses as text and on bound sockets; it opens none that stays open.
"""

import ipaddress
import socket

from kernels.confine.host import Report
from server.settings import Settings, SettingsError

_NOT_CONFINED = (
    "kernels cannot be confined here, so everyone who can log in could read and stop what others run: {missing}. "
    "Do so, or listen on loopback alone, or set KERNELRING_UNCONFINED=1 if everyone who can log in is trusted"
)
_NO_GUESTS = "KERNELRING_GUESTS=1 lets anybody in without a login and is for loopback only"


def addresses(settings: Settings, report: Report) -> list[str]:
    """The addresses to listen on, as gunicorn writes them. `report`: how kernels are confined.

    Raises SettingsError for a forbidden one.
    """
    if settings.bind:
        chosen = [_with_port(each, settings.port) for each in settings.bind]
    elif settings.unconfined:
        chosen = [f"[::]:{settings.port}" if has_ipv6("::") else f"0.0.0.0:{settings.port}"]
    else:
        chosen = [f"127.0.0.1:{settings.port}"] + ([f"[::1]:{settings.port}"] if has_ipv6("::1") else [])
    subject = f"KERNELRING_BIND={','.join(settings.bind)!r}" if settings.bind else "KERNELRING_UNCONFINED='1'"
    refuse_beyond_loopback(settings, report, [host_of(each) for each in chosen], subject)
    return chosen


def refuse_beyond_loopback(settings: Settings, report: Report, hosts: list[str], subject: str) -> None:
    """Raise SettingsError, about `subject`, when other machines could reach one of `hosts` without leave."""
    reachable = not all(is_loopback(host) for host in hosts)
    if serves_several(settings, hosts) and report.level == "none" and not settings.unconfined:
        raise SettingsError(f"{subject}: {_NOT_CONFINED.format(missing='; '.join(report.missing))}.")
    if reachable and settings.guests:
        raise SettingsError(f"{subject}: {_NO_GUESTS}.")


def serves_several(settings: Settings, hosts: list[str]) -> bool:
    """Whether others than who sits at this machine come: from elsewhere, or through a proxy on it."""
    return settings.behind_tls or not all(is_loopback(host) for host in hosts)


def host_of(address: str) -> str:
    """The host in `host:port` or `[host]:port`; a Unix socket is returned as it is."""
    if address.startswith("unix:"):
        return address
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """True when only this machine can reach `host`. A name other than localhost is not looked up: False."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_ipv6(host: str) -> bool:
    """Whether `host`, an IPv6 address of this machine, can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _with_port(address: str, port: int) -> str:
    """`address` with `port` where it names none; a bare IPv6 address gets its brackets."""
    if address.startswith("unix:"):
        return address
    if address.startswith("["):
        return address if "]:" in address else f"{address}:{port}"
    if address.count(":") > 1:
        return f"[{address}]:{port}"
    return address if ":" in address else f"{address}:{port}"

"""Every Redis key of this package: name, type, owner, lifetime. It does no I/O.

All keys of a host share the hash tag `{kernelring:<host>}`, so the scripts also run on Redis Cluster.
Everything here is soft state: it is rebuilt from the workers when it is gone. Every key has a lifetime, so
that a host that never comes back leaves nothing behind for ever.

| key                          | type   | owner           | content                                         |
|------------------------------|--------|-----------------|-------------------------------------------------|
| `{kernelring:<host>}:ring`   | hash   | all scripts     | epoch; born (ms, when this key was created)     |
| `{kernelring:<host>}:members`| hash   | join/leave/evict| slot number -> member as JSON, without slot     |
| `{kernelring:<host>}:leases` | hash   | join/beat       | boot -> "<expires ms> <unbroken since ms>"      |
| `{kernelring:<host>}:changes`| channel| all scripts     | the new epoch, after each change                |

`members` and `leases` are gone when the last member has left. `ring` outlives it by KEYS_LIFETIME_S, so
that epochs go on growing over a restart even if Redis' clock is set back.
"""

from __future__ import annotations

from dataclasses import dataclass

KEYS_LIFETIME_S = 3600.0
"""How long the keys live after the last join, beat or change."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one host."""

    ring: str
    members: str
    leases: str
    changes: str

    @property
    def stored(self) -> tuple[str, str, str]:
        """The keys as each script takes them: KEYS[1], KEYS[2], KEYS[3]."""
        return (self.ring, self.members, self.leases)


def keys_of(host: str) -> Keys:
    """The keys of the host with this id (hex characters, so it cannot break the hash tag)."""
    if not host.isalnum():
        raise ValueError(f"a host id is letters and digits, not {host!r}")
    tag = f"{{kernelring:{host}}}"
    return Keys(f"{tag}:ring", f"{tag}:members", f"{tag}:leases", f"{tag}:changes")

# ruff: noqa: N818  (each is named for what it says: "KernelStuck" needs no "Error")
"""The errors of `kernels`: one small tree. Each carries a sentence for whoever reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels.records import KernelRecord


class KernelsError(Exception):
    """Anything that goes wrong with starting, finding or ending kernels."""


class NurseryUnavailable(KernelsError):
    """No nursery answers, or it did not answer in time."""


class BadRequest(KernelsError):
    """A request to the nursery, an order or a record that is not well formed."""


class UnknownKernel(KernelsError):
    """The nursery has no kernel of this id."""


class KernelStuck(KernelsError):
    """A killed process is still there (as one is that waits for a dead disk)."""


class SpawnRefused(KernelsError):
    """The order cannot be carried out; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooManyKernels(SpawnRefused):
    """The user has as many kernels as a user may have; the reason is a sentence for the user."""


class ClaimRefused(KernelsError):
    """Somebody else holds the kernel; `epoch` is the highest that claimed it."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class KernelDied(KernelsError):
    """The kernel has exited; `record.exit` says how."""

    def __init__(self, record: KernelRecord) -> None:
        super().__init__(record.exit.reason if record.exit else "the kernel has exited")
        self.record = record


class DuplicateKernel(KernelsError):
    """The id is another kernel's."""


class KernelMoved(KernelsError):
    """Another worker has the kernel now; ask again there."""


class KernelGone(KernelsError):
    """The kernel has ended, or this place at it has."""


class KernelSilent(KernelsError):
    """The kernel's process is there and does not answer."""


class KernelCut(KernelSilent):
    """The wires were closed while somebody waited for the kernel; whoever closed them says why."""


class PortLost(KernelsError):
    """A socket to the kernel takes no message (any more)."""


class MalformedFrame(KernelsError):
    """A client's frame that is not a Jupyter message."""

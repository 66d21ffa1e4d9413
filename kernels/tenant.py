"""A kernel in the house of its owner."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from kernels.attached import AttachedKernel
from kernels.kernel_manager import NurseryKernelManager
from kernels.records import KernelRecord


@dataclass(slots=True)
class Tenant:
    """A kernel here: what clients talk to, what starts and stops its process, and its newest record."""

    kernel: AttachedKernel
    manager: NurseryKernelManager
    record: KernelRecord
    exit_told: int = 0  # the incarnation whose exit clients were told of
    # One life-cycle change at a time: a restart asked for while an automatic one runs waits for it.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

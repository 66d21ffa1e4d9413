"""What a kernel and its user may have, as the settings say it.

Owns the step from settings to `kernels.bounds`. Who sees to the bounds is the nursery, which every start passes.
"""

from __future__ import annotations

from kernels.bounds import Bounds
from server.settings import Settings


def bounds_of(settings: Settings) -> Bounds:
    """What each order for a kernel says."""
    return Bounds(
        user_kernels=settings.user_kernels,
        host_kernels=settings.host_kernels,
        free_mib=settings.free_memory_mib,
        wait_s=settings.start_wait_s,
        nice=settings.kernel_nice,
        cpu_s=round(settings.kernel_cpu_hours * 3600),
        total_mib=settings.kernel_total_mib,
    )

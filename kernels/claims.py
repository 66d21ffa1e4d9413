"""Under which claims this worker holds kernels.

Owns the question what a kernel may be claimed with, and what is known of rings newer than ours. Claims nothing by
itself but what is ours already.
"""

from __future__ import annotations

from kernels.errors import ClaimRefused, KernelMoved
from kernels.house_rules import Rule
from kernels.nursery_client import NurseryClient
from kernels.tenant import Tenant


class Claims:
    """`rule`: who owns whom, and who we are."""

    def __init__(self, nursery: NurseryClient, rule: Rule) -> None:
        self._nursery = nursery
        self._rule = rule
        self._behind = 0  # an epoch that somebody has claimed a kernel of "mine" with: our ring is older than that

    def check_ring(self) -> None:
        """Raises ClaimRefused while our ring is known to be an older one."""
        epoch, _ = self._rule.claim()
        if self._behind > epoch:
            raise ClaimRefused(f"a newer owner is known to the nursery, of epoch {self._behind}", self._behind)

    def note(self, refusal: Exception) -> None:
        """A claim of ours has come to nothing."""
        if isinstance(refusal, ClaimRefused):
            self._behind = max(self._behind, refusal.epoch)

    def first(self, user: str) -> tuple[int, str]:
        """For a kernel of a user's that is to be started here, also if another worker owns the user by now."""
        return self._rule.claim() if self._rule.owns(user) else (0, "")

    def of(self, tenant: Tenant, *, running: bool) -> tuple[int, str]:
        """A user of ours, in the ring that says so; what we have started, as we hold it.

        Never as another worker. The kernel would take us for that one, which would speak to nobody from then on, and
        not be told. Raises KernelMoved.
        """
        if self._rule.owns(tenant.record.user):
            return self._rule.claim()
        epoch, boot = tenant.record.claim_epoch, tenant.record.claim_boot
        if running or boot not in ("", self._rule.claim()[1]):
            raise KernelMoved("its user has become another worker's")
        return epoch, boot

    async def again(self, tenant: Tenant) -> None:
        """Claim what is ours and attached here. Raises ClaimRefused, UnknownKernel, NurseryUnavailable."""
        tenant.record = await self._nursery.claim(tenant.record.kernel_id, *self._rule.claim())

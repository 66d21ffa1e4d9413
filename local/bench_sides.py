"""Both sides of the bench: kernels of the installation under test, and cold ones without a server.

Owns the kernels that it starts and the client processes' share of them. Before the server's side is asked for a kernel
its spares are there again: what is measured is a class on a quiet server, not the bench's own hurry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from kernels import nursery_call
from local.bench_cells import Load, Place, Took, drive
from local.bench_links import ServerPlace
from local.bench_machine import at_rest, children, parent, tree
from local.bench_pool import ClientPool
from local.bench_raw import RawKernel, end_all
from local.bench_start import create, end
from local.stack import Stack
from server.settings import Settings

AT_A_TIME: Final = 8  # requests for kernels that are on the way together
WARM_WITHIN_S: Final = 60.0


@dataclass
class Bench:
    """`turns` of `seconds` for each side. `rest` ends what was started here."""

    stack: Stack
    pool: ClientPool
    worker_class: str
    turns: int
    seconds: float
    rest: ExitStack = field(default_factory=ExitStack)
    _raw: list[RawKernel] = field(default_factory=list)
    _served: list[ServerPlace] = field(default_factory=list)

    # -- kernels --------------------------------------------------------------------------------------------------

    def raw(self, count: int) -> list[Place]:
        """Kernels without a server, kept for the figures to come."""
        if missing := count - len(self._raw):
            self._raw += self.rest.enter_context(self.raw_kernels(max(0, missing)))
        return [kernel.place for kernel in self._raw[:count]]

    def served(self, count: int) -> list[ServerPlace]:
        """Kernels of as many users, kept for the figures to come."""
        if missing := count - len(self._served):
            self._served += self.rest.enter_context(self.served_kernels(max(0, missing)))
        return self._served[:count]

    @contextmanager
    def raw_kernels(self, count: int) -> Iterator[list[RawKernel]]:
        """Cold kernels that are up and have run nothing, for as long as the block runs."""
        kernels: list[RawKernel] = []
        try:
            kernels.extend(RawKernel() for _ in range(count))  # one that fails leaves those before it in the list
            for kernel in kernels:
                kernel.place.connect().close()  # it answers a subscriber
            yield kernels
        finally:
            end_all(kernels)

    @contextmanager
    def served_kernels(self, count: int) -> Iterator[list[ServerPlace]]:
        """The same at the server, each of a user of its own."""
        self.settle()
        tokens = [self.stack.token(f"student-{number}") for number in range(count)]
        places: list[ServerPlace] = []

        def start(token: str) -> None:
            places.append(create(self.stack.port, token))

        with ThreadPoolExecutor(AT_A_TIME) as threads:
            try:
                list(threads.map(start, tokens))
                yield places
            finally:
                list(threads.map(end, places))

    def took(self, places: Sequence[Place], seconds: float, *, store_history: bool) -> list[Took]:
        """Cells at `places`, shared out to the client processes."""
        clients = min(self.pool.size, len(places))
        loads = [Load(tuple(places[at::clients]), seconds, store_history) for at in range(clients)]
        return self.pool.run(drive, loads)

    # -- processes ------------------------------------------------------------------------------------------------

    def settle(self) -> int:
        """Wait until the nursery has its spares again and they wait for orders; how many it keeps.

        It makes new ones when half of them are missing, and not before.
        """
        wanted = Settings.from_environ(self.stack.environ()).spares

        def there() -> bool:
            nursery = self.stack.nursery()
            zygote = nursery["zygote"]
            if not zygote or not zygote["ready"] or 2 * len(zygote["spares"]) <= wanted - 1:
                return False
            return at_rest([zygote["pid"], *self._spare_pids(zygote["pid"])])

        self.stack.wait(there, f"{wanted} spares", WARM_WITHIN_S)
        return wanted

    def _spare_pids(self, zygote: int) -> list[int]:
        """The nursery does not know a spare's pid before it takes it, but is its parent."""
        records = nursery_call.ask(self.stack.runtime, "list", WARM_WITHIN_S)["records"]
        others = {zygote, *(record["pid"] for record in records)}
        return [pid for pid in children(self.nursery_pid()) if pid not in others]

    def cold_starts(self) -> int:
        """How often the nursery has said until now that kernels had to be exec'd, and so were not what is measured."""
        return (self.stack.runtime / "nursery.log").read_bytes().count(b"kernel_starts_cold")

    def nursery_pid(self) -> int:
        """Of the process whose children zygote, spares and kernels are."""
        return int(self.stack.nursery()["pid"])

    def server_pids(self) -> list[int]:
        """Arbiter, workers, nursery and its supervisor."""
        assert self.stack.gunicorn is not None
        nursery = self.nursery_pid()
        return [self.stack.gunicorn.pid, *self.stack.worker_pids(), nursery, parent(nursery)]

    def all_pids(self) -> list[int]:
        """These, and zygote, spares and kernels, and all that they have started."""
        assert self.stack.gunicorn is not None
        return [*tree(self.stack.gunicorn.pid), *tree(parent(self.nursery_pid()))]

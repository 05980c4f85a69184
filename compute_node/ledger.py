"""Who holds how many bytes on this node, and the most that each ever held: what telemetry and the benchmarks report.

It counts what the holders say of themselves; what the system says of the whole process stands beside it.
"""

from collections.abc import Iterable

from compute_node.memory import most_resident_bytes, resident_bytes
from compute_node.storage import Storage
from mpsl.nn.copy import Copy


class Ledger:
    """The most that each holder ever held in a run, in bytes. Queues belong to the machine, not to us."""

    def __init__(self) -> None:
        self._most = {"base": resident_bytes()}

    def count(self, committed: Storage, total: Storage, copies: Iterable[Copy]) -> None:
        """Look at all holders as they are now."""
        alive = list(copies)
        # One backward runs at a time: its copy alone has had more gradients than are left of it.
        backward = max((copy.most_gradient_bytes - copy.gradient_bytes() for copy in alive), default=0)
        now = {
            "global": committed.resident_bytes,
            "accumulator": total.resident_bytes,
            "copies": len(alive) * committed.nbytes,
            "optimizer": sum(copy.optimizer_bytes() for copy in alive),
            "gradients": sum(copy.gradient_bytes() for copy in alive) + max(0, backward),
            "activations": sum(copy.activation_bytes() for copy in alive),
        }
        for holder, size in now.items():
            self._most[holder] = max(size, self._most.get(holder, 0))

    def most(self) -> dict[str, int]:
        """Bytes by holder, and of the whole process as `resident`."""
        # Linux adds the pages up in portions and notes its own maximum only now and then: read later it can be less.
        return {**self._most, "resident": max(most_resident_bytes(), self._most["base"])}

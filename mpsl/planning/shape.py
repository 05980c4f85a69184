"""Which chains a person allows: so many hops of one node each, or any hops of any replicas."""

from dataclasses import dataclass

from mpsl.errors import UsageError
from mpsl.planning.system import System


@dataclass(frozen=True)
class Shape:
    """Which chains are allowed: exactly `hops` stages of one replica, or with None any stages of any replicas.

    `all_in_one` asks for one stage with every node as a replica.
    """

    hops: int | None = None
    all_in_one: bool = False


def check_shape(system: System, shape: Shape) -> None:
    """Raise UsageError where `shape` asks for more nodes or blocks than `system` has."""
    nodes, wanted = len(system.nodes), shape.hops or 1
    need = f"{wanted} hops need" if wanted > 1 else "1 hop needs"
    if nodes < wanted:
        raise UsageError(f"{need} {wanted} nodes, but the fleet has {nodes}; add [[nodes]] or ask for fewer hops")
    if shape.hops is not None and system.max_hops is not None and shape.hops > system.max_hops:
        raise UsageError(f"{shape.hops} hops are asked for, but the fleet's job allows max_hops = {system.max_hops}")
    first, last = system.first_cut or 1, system.last_cut or system.blocks - 1
    if system.first_cut is None and system.last_cut is None and last - first < wanted:
        raise UsageError(
            f"{need} a model of at least {wanted + 2} blocks, because the devices keep the first and the last; "
            f"this one has {system.blocks}"
        )
    if last - first < wanted:
        raise UsageError(
            f"{need} at least {wanted} block{'s' * (wanted > 1)} between the device's parts, but cuts[0] = {first} and "
            f"cuts[-1] = {last} leave {max(0, last - first)} of the model's {system.blocks}"
        )

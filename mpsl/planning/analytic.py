"""The papers' closed form of a round's time, only for comparison; the planner does not use it.

After Tirana et al., "Estimating the Training Time in Single- and Multi-Hop Split Federated Learning" (EdgeSys '25,
equation 4), as the papers describe it: the first batch's latency through the empty system, and for every other batch
update the largest time of a part forward plus the largest backward, each with its transfer. The form assumes that one
part is busy forward while another is busy backward. A thread that does both is busy for the sum, so the planner does
not use it.
"""

from collections.abc import Mapping

from mpsl.planning.feasibility import check_members
from mpsl.planning.plan_file import PlannedRun
from mpsl.planning.profile_file import PhaseTimes
from mpsl.planning.system import Device, System


def closed_form(
    system: System, phases: Mapping[str, PhaseTimes], hardware: Mapping[str, str], planned: PlannedRun
) -> float:
    """Return the seconds of a round of `planned`; `hardware` names the kind of each process. Raises UsageError."""
    check_members(system, planned, "the plan")
    times = [_part_times(system, phases, hardware, planned, device) for device in system.devices]
    first = max(sum(forward) + sum(backward) for forward, backward in times)
    stages = len(planned.cuts) - 1
    if stages < 1:
        return max(
            device.batches * (sum(forward) + sum(backward))
            for device, (forward, backward) in zip(system.devices, times, strict=True)
        )
    # Only shared resources delay the next batch: the nodes, each for the batches of its own devices.
    paces = []
    for seat in planned.seats:
        served = [
            (device, its_times)
            for device, its_times in zip(system.devices, times, strict=True)
            if planned.devices[device.id][seat.stage - 1] == seat.replica
        ]
        served_batches = sum(device.batches for device, _ in served)
        paces.append(
            [served_batches]
            + [max((its_times[phase][seat.stage] for _, its_times in served), default=0.0) for phase in (0, 1)]
        )
    batches = max(pace[0] for pace in paces)
    return first + (batches - 1) * (max(pace[1] for pace in paces) + max(pace[2] for pace in paces))


def _part_times(
    system: System, phases: Mapping[str, PhaseTimes], hardware: Mapping[str, str], planned: PlannedRun, device: Device
) -> tuple[list[float], list[float]]:
    """Return the seconds of each part for a batch, forward and backward: the device's first part, each stage, its last.

    A part includes the transfer of its output, and its backward includes the step.
    """
    cuts = planned.cuts or (system.blocks, system.blocks)
    own = phases[hardware[device.id]]
    begin, end = own.of((0, cuts[0])), own.of((cuts[-1], system.blocks))
    hops = len(planned.cuts) > 1
    forward, backward = [begin[0]], [begin[1] + begin[2]]
    if hops:
        forward[0] += system.activation[cuts[0]] / device.up + 2 * device.latency
    for stage, replica in enumerate(planned.devices[device.id], start=1):
        seat = next(seat for seat in planned.seats if (seat.stage, seat.replica) == (stage, replica))
        node = next(node for node in system.nodes if node.id == seat.node)
        ahead, back, step = phases[hardware[node.id]].of(seat.blocks)
        forward.append(ahead + system.activation[seat.blocks[1]] / node.rate + 2 * system.broker_latency)
        backward.append(back + step + system.gradient[seat.blocks[0]] / node.rate + 2 * system.broker_latency)
    forward.append(end[0])
    backward.append(end[1] + end[2] + (system.gradient[cuts[-1]] / device.up + 2 * device.latency if hops else 0.0))
    return forward, backward

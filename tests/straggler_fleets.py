"""The fleet of the issue: many alike devices and a few behind slow links, over a model of twelve blocks."""

from dataclasses import replace

from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetJob, FleetNode
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile

OUTPUTS = (8.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.1, 0.05, 0.01)
PARAMETERS = (0.04, 0.3, 0.3, 0.9, 1.2, 3.7, 4.7, 14.0, 18.0, 0.1, 0.1, 0.02)
FORWARD_MS = (8.0, 30.0, 30.0, 25.0, 25.0, 22.0, 22.0, 20.0, 20.0, 1.0, 1.0, 0.5)


def stragglers(server: float = 2.0, mbps: float = 300.0, admit: int | None = 4) -> tuple[Profile, Fleet]:
    """32 devices, of which 4 have a tenth of the others' link."""
    blocks = tuple(
        BlockProfile(f"b{number}", int(1e6 * parameters), int(1e6 * output), int(3e6 * output))
        for number, (parameters, output) in enumerate(zip(PARAMETERS, OUTPUTS, strict=True))
    )

    def times(slowness: float) -> HardwareTimes:
        forward = tuple(slowness * each for each in FORWARD_MS)
        return HardwareTimes(forward, tuple(2 * each for each in forward), (), 1.0, 2.0, 4, 1)

    profile = Profile("m", 32, 400_000, blocks, {"board": times(1.0), "server": times(server)})
    slow = FleetDevice("slow", "board", 320, 4, mbps / 10, mbps / 10, 5.0)
    fast = FleetDevice("fast", "board", 320, 28, mbps, mbps, 5.0)
    nodes = (FleetNode("node", "server", 4.0, 1.0, 2, 1000.0),)
    return profile, Fleet((slow, fast), nodes, FleetBroker(1000.0, 0.5), (), FleetJob(admit=admit))


def between_fixed_cuts(profile_and_fleet: tuple[Profile, Fleet], *link_mbps: float) -> tuple[Profile, Fleet]:
    """The same with a node behind each of these links, where the devices keep the first and the last block.

    This is how a run without cuts sees its fleet.
    """
    profile, fleet = profile_and_fleet
    links = enumerate(link_mbps, start=1)
    nodes = tuple(FleetNode(f"node-{number}", "server", 4.0, 0.0, link_mbps=mbps) for number, mbps in links)
    job = replace(fleet.job, first_cut=1, last_cut=len(profile.blocks) - 1)
    return profile, replace(fleet, nodes=nodes, job=job)

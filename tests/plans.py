"""A small plan with replicas, for tests of what follows from a plan."""

from mpsl.job import read_job
from mpsl.plan import DeviceEntry, Plan, Seat


def plan() -> Plan:
    """dev-1 goes through node-1 and node-2; dev-2 through node-3, the other replica of the first stage, and node-2."""
    job = read_job(
        {
            "run": {"name": "p", "rounds": 1, "batch_size": 4},
            "model": {"name": "mlp", "cuts": [1, 2, 3]},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "fleet": {"devices": 2, "nodes": 3},
        },
        "job",
    )
    seats = (
        Seat(1, 0, "node-1", "a", (1, 2)),
        Seat(1, 1, "node-3", "c", (1, 2)),
        Seat(2, 0, "node-2", "b", (2, 3)),
    )
    devices = {"dev-1": DeviceEntry("d", (0, 0)), "dev-2": DeviceEntry("e", (1, 0))}
    return Plan("p-000000", 1, "o", job, 4, (1, 2, 3), seats, devices, 2, 1 << 20)

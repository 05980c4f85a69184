"""The process of a device. What it does in a run is in `device_session.py`."""

from typing import Any

from mpsl.machines.device_session import DeviceSession
from mpsl.machines.participant import Participant
from mpsl.machines.tables.device import DeviceState
from mpsl.plan import Plan


class DeviceMachine(Participant):
    """The process of a device, which is in one run at a time."""

    branch = "dev"
    role = "device"
    max_sessions = 1

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan names this process, by id and boot."""
        return self.id in plan.devices and plan.devices[self.id].boot == self.boot

    def session_for(self, plan: Plan, links_before: int) -> DeviceSession:
        """Make a session for the plan."""
        return DeviceSession(self.identity, plan, self.emit, self.max_packet, links_before)

    def idle_progress(self) -> dict[str, Any]:
        """Return the telemetry fields of a process outside of a run."""
        return {"state": DeviceState.IDLE.value, "round": 0, "batch": 0, "batches": 0, "received": 0}

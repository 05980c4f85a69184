"""The orchestrator's state machine: `machine` holds facts and table; every phase of a run is a file of its own."""

from mpsl.machines.orchestrator.machine import OrchestratorMachine
from mpsl.machines.orchestrator.state import OrchestratorState

__all__ = ["OrchestratorMachine", "OrchestratorState"]

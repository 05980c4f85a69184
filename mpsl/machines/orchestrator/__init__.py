"""The orchestrator of a run: `machine` follows the table, `run_state` holds the facts, every phase is a file."""

from mpsl.machines.orchestrator.machine import OrchestratorMachine
from mpsl.machines.tables.run import OrchestratorState

__all__ = ["OrchestratorMachine", "OrchestratorState"]

"""The orchestrator of a run: `machine` follows the table, `run_state` holds the facts, each phase has its own file."""

from mpsl.machines.orchestrator.machine import OrchestratorMachine
from mpsl.machines.tables.run import OrchestratorState

__all__ = ["OrchestratorMachine", "OrchestratorState"]

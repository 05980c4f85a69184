"""The sub-commands of `mpsl` that belong to the orchestrator, one file each."""

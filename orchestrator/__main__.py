"""`python -m orchestrator` is `mpsl train`."""

import sys

from broker.command import run
from orchestrator.commands.train import train

if __name__ == "__main__":
    sys.exit(run(train, "python -m orchestrator"))

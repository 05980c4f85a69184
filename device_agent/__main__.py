"""`python -m device_agent` is `mpsl device`."""

import sys

from broker.command import run
from device_agent.command import device

if __name__ == "__main__":
    sys.exit(run(device, "python -m device_agent"))

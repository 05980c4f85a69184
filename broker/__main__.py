"""`python -m broker` is `mpsl broker`."""

import sys

from broker.command import run
from broker.engines.command import broker

if __name__ == "__main__":
    sys.exit(run(broker, "python -m broker"))

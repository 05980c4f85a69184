"""`python -m compute_node` is `mpsl node`."""

import sys

from broker.command import run
from compute_node.command import node

if __name__ == "__main__":
    sys.exit(run(node, "python -m compute_node"))

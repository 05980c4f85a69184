"""The process of the embedded broker: reads rumqttd's TOML on stdin and serves until it is killed.

It is run by path and never imported by the project, so it needs nothing but the package `iotcore`.
"""

import logging
import sys
import tempfile

from iotcore import IotCoreBroker


def main() -> None:
    """Serve until SIGTERM."""
    # rumqttd logs every packet as an error through Python's logging, which would cost more than routing it.
    logging.disable(logging.CRITICAL)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(sys.stdin.read())
        file.flush()
        broker = IotCoreBroker(config_path=file.name)
    broker.run_forever()


if __name__ == "__main__":
    main()

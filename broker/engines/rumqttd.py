"""The process of the embedded broker: reads rumqttd's TOML on stdin and serves it until killed (it knows no other end).

Run by path and never imported by the project, so that it needs nothing but the package `iotcore`.
"""

import logging
import sys
import tempfile

from iotcore import IotCoreBroker


def main() -> None:
    """Serve until SIGTERM."""
    # rumqttd reports every packet as an error through Python's logging; passing that on would cost more than routing.
    logging.disable(logging.CRITICAL)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(sys.stdin.read())
        file.flush()
        broker = IotCoreBroker(config_path=file.name)
    broker.run_forever()


if __name__ == "__main__":
    main()

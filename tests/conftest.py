"""What every test file can use: the brokers of tests/brokers.py. Who uses one is slow: `make check` runs no broker."""

import os

import pytest
from brokers import each_broker, embedded, mosquitto, secure_mosquitto
from hypothesis import settings
from planning_files import files

from mpsl.machines.machine import Machine

settings.register_profile("unhurried", deadline=None)  # the machine may be loaded
settings.load_profile("unhurried")
Machine.validating = True
os.environ["MPSL_VALIDATE"] = "1"  # for the processes that tests start

BROKERS = {"each_broker", "embedded", "mosquitto", "secure_mosquitto"}
__all__ = ["each_broker", "embedded", "files", "mosquitto", "secure_mosquitto"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a broker."""
    for item in items:
        if isinstance(item, pytest.Function) and not BROKERS.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)

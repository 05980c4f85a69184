"""What every test file can use: the brokers of tests/brokers.py."""

from brokers import each_broker, embedded, mosquitto, secure_mosquitto

__all__ = ["each_broker", "embedded", "mosquitto", "secure_mosquitto"]

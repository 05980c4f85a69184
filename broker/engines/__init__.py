"""The brokers that we start ourselves: mosquitto where it is installed, else the one inside the package `iotcore`.

Start one with `broker.engines.engine.running_broker`; on the command line it is `mpsl broker`.
"""

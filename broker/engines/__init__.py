"""The brokers that commands start themselves: mosquitto if it is installed, else the one in the package `iotcore`.

Start one with `broker.engines.engine.running_broker`; on the command line it is `mpsl broker`.
"""

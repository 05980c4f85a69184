"""The types of all errors that a person can meet.

A message says what is wrong, where, which limit it breaks and how to fix it. Nothing here may depend on another module.
"""


class MpslError(Exception):
    """Base of all errors that the project raises on purpose."""


class UsageError(MpslError):
    """The person asked for something impossible: a malformed job, a bad option, a shard with NaN. Exit status 2."""


class WireError(MpslError):
    """Bytes that are no message of this protocol: foreign, truncated, oversized. Dropped and counted, never fatal."""


class IllegalEvent(MpslError):
    """An event that the state table of a machine does not allow. The machine has not changed."""


class IllegalTransition(MpslError):
    """An outcome that the transition table of a machine does not have in its present state. Nothing has changed."""


class BrokerError(MpslError):
    """The broker cannot be reached, refuses us, or left. Names host, port and cause."""


class IdentityError(MpslError):
    """A certificate, key or request that does not prove what it should. The text goes on from the name of its file."""


class RunFailed(MpslError):
    """A run ended without its result; the text is the reason that the person who started it reads."""


class DiskError(RunFailed):
    """A file could not be written: the disk is full, or the folder is gone. Nothing was changed; it may work later."""


class OutOfTime(MpslError):
    """A search or a simulation has exceeded its time limit. The text names the limit."""


class MeasurementError(MpslError):
    """An inconsistent measurement: two figures contradict each other. Names both."""

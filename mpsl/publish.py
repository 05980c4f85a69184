"""One MQTT publish, from the machine or the link that wants it to the socket: the same object all the way down.

It stands below links and machines because both make publishes. It must never know what its payload means.
"""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mpsl.pieces import Content


class Publish(Struct, frozen=True, gc=False):
    """Publish once. JSON goes at QoS 1; binary goes at QoS 0, under the link's own acknowledgements.

    `subject`: while this waits to be sent, a newer publish on the same topic and subject makes it superfluous and takes
    its place. None: nothing replaces it.
    """

    topic: str
    payload: Content
    qos: Literal[0, 1] = 0
    retain: bool = False
    properties: tuple[tuple[str, str], ...] = ()
    subject: str | None = None

    def joined(self) -> "Publish":
        """The same with a payload of its own, which no one changes any more."""
        return self if isinstance(self.payload, bytes) else replace(self, payload=bytes(self.payload))

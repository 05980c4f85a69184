"""One MQTT publish: the same object from the machine or the link that makes it down to the socket.

It lies below links and machines, because both make publishes. It must never know what its payload means.
"""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from mpsl.pieces import Content


class Publish(Struct, frozen=True, gc=False):
    """Publish once. JSON goes at QoS 1; binary goes at QoS 0, under the link's own acknowledgements.

    `subject`: while this waits to be sent, a newer publish on the same topic and subject replaces it. None: nothing
    replaces it.
    """

    topic: str
    payload: Content
    qos: Literal[0, 1] = 0
    retain: bool = False
    properties: tuple[tuple[str, str], ...] = ()
    subject: str | None = None

    def joined(self) -> "Publish":
        """Return a copy whose payload nobody else can change."""
        return self if isinstance(self.payload, bytes) else replace(self, payload=bytes(self.payload))

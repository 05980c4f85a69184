"""One machine alone, event by event: everyone else is played over links of their own. What the two rigs share."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mpsl.link.channel import Channel
from mpsl.machines.effects import Effect, Publish
from mpsl.machines.events import Received
from mpsl.messages import Message
from mpsl.topics import Address, BinaryTopic, Topics


@dataclass
class MachineRig:
    """The machine and its effects so far; time passes by `step_s` with every event."""

    topics: ClassVar[Topics]

    machine: Any
    now: float = 0.0
    step_s: float = 0.01
    effects: list[Effect] = field(default_factory=list)
    voices: dict[str, Channel] = field(default_factory=dict)
    """The links of everyone else, by id."""

    def handle(self, event: Any) -> list[Effect]:
        """Pass one event to the machine. `hear` takes what it says to others."""
        self.now += self.step_s
        found = self.machine.handle(event, self.now)
        self.effects += found
        for effect in found:
            if isinstance(effect, Publish) and isinstance(topic := self.topics.parse(effect.topic), BinaryTopic):
                for voice in self.voices.values():
                    if voice.peers[voice._source].address == topic.to:
                        messages, answers = voice.receive(topic, bytes(effect.payload), self.now)
                        self.hear(topic.to, messages, [*answers, *voice.due(float("inf"))])
        return found

    def hear(self, to: Address, messages: list[Message], answers: list[Publish]) -> None:
        """Note messages of the machine to `to`, and pass on the acknowledgements of these."""
        raise NotImplementedError

    def send(self, source: str, to: Address, message: Message) -> list[Effect]:
        """Send a message from someone over the link."""
        found: list[Effect] = []
        for outbound in self.voices[source].send(to, message, self.now):
            found += self.handle(Received(outbound.topic, bytes(outbound.payload)))
        return found

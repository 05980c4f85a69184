"""A device or a node alone, event by event: everyone else in the plan's run is played over links of their own."""

from dataclasses import dataclass, field
from typing import Any

from machine_rig import MachineRig
from plans import plan

from mpsl import facts
from mpsl.link.channel import Channel, Limits, Peer
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Effect, Publish, Run, Write
from mpsl.machines.events import Connected, JobDone, Received, Subscribed, TimerFired
from mpsl.machines.hop import HopMachine
from mpsl.machines.jobs import Prepared, Result, WorkerJob
from mpsl.machines.machine import as_json
from mpsl.machines.participant import Participant
from mpsl.machines.session_id import SessionId
from mpsl.messages import Message, Slice, Tensor
from mpsl.topics import Address, Topics

TOPICS = Topics("m")
SESSION = SessionId(plan().run, 1)
TENSOR = Tensor("raw", "float32", (2,), (memoryview(bytes(8)),))


@dataclass
class Rig(MachineRig):
    """A machine in the plan's run, with everyone else played by channels of their own."""

    topics = TOPICS

    machine: Participant
    step_s: float = 0.1
    said: list[Message] = field(default_factory=list)

    @property
    def session(self) -> Any:
        """The session of the plan's run, or of whichever run the machine is in."""
        return next(iter(self.machine.sessions.values()))

    def hear(self, to: Address, messages: list[Message], answers: list[Publish]) -> None:
        """Note the messages; nobody acknowledges them."""
        self.said += messages

    def join(self) -> None:
        """Online, and in the run as far as `Prepare` asked for."""
        for event in (Connected(), Subscribed(), TimerFired("announce")):
            self.handle(event)
        for id, (boot, _) in plan().boots().items():
            if id != self.machine.id:
                self.voices[id] = Channel(TOPICS, plan().run, id, boot, 1, Limits(message=1 << 20))
                self.voices[id].set_peers({other: Peer(b, a) for other, (b, a) in plan().boots().items()})
        self.handle(Received(TOPICS.run(plan().run, "plan"), as_json(facts.plain(plan()))))

    def say(self, source: str, message: Message) -> list[Effect]:
        """A message from someone else, over the link."""
        return self.send(source, self.session.address, message)

    def done(self, job: WorkerJob, result: Result | None = None) -> list[Effect]:
        """A job has ended."""
        return self.handle(JobDone(job, result or Result(), SESSION))

    def jobs(self) -> list[WorkerJob]:
        """All that were asked for so far."""
        return [effect.job for effect in self.effects if isinstance(effect, Run)]

    def writes(self) -> int:
        """Slices written so far."""
        return sum(isinstance(effect, Write) for effect in self.effects)


def device() -> Rig:
    """dev-1, joined; its parts have 16 bytes: two slices."""
    rig = Rig(DeviceMachine("dev-1", "d", TOPICS, {}))
    rig.join()
    rig.done(rig.jobs()[0], Prepared(16, samples=4))
    return rig


def hop(id: str = "node-1", boot: str = "a") -> Rig:
    """A node at its seat, 1.0 for node-1, serving; its part has 8 bytes: one slice."""
    rig = Rig(HopMachine(id, boot, TOPICS, {}))
    rig.join()
    rig.done(rig.jobs()[0], Prepared(8))
    rig.say("orch", slice_of(0, 0))
    return rig


def slice_of(version: int, offset: int) -> Slice:
    return Slice("global", version, 0, 0, 0, offset, TENSOR)

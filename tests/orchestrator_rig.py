"""An orchestrator alone, event by event: nodes and devices are played over links of their own, jobs by the test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from machine_rig import MachineRig

from mpsl import PROTOCOL
from mpsl.job import read_job
from mpsl.link.channel import Channel, Limits, Peer
from mpsl.machines.effects import Effect, Log, Publish, Run, Stop
from mpsl.machines.events import Connected, JobDone, JobFailed, Received, Subscribed, TimerFired
from mpsl.machines.jobs import Export, Exported, Result, WorkerJob
from mpsl.machines.machine import as_json, from_json
from mpsl.machines.orchestrator import OrchestratorMachine, OrchestratorState
from mpsl.machines.orchestrator_jobs import (
    Average,
    BuildModel,
    Checkpoint,
    CheckUpdate,
    FoldUpdate,
    LaidOut,
    LayOut,
    ModelBuilt,
)
from mpsl.messages import Closed, Committed, Finished, Joined, Loaded, Message, Score, Sent, Slice, Tensor, Update
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Seat
from mpsl.topics import Address, Branch, Topics

TOPICS = Topics("o")
RUN = "r-000000"
SAMPLES = {"dev-1": 8, "dev-2": 4}
BATCHES = {"dev-1": 2, "dev-2": 1}
TENSOR = Tensor("raw", "float32", (2,), (memoryview(bytes(8)),))
PART_BYTES = 8
"""Of the node's part, and of the device's two parts together: one slice each."""
BOOTS = {"node-1": "n1", "dev-1": "d1", "dev-2": "d2"}
REPLICAS: dict[str, Any] = {"fleet__nodes": 2, "fleet__replicas": 2}
"""Changes of a job with a second node, whose sums are merged with those of the first."""


def job(**changes: Any) -> dict[str, Any]:
    """Two devices, one hop, batches of four; `section__key` changes a key, None removes it."""
    content: dict[str, Any] = {
        "run": {"name": "rig", "rounds": 2, "batch_size": 4},
        "model": {"name": "mlp", "args": {"in_features": 5, "hidden": [4, 4], "num_classes": 3}, "cuts": [1, 2]},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "fleet": {"devices": 2, "nodes": 1},
    }
    for name, value in changes.items():
        section, key = name.split("__")
        content[section][key] = value
        if value is None:
            del content[section][key]
    return content


@dataclass
class OrchestratorRig(MachineRig):
    """The machine and what it has wanted so far; time passes by `step_s` with every event."""

    topics = TOPICS

    machine: OrchestratorMachine
    heard: dict[str, list[Message]] = field(default_factory=dict)
    """Messages by address."""

    @property
    def state(self) -> OrchestratorState:
        """Where the run is."""
        return self.machine.state

    def hear(self, to: Address, messages: list[Message], answers: list[Publish]) -> None:
        """Note the messages, and pass on the acknowledgements."""
        self.heard.setdefault(to, []).extend(messages)
        for answer in answers:
            self.effects += self.machine.handle(Received(answer.topic, bytes(answer.payload)), self.now)

    def say(self, source: str, message: Message) -> list[Effect]:
        """Send a message from someone over the link."""
        return self.send(source, ORCHESTRATOR, message)

    def tell(self, branch: Branch, id: str, leaf: str, **content: Any) -> None:
        """Publish JSON of a process."""
        payload = as_json({"boot": {**BOOTS, "node-2": "n2"}[id], **content})
        self.handle(Received(TOPICS.participant(branch, id, leaf), payload))

    def be_online(self, id: str, run: str | None = None, state: str = "online") -> None:
        """Publish status, info and telemetry of a process."""
        branch: Branch = "node" if id.startswith("node") else "dev"
        self.tell(branch, id, "status", state=state, role=branch, protocol=PROTOCOL, version="1")
        host = {"host": id, "hardware": "board", "cores": 1, "threads": 1}
        self.tell(branch, id, "info", run=run, samples=SAMPLES.get(id), memory_budget=None, **host)
        self.tell(branch, id, "tele", run=run)

    def jobs(self, kind: type[WorkerJob]) -> list[Run]:
        """All jobs of a kind that were asked for so far."""
        return [effect for effect in self.effects if isinstance(effect, Run) and isinstance(effect.job, kind)]

    def done(self, kind: type[WorkerJob], result: Result | None = None, number: int = -1) -> list[Effect]:
        """The last job of a kind has ended."""
        work = self.jobs(kind)[number]
        return self.handle(JobDone(work.job, result or Result(), work.session))

    def failed(self, kind: type[WorkerJob], reason: str) -> list[Effect]:
        """The last job of a kind has raised."""
        work = self.jobs(kind)[-1]
        return self.handle(JobFailed(work.job, reason, work.session))

    def watch(self, seconds: float = 0.0) -> list[Effect]:
        """Time passes, and the machine looks around."""
        found: list[Effect] = []
        while seconds > 1.0:
            # The machine looks every second: one that does not has stood still, and excuses the others.
            self.now += 1.0
            seconds -= 1.0
            found += self.handle(TimerFired("watch"))
        self.now += seconds
        return found + self.handle(TimerFired("watch"))

    def stops(self) -> list[Stop]:
        """How the machine has stopped."""
        return [effect for effect in self.effects if isinstance(effect, Stop)]

    # On the way through a run

    def gather(self) -> None:
        """Until everyone is there: the fleet is seated, or asked for its times where the job has no cuts."""
        self.handle(Connected())
        self.handle(Subscribed())
        self.handle(TimerFired("plan"))
        for id in [*BOOTS, "node-2"][: 2 + self.machine.run_state.job.fleet.nodes]:
            self.be_online(id)
        none = (0, 0, 0)
        self.done(BuildModel, ModelBuilt((1.0,) * 3, none, none, none, none, (), (5,), 3, 0))
        self.watch()

    def answer_plan(self, held: str = "", digest: str = "") -> None:
        """Everyone of the plan joins; the node holds the part `held`, the committed one is `digest`."""
        plan = self.machine.run_state.need_plan()
        for id, (boot, _) in plan.boots().items():
            if id != ORCHESTRATOR:
                self.voices[id] = Channel(TOPICS, RUN, id, boot, plan.term, Limits(message=1 << 20))
                self.voices[id].set_peers({other: Peer(b, a) for other, (b, a) in plan.boots().items()})
        self.done(LayOut, LaidOut(PART_BYTES, (PART_BYTES,), (digest,) if digest else ()))
        for id in self.voices:
            self.be_online(id, RUN)
            self.say(id, Joined("", SAMPLES.get(id, 0), 1 if id in SAMPLES else 0, "" if id in SAMPLES else held))

    def join(self) -> None:
        """Until everyone has joined."""
        self.gather()
        self.answer_plan()

    def load(self) -> None:
        """Until the first round is open and its devices are admitted."""
        self.export()  # the replicas of the one stage share it
        for seat in self._seats():
            self.say(seat.node, Loaded(0))
        self.export()

    def _seats(self) -> tuple[Seat, ...]:
        return self.machine.run_state.need_plan().seats

    def open(self) -> None:
        """Until the first round is open, from the start."""
        self.join()
        self.load()

    def export(self, number: int = -1) -> None:
        """The slices that were asked for last, or with this number, are there."""
        work = self.jobs(Export)[number].job
        assert isinstance(work, Export)
        exported = Exported((Slice("global", work.version, 0, work.part, 0, 0, TENSOR),))
        self.done(Export, exported, number)

    def finish(self, id: str, **changes: Any) -> None:
        """A device's round: its slice, the hop's word, its update; `changes` are the update's."""
        member, round = self.machine.run_state.members[id], self.machine.run_state.round
        self.say(id, Slice("update", round, member.attempt, 0, 0, 0, TENSOR))
        for address in self.machine.run_state.chain(id):
            node = self.machine.run_state.node_at(address)
            self.say(node, Finished(round, id, member.attempt, BATCHES[id]))
        facts = {"batches": BATCHES[id], "samples": SAMPLES[id], "loss": 1.0, "seconds": 1.0} | changes
        self.say(id, Update(round, member.attempt, **facts))

    def close(self, weight: int | None = None) -> None:
        """Every seat has closed the round, and sent its sum where that is to be merged."""
        state = self.machine.run_state
        for seat in self._seats():
            served = [id for id in BATCHES if seat.address in state.chain(id)]
            folded = sum(SAMPLES[id] for id in served) if weight is None else weight
            self.say(seat.node, Closed(state.round, len(served), folded))
            if seat.address in state.need_plan().merging:
                self.say(seat.node, Slice("sum", state.round, 0, 1, 0, 0, TENSOR))
                self.say(seat.node, Sent("sum", state.round, "digest"))

    def average(self) -> None:
        """The devices' parts are averaged: the round is closed."""
        self.done(Average)

    def commit(self) -> None:
        """The replicas serve the merged part."""
        round = self.machine.run_state.round
        self.export()
        for seat in self._seats():
            if seat.address in self.machine.run_state.need_plan().merging:
                self.say(seat.node, Loaded(round))
                self.say(seat.node, Committed(round))

    def send_part(self) -> None:
        """The seat's committed part is here."""
        round = self.machine.run_state.committed
        self.say("node-1", Slice("part", round, 0, 1, 0, 0, TENSOR))
        self.say("node-1", Sent("part", round, "digest"))

    def checkpoint(self) -> None:
        """The seat's committed part is here, where it is not merged, and the round is on disk."""
        if not self.jobs(Checkpoint):
            self.send_part()
        self.done(Checkpoint)

    def accept_all(self) -> None:
        """Every device's update is accepted and added up."""
        for id in BATCHES:
            self.finish(id)
            self.done(CheckUpdate)
        for number in range(len(BATCHES)):
            self.done(FoldUpdate, number=number)

    def score_all(self) -> None:
        """Every device evaluates the committed weights."""
        self.export()
        for id in BATCHES:
            self.say(id, Score(self.machine.run_state.round, self.machine.run_state.members[id].attempt, 1, 2, 1.0))

    def reach(self, state: OrchestratorState) -> None:
        """Go through the first round until the run is in a state; PROFILING is where a job without cuts comes by."""
        steps: list[Callable[[], object]] = [
            self.gather,
            self.answer_plan,
            self.load,
            self.accept_all,
            self.close,
            self.average,
            self.commit,
            self.score_all,
        ]
        if state is OrchestratorState.RESEATING:
            self.reach(OrchestratorState.OPEN)
            self.lose_node()
        for step in steps:
            if self.state is state:
                return
            step()
        assert self.state is state, f"{self.state.name} instead of {state.name}"

    def lose_node(self) -> None:
        """The node stops."""
        self.tell("node", "node-1", "status", state="offline")

    def logged(self, event: str) -> list[Log]:
        """What has been logged of a kind."""
        return [effect for effect in self.effects if isinstance(effect, Log) and effect.event == event]

    def metrics(self) -> list[dict[str, Any]]:
        """What has been published as metrics."""
        topic = TOPICS.run(RUN, "metrics")
        return [from_json(e.payload) or {} for e in self.effects if isinstance(e, Publish) and e.topic == topic]  # type: ignore[arg-type]


def rig(**changes: Any) -> OrchestratorRig:
    """An orchestrator that has yet to connect."""
    return OrchestratorRig(OrchestratorMachine(read_job(job(**changes), "job"), RUN, "o", TOPICS))

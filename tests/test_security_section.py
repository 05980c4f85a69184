"""`[security] require` in a job: nobody takes part over a connection that others can read."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brokers import serving
from fleet import SGD, make_shards, run_fleet
from participant_rig import SESSION, TOPICS, Rig
from plans import plan

from broker.address import BrokerAddress, parse_broker
from broker.options import NetworkOptions
from mpsl import facts
from mpsl.errors import UsageError
from mpsl.job import Job, SecuritySection, read_job
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Run
from mpsl.machines.events import Connected, Received, Subscribed, TimerFired
from mpsl.machines.hop import HopMachine
from mpsl.machines.machine import as_json
from mpsl.machines.participant import Participant
from orchestrator.commands.train import check_security

CONTENT: dict[str, Any] = {
    "run": {"name": "private", "rounds": 1, "batch_size": 8},
    "model": {"name": "digits-cnn", "args": {}, "cuts": [2, 8]},
    "optimizer": SGD,
    "fleet": {"devices": 2, "nodes": 1, "quorum": 1, "start_timeout_s": 20.0},
    "security": {"require": "tls"},
}


def a_job(**security: Any) -> Job:
    return read_job({**CONTENT, "security": security}, "job.toml")


def test_what_a_job_can_require() -> None:
    assert a_job().security.require is None
    assert a_job(require="tls").security.require == "tls"
    with pytest.raises(UsageError, match=r"job.toml: .*unknown value 'tsl'; did you mean 'tls'\?"):
        a_job(require="tsl")
    for later in ("signed", "sealed"):
        with pytest.raises(UsageError, match=f"require = '{later}' is not built yet; this version knows 'tls'"):
            a_job(require=later)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("mqtt://127.0.0.1", True), ("mqtt://localhost", True), ("mqtt://[::1]", True), ("mqtt://127.9.9.9", True),
        ("mqtts://broker.example", True), ("mqtt://broker.example", False), ("mqtt://10.0.0.1", False),
        ("mqtt://localhost.example", False), ("mqtt://[::]", False), ("mqtt://0.0.0.0", False),
    ],
)  # fmt: skip
def test_train_refuses_what_others_can_read(url: str, private: bool) -> None:
    address = replace(parse_broker(url, environment={}), insecure=True)
    network = NetworkOptions(address, TOPICS, as_json=False, verbose=0)
    check_security(network, a_job())
    if private:
        check_security(network, a_job(require="tls"))
        replace(address, insecure=False).check_encrypted()
        return
    with pytest.raises(UsageError, match=r"require = 'tls', and --broker .* is without TLS"):
        check_security(network, a_job(require="tls"))
    with pytest.raises(UsageError, match=r"without TLS .* --insecure"):
        replace(address, insecure=False).check_encrypted()
    among = replace(parse_broker("mqtts://broker.example", environment={}), alternatives=(address,))
    with pytest.raises(UsageError, match="--insecure"):
        among.check_encrypted()
    with pytest.raises(UsageError, match="require"):
        check_security(replace(network, address=among), a_job(require="tls"))


@pytest.mark.parametrize("is_private", [True, False])
@pytest.mark.parametrize("machine", [DeviceMachine("dev-1", "d", TOPICS, {}), HopMachine("node-1", "a", TOPICS, {})])
def test_a_participant_in_the_clear_says_why_it_takes_no_part(machine: Participant, is_private: bool) -> None:
    job = replace(plan().job, security=SecuritySection("tls"))
    machine = type(machine)(machine.id, machine.boot, TOPICS, {})
    rig = Rig(machine)
    rig.join()
    assert rig.jobs(), "the job of the rig's plan requires nothing"
    rig = Rig(type(machine)(machine.id, machine.boot, TOPICS, {}))
    for event in (Connected(None, is_private), Subscribed(), TimerFired("announce")):
        rig.handle(event)
    effects = rig.handle(Received(TOPICS.run(SESSION.run, "plan"), as_json(facts.plain(replace(plan(), job=job)))))
    assert any(isinstance(effect, Run) for effect in effects) is is_private
    session = rig.session
    assert ("require" in session.refusal) is not is_private


@pytest.mark.slow
def test_a_run_goes_on_without_the_device_that_others_could_read(tmp_path: Path) -> None:
    """The broker listens on all interfaces; dev-2 connects over one that is not loopback."""
    own = own_address()
    with serving("mosquitto", host="0.0.0.0") as process:

        def address(id: str) -> BrokerAddress:
            host = own if id == "dev-2" else "127.0.0.1"
            return BrokerAddress(host, process.port, insecure=True)

        shards = make_shards([17, 12], (1, 8, 8), 10)
        outcome = run_fleet(address, CONTENT, shards, tmp_path, nodes=1)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    assert [entry["devices"] for entry in outcome.summary["rounds"]] == [["dev-1"]]
    said = [facts for id, event, facts in outcome.log if (id, event) == ("dev-2", "refused")]
    assert 'require = "tls", and dev-2 is connected to the broker without TLS' in said[0]["reason"]


@pytest.mark.slow
def test_a_node_that_others_could_read_gives_its_seat_to_another(tmp_path: Path) -> None:
    own = own_address()
    with serving("mosquitto", host="0.0.0.0") as process:

        def address(id: str) -> BrokerAddress:
            return BrokerAddress(own if id == "node-1" else "127.0.0.1", process.port, insecure=True)

        content = {**CONTENT, "fleet": {**CONTENT["fleet"], "nodes": 2}}
        outcome = run_fleet(address, content, make_shards([17, 12], (1, 8, 8), 10), tmp_path, nodes=2)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    lost = [facts for id, event, facts in outcome.log if (id, event) == ("orch", "seat-lost")]
    assert len(lost) <= 1, "node-2 has got the seat, at first or then"
    assert all("node-1 is connected to the broker without TLS" in facts["reason"] for facts in lost)


def own_address() -> str:
    """An IP number of this machine that is not loopback; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 9))
        return str(probe.getsockname()[0])

"""PROFILE.json and FLEET.toml: what is refused, how it is expanded and converted, and what tensors take on the wire."""

from typing import Any

import pytest

from mpsl import facts
from mpsl.codecs import parse
from mpsl.errors import UsageError
from mpsl.planning.fleet import Fleet
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import System, system_of


def profile_data(**changes: Any) -> dict[str, Any]:
    times = {"forward_ms": [1, 2, 3], "backward_ms": [2, 4, 6], "step_ms": [0.5, 0.5, 0.5]}
    block = {"parameter_bytes": 1000, "output_bytes": 4000, "stored_bytes": 500}
    return {
        "model": "mlp",
        "args": {"hidden": [8]},
        "batch_size": 10,
        "input_bytes": 400,
        "blocks": [{"name": f"b{number}", **block} for number in range(3)],
        "hardware": {"box": {**times, "wire_cpu_s_per_gb": 2, "copy_gb_per_s": 4, "cores": 2, "threads": 1}},
    } | changes


def fleet_data(**changes: Any) -> dict[str, Any]:
    device = {"id": "pi", "hardware": "box", "up_mbps": 8, "down_mbps": 80, "latency_ms": 5, "samples": 25}
    node = {"id": "n", "hardware": "box", "memory_gib": 2, "link_mbps": 800, "cost_per_hour": 3.6}
    return {
        "devices": [{**device, "count": 3}],
        "nodes": [{**node, "count": 2}, {**node, "id": "other"}],
        "broker": {"link_mbps": 400, "latency_ms": 1},
        "job": {"local_epochs": 2},
    } | changes


def system(profile: dict[str, Any] | None = None, fleet: dict[str, Any] | None = None) -> System:
    return system_of(
        facts.read(Profile, profile or profile_data(), "p.json"), facts.read(Fleet, fleet or fleet_data(), "f.toml")
    )


def test_a_count_expands_to_numbered_ids_and_one_keeps_its_name() -> None:
    members = system()
    assert [device.id for device in members.devices] == ["pi-1", "pi-2", "pi-3"]
    assert [node.id for node in members.nodes] == ["n-1", "n-2", "other"]


def test_units_are_converted_once() -> None:
    members = system()
    device, node = members.devices[0], members.nodes[0]
    assert device.batches == 2 * 3  # two epochs of ceil(25 / 10)
    assert (device.up, device.down, device.latency) == (1e6, 1e7, 0.005)
    assert node.rate == 5e7  # the broker's 400 Mbit/s, not the node's 800
    assert node.memory == 2 * 2**30
    assert node.price == pytest.approx(0.001)
    assert node.hardware.seconds == pytest.approx((0, 0.0035, 0.010, 0.0195))
    assert members.parameters == (0, 1000, 2000, 3000)
    assert members.output == (400, 4000, 4000, 4000)
    assert members.broker_rate == 5e7


def test_a_broker_with_a_measured_speed_passes_on_no_more() -> None:
    members = system(fleet=fleet_data(broker={"link_mbps": 400, "latency_ms": 1, "max_mb_per_s": 20}))
    assert members.broker_rate == 2e7
    assert members.broker_s_per_byte == 1 / 2e7


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "huffman:3", "topk:0.05", "topk:1"])
def test_what_crosses_a_cut_is_what_the_codec_says_of_itself(codec: str) -> None:
    members = system(fleet=fleet_data(job={"activations": codec}))
    assert members.activation == tuple(parse(codec).wire_bytes((size // 4,)) for size in (400, 4000, 4000, 4000))
    assert members.gradient == (400, 4000, 4000, 4000)


@pytest.mark.parametrize("codec", ["fp23", "topk", "topk:0", "topk:2", "topk:x", "fp16:2"])
def test_unknown_codecs_are_refused(codec: str) -> None:
    with pytest.raises(UsageError, match="codec"):
        system(fleet=fleet_data(job={"gradients": codec}))


@pytest.mark.parametrize(("optimizer", "states"), [("sgd", 0), ("momentum", 1), ("adam", 2)])
def test_the_optimizer_says_what_its_state_takes(optimizer: str, states: int) -> None:
    members = system(fleet=fleet_data(job={"optimizer": optimizer}))
    assert members.optimizer == tuple(states * size for size in members.parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 3}, "unknown key 'batchsize'; did you mean 'batch_size'"),
        ({"blocks": []}, "blocks is empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        (
            {"hardware": {"box": {"forward_ms": [1, 2], "backward_ms": [1, 2, 3]}}},
            "'box': forward_ms has 2 values for 3",
        ),
        ({"hardware": {"box": {"forward_ms": [1, 2, -3], "backward_ms": [1, 2, 3]}}}, "forward_ms"),
        ({"hardware": {"box": {"forward_ms": [1] * 3, "backward_ms": [1] * 3, "step_ms": [1]}}}, "step_ms has 1"),
        (
            {"hardware": {"box": {"forward_ms": [1] * 3, "backward_ms": [1] * 3, "cores": 1, "threads": 2}}},
            "threads is 2",
        ),
    ],
)
def test_bad_profiles_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"p.json.*{message}"):
        facts.read(Profile, profile_data(**changes), "p.json")


def changed(part: str, **values: Any) -> dict[str, Any]:
    data = fleet_data()
    first = data[part][0] if isinstance(data[part], list) else data[part]
    for key, value in values.items():
        if value is None:
            del first[key]
        else:
            first[key] = value
    return data


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        (changed("nodes", memory=3), "unknown key 'memory'"),
        (changed("nodes", link_mbps=None), "node 'n': link_mbps missing"),
        (changed("devices", up_mbps=None, down_mbps=None), "device 'pi': up_mbps and down_mbps missing"),
        (changed("devices", latency_ms=None), "device 'pi': latency_ms missing"),
        (changed("broker", link_mbps=None), "broker: link_mbps missing"),
        (changed("nodes", host="attic"), "unknown host 'attic'"),
        (changed("nodes", id="other", count=1), "'other' occurs twice"),
        (changed("devices", id="Pi"), "is not an id"),
        (changed("devices", samples=0), "samples is 0"),
        (changed("job", optimizer="adma"), "did you mean 'adam'"),
        (changed("job", admit=0), "admit is 0"),
        (fleet_data(devices=[]), "devices is empty"),
    ],
)
def test_bad_fleets_are_refused(fleet: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"f.toml.*{message}"):
        facts.read(Fleet, fleet, "f.toml")


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        (
            changed("nodes", hardware="bxo"),
            "node 'n-1': the profile has no times for hardware 'bxo'; did you mean 'box'",
        ),
        (changed("devices", hardware="pi"), "device 'pi-1': the profile has no times for hardware 'pi'"),
        (changed("job", first_cut=3), "first_cut = 3"),
        (changed("job", first_cut=2, last_cut=2), "leave no block"),
        (changed("job", activations="fp8"), "unknown codec 'fp8'"),
    ],
)
def test_fleets_that_do_not_suit_the_profile_are_refused(fleet: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        system(fleet=fleet)


def test_what_is_wrong_is_named_with_its_hardware_and_its_key_once() -> None:
    short = profile_data()
    short["hardware"]["pi 5"] = {"forward_ms": [1, 2, 3]}
    with pytest.raises(UsageError, match=r"^p\.json: hardware\.pi 5: Object missing required field `backward_ms`$"):
        facts.read(Profile, short, "p.json")
    for job, message in (
        ({"admit": 0}, "f.toml: job: admit is 0; it must be more than 0"),
        (
            {"activations": "fp8"},
            "f.toml: job: activations: unknown codec 'fp8'; did you mean 'fp32'? "
            "known: affine, bf16, fp16, fp32, huffman, int4, int8, topk",
        ),
    ):
        with pytest.raises(UsageError) as refusal:
            facts.read(Fleet, fleet_data(job=job), "f.toml")
        assert str(refusal.value) == message


def test_a_link_that_would_take_for_ever_is_refused() -> None:
    device = {**fleet_data()["devices"][0], "up_mbps": 1e-320}
    with pytest.raises(UsageError, match="up_mbps is 1e-320; it must be at least 1e-06"):
        facts.read(Fleet, fleet_data(devices=[device]), "f.toml")


def test_a_fleet_that_nobody_has_is_refused_before_it_is_expanded() -> None:
    node = {**fleet_data()["nodes"][0], "count": 10**12}
    with pytest.raises(UsageError, match="nodes: 1000000000001 of them; a fleet has at most 100000"):
        facts.read(Fleet, fleet_data(nodes=[node, fleet_data()["nodes"][1]]), "f.toml")

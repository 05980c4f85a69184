"""The computing thread's turns: what the scheduler says of them afterwards, and whom they do not concern."""

import ctypes
import os
import platform
import struct
import threading
from collections.abc import Callable

import pytest

from mpsl.nn import timeslice
from mpsl.nn.threads import computing_worker
from mpsl.nn.timeslice import TIMESLICE_S, request_long_timeslice

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275, "riscv64": 275, "armv7l": 381}


def turn_s() -> float:
    """Seconds of a turn of the calling thread, 0 where the system does not say."""
    attributes = ctypes.create_string_buffer(48)
    ctypes.CDLL(None).syscall(_SCHED_GETATTR[platform.machine()], 0, attributes, 48, 0)
    _, _, _, _, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", attributes)
    return float(runtime) / 1e9


def in_a_thread(look: Callable[[], float]) -> float:
    """What `look` finds in a thread of its own, which nothing of the test's own thread concerns afterwards."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(look()))
    thread.start()
    thread.join(10)
    return found[0]


@pytest.mark.skipif(
    platform.system() != "Linux" or tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="Linux grants such turns from 6.12 on",
)
def test_the_worker_has_long_turns_and_the_event_loop_keeps_its_short_ones() -> None:
    before = turn_s()
    with computing_worker(1) as worker:
        assert worker.submit(turn_s).result(10) == pytest.approx(TIMESLICE_S)
    assert turn_s() == before
    assert before < TIMESLICE_S


def test_priority_stays_what_it_was() -> None:
    def look() -> float:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        request_long_timeslice()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert in_a_thread(look) == 5


def test_who_is_scheduled_otherwise_stays_so() -> None:
    def look() -> float:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        request_long_timeslice()
        return os.sched_getscheduler(0)

    assert in_a_thread(look) == os.SCHED_BATCH


def test_an_unknown_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeslice, "_SCHED_SETATTR", {})
    monkeypatch.setattr(ctypes, "CDLL", None)
    request_long_timeslice()

"""Output and ends travel from reading threads to the caller, whole and in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.engines import streams
from reprobox.engines.streams import Channel, in_background, pump


def nothing() -> None:
    pass


class Quiet(Channel):
    """A channel whose reader waits in a time of its own: whoever waits in vain moves its clock on.

    `later` are things that other threads do, each at its second.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, later: Mapping[float, Callable[[], None]]) -> None:
        super().__init__()
        self.now = 0.0
        self.later = dict(later)
        monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: self.now))

    def take(self, timeout: float) -> tuple[str, bytes] | None:
        chunk = super().take(0.0)
        if chunk is None and not (self.output_ended and self.program_ended):
            self.now += timeout
            for due in [second for second in self.later if second <= self.now]:
                self.later.pop(due)()
        return chunk


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=20)), max_size=30))
def test_all_chunks_arrive_in_order_before_pump_returns(chunks: list[tuple[str, bytes]]) -> None:
    channel = Channel()
    for stream, data in chunks:
        channel.put(stream, data)
    channel.end_program()
    channel.end_output()
    received: list[tuple[str, bytes]] = []
    pump(channel, lambda stream, data: received.append((stream, data)), nothing, 10.0)
    assert received == [chunk for chunk in chunks if chunk[1]]


def test_a_small_channel_makes_the_writer_wait_and_loses_nothing() -> None:
    channel = Channel(capacity=10)
    written = b"".join(b"%d\n" % number for number in range(2000))

    def write() -> None:
        for start in range(0, len(written), 7):
            channel.put("stdout", written[start : start + 7])
        channel.end_output()
        channel.end_program()

    in_background("writer", write)
    received = bytearray()
    pump(channel, lambda _stream, data: received.extend(data), nothing, 10.0)
    assert bytes(received) == written


def test_output_that_comes_after_the_programs_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Quiet(monkeypatch, {4.5: lambda: channel.put("stdout", b"late"), 9.0: lambda: channel.end_output()})
    channel.end_program()
    received: list[bytes] = []
    pump(channel, lambda _stream, data: received.append(data), nothing, 0.5, silence_after_end=5.0)
    assert received == [b"late"]
    assert channel.later == {}


def test_output_whose_end_never_comes_is_given_up_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Quiet(monkeypatch, {100.0: lambda: channel.put("stdout", b"nobody waits for this")})
    channel.put("stdout", b"all there is")
    channel.end_program()
    received: list[bytes] = []
    pump(channel, lambda _stream, data: received.append(data), nothing, 0.5, silence_after_end=5.0)
    assert received == [b"all there is"]
    assert channel.now == 5.5, "the first interval after five seconds"


def test_a_silent_program_is_waited_for_however_long_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Quiet(monkeypatch, {5000.0: lambda: channel.end_output(), 6000.0: lambda: channel.end_program()})
    ticks: list[float] = []
    pump(channel, lambda _stream, _data: None, lambda: ticks.append(channel.now), 0.5, silence_after_end=5.0)
    assert ticks == [second / 2 for second in range(12_001)]


def test_ticks_come_in_the_callers_thread_also_under_a_flood_of_output() -> None:
    channel = Channel()
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            channel.put("stdout", b"x" * 100)
        channel.end_output()
        channel.end_program()

    threads: list[threading.Thread] = []

    def tick() -> None:
        threads.append(threading.current_thread())
        if len(threads) == 4:
            stop.set()

    in_background("flood", flood)
    pump(channel, lambda _stream, _data: None, tick, 0.02)
    assert len(threads) >= 4
    assert set(threads) == {threading.current_thread()}


def test_what_a_tick_raises_goes_through() -> None:
    def tick() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump(Channel(), lambda _stream, _data: None, tick, 0.1)


def test_an_abandoned_channel_lets_its_waiting_writer_go() -> None:
    channel = Channel(capacity=1)
    writer = in_background("writer", lambda: [channel.put("stdout", b"ab") for _ in range(3)] and None)
    while not channel._held:
        time.sleep(0.01)
    assert writer.is_alive(), "it still has to put two chunks, and there is no room"
    channel.abandon()
    writer.join()

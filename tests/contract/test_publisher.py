"""The queue to the IOPub thread and the flush that waits for it, at moments that a real kernel meets seldom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from kernels.inside.output import OutStream, Publisher

WITHIN_S = 10.0


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    context: zmq.Context[Any] = zmq.Context()
    made = Publisher(context.socket(zmq.PUB))  # type: ignore[no-untyped-call]
    made.start()  # type: ignore[no-untyped-call]
    yield made
    made.stop()  # type: ignore[no-untyped-call]
    made.close()  # type: ignore[no-untyped-call]
    context.term()


@pytest.fixture
def stream(publisher: Publisher) -> OutStream:
    return OutStream(Session(key=b"k"), publisher, "stdout", watchfd=False)  # type: ignore[no-untyped-call]


def scheduled(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent, in order."""
    sent: list[str] = []
    monkeypatch.setattr(publisher, "_really_send", lambda wire, **_: sent.append(wire[-1].decode()))
    return sent


def run_and_wait(publisher: Publisher, event: Callable[[], Any]) -> None:
    done = threading.Event()
    publisher.schedule(event)
    publisher.schedule(done.set)
    assert done.wait(WITHIN_S)


def test_what_many_threads_schedule_is_done_once_and_in_each_ones_order(publisher: Publisher) -> None:
    done: list[tuple[int, int]] = []

    def busy(n: int) -> None:
        for i in range(3000):
            publisher.schedule(partial(done.append, (n, i)))

    threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    run_and_wait(publisher, lambda: None)
    for n in range(4):
        assert [i for who, i in done if who == n] == list(range(3000))


def test_an_event_that_fails_keeps_none_from_being_done(publisher: Publisher) -> None:
    run_and_wait(publisher, lambda: 1 / 0)
    assert publisher.io_loop is not None


def test_a_subscriber_who_comes_while_something_is_sent_is_welcomed() -> None:
    """libzmq's descriptor tells once that something has come, and whoever asks the socket then has heard it."""
    context: zmq.Context[Any] = zmq.Context()
    socket, subscriber = context.socket(zmq.XPUB), context.socket(zmq.SUB)
    socket.bind("inproc://iopub")
    publisher = Publisher(socket, session=Session(key=b"k"))  # type: ignore[no-untyped-call]
    publisher.start()  # type: ignore[no-untyped-call]

    def sends() -> None:
        subscriber.connect("inproc://iopub")
        subscriber.subscribe(b"")
        end = time.monotonic() + WITHIN_S
        while not socket.get(zmq.EVENTS) & zmq.POLLIN:
            assert time.monotonic() < end

    try:
        run_and_wait(publisher, sends)
        assert subscriber.poll(int(WITHIN_S * 1000))
        assert b"iopub_welcome" in b"".join(subscriber.recv_multipart())
    finally:
        publisher.stop()  # type: ignore[no-untyped-call]
        publisher.close()  # type: ignore[no-untyped-call]
        context.destroy(linger=0)


def test_an_interrupt_at_the_wake_loses_no_event(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    wake = publisher._wake
    interrupted: list[bool] = []

    def interrupt() -> None:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        wake()

    monkeypatch.setattr(publisher, "_wake", interrupt)
    with pytest.raises(KeyboardInterrupt):
        publisher.schedule(done.set)
    assert done.wait(WITHIN_S)


def test_flush_waits_for_text_that_the_timer_has_taken_and_not_yet_sent(
    publisher: Publisher, stream: OutStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = scheduled(publisher, monkeypatch)
    taken, go_on = threading.Event(), threading.Event()
    msg = stream.session.msg

    def slow(*args: Any, **kwargs: Any) -> Any:
        taken.set()
        assert go_on.wait(WITHIN_S)
        return msg(*args, **kwargs)

    monkeypatch.setattr(stream.session, "msg", slow)
    stream.write("text")
    publisher.io_loop.add_callback(stream._flush)  # as the timer does: not an event of the queue
    assert taken.wait(WITHIN_S)

    def cell_ends() -> None:
        stream.flush()
        publisher.send_multipart([b"idle"])  # type: ignore[no-untyped-call]

    ends = threading.Thread(target=cell_ends)
    ends.start()
    ends.join(0.1)
    assert ends.is_alive(), "the flush did not wait"
    go_on.set()
    ends.join(WITHIN_S)
    run_and_wait(publisher, lambda: None)
    assert [("text" in one, one == "idle") for one in sent] == [(True, False), (False, True)]


def test_flush_waits_for_what_was_scheduled_before_it(publisher: Publisher, stream: OutStream) -> None:
    go_on = threading.Event()
    done: list[int] = []
    publisher.schedule(lambda: go_on.wait(WITHIN_S))
    publisher.schedule(lambda: done.append(1))
    threading.Timer(0.05, go_on.set).start()
    stream.flush()
    assert done == [1]


def test_flush_of_an_idle_stream_wakes_nobody(
    publisher: Publisher, stream: OutStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_wait(publisher, lambda: None)
    while not publisher.idle:
        pass
    woken: list[bool] = []
    monkeypatch.setattr(publisher, "_wake", lambda: woken.append(True))
    stream.flush()
    assert not woken


def test_what_is_scheduled_after_the_end_is_done_at_once(publisher: Publisher) -> None:
    publisher.stop()  # type: ignore[no-untyped-call]
    done: list[int] = []
    publisher.schedule(lambda: done.append(1))
    assert done == [1]

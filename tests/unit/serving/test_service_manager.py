"""sd_notify: said where somebody listens, and else nothing."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from cortex_serving import service_manager


@pytest.fixture
def manager() -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(10)
    return listening


def test_without_a_manager_nothing_is_said_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway of `make up` hands over, too."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service_manager.ready()
    service_manager.main_pid(7)


def test_an_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch, manager: socket.socket) -> None:
    """Which is written with an @ and begins with a zero byte."""
    name = f"cortex-test-{os.getpid()}"
    with manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        service_manager.ready()
        assert manager.recv(100) == b"READY=1"


def test_a_new_main_process_is_waited_for(monkeypatch: pytest.MonkeyPatch, manager: socket.socket) -> None:
    """Until the manager has got as far as the barrier, which comes in a message of its own."""
    name = f"cortex-test-{os.getpid()}"
    with manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        telling = threading.Thread(target=service_manager.main_pid, args=(7,))
        telling.start()
        assert manager.recv(100) == b"MAINPID=7"
        words, (barrier,), _, _ = socket.recv_fds(manager, 100, 1)
        assert (words, telling.is_alive()) == (b"BARRIER=1", True)
        os.close(barrier)
        telling.join(10)
        assert not telling.is_alive()


def test_a_manager_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in the log."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    service_manager.ready()
    service_manager.main_pid(7)

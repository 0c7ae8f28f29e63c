"""The socket and the folder that workers share."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import StartError
from service.workers.meeting import kept_port, listen, run_folder, url_of


def test_a_free_port_is_found_and_named() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), 1):
            pass


def test_an_address_of_ip_version_6_stands_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("the machine has no IPv6")
    try:
        listener = listen("::1", 0)
    except StartError:
        pytest.skip("the machine has no IPv6 loopback")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_taken_port_is_said_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} of 127.0.0.1 is in use.*--port"):
            listen("127.0.0.1", port)


def test_a_port_that_was_just_left_can_be_taken_again() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()  # ours closes first: the connection stays in TIME_WAIT
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_said_with_what_to_do(host: str) -> None:
    with pytest.raises(StartError, match=f"cannot listen on {host}.*--host"):
        listen(host, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_privileged_port_is_said_with_what_to_do() -> None:
    with pytest.raises(StartError, match=r"port 1 needs privileges.*--port"):
        listen("127.0.0.1", 1)


def test_a_port_is_kept_for_those_who_share_it() -> None:
    with kept_port("127.0.0.1", 0, flag="--grpc-port") as port:
        with pytest.raises(StartError, match=f"port {port} of 127.0.0.1 is in use.*--grpc-port"):
            listen("127.0.0.1", port, flag="--grpc-port")
        with pytest.raises(StartError, match="is in use"), kept_port("127.0.0.1", port, flag="--grpc-port"):
            pass
        shares = [socket.create_server(("127.0.0.1", port), reuse_port=True) for _ in range(2)]
        with socket.create_connection(("127.0.0.1", port), 1):
            readable, _, _ = select.select(shares, [], [], 1)
            assert len(readable) == 1, "one of those who listen, and not the one who keeps it"
        for share in shares:
            share.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
    listen("127.0.0.1", port).close()


def test_the_run_folder_is_ours_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    with run_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "counts").write_text("1", encoding="utf-8")
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_it_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_two_services_do_not_take_each_others_folder(tmp_path: Path) -> None:
    with run_folder(tmp_path) as first, run_folder(tmp_path) as second:
        assert first != second
        assert first.is_dir()


def test_the_folder_of_a_dead_process_is_removed_at_the_next_start(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from service.workers.meeting import run_folder
with run_folder(Path(sys.argv[1])) as folder:
    (folder / "counts").touch()
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = tmp_path.iterdir()
    with run_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder != left


def test_what_is_not_a_run_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "logitserve-notes").write_text("mine", encoding="utf-8")
    (tmp_path / "target").mkdir()
    (tmp_path / "logitserve-link").symlink_to(tmp_path / "target")
    with run_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"logitserve-notes", "target", "logitserve-link"}


def test_where_no_folder_can_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"absent \(No such file or directory\).*--run-dir"),
        run_folder(tmp_path / "absent"),
    ):
        pass

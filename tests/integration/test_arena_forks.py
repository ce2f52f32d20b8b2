"""A fork after attach: the child keeps the bytes it inherited, and no right to anything else."""

from __future__ import annotations

import gc
import mmap
import os
import socket
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmformat.errors import TransportError
from mmformat.shm import ShmArena, ShmReader
from mmformat.shm.layout import PAGE


def _in_child(check: Callable[[], None]) -> None:
    """Run a check in a forked child and raise here what it raised there."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of the test process
        pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException as error:
            os.write(write, repr(error).encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        failed = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert not failed, failed.decode()


def _refused(verb: Callable[[], object]) -> None:
    with pytest.raises(TransportError) as caught:
        verb()
    assert caught.value.code == "forked"
    assert caught.value.hint


def test_a_child_of_the_producer_may_do_nothing_and_harms_nothing() -> None:
    with ShmArena.create(nbytes=4 * PAGE, ranks=1) as arena:
        slot = arena.reserve(5)

        def child() -> None:
            for verb in (lambda: arena.reserve(1), arena.stats, arena.reap, slot.seal):
                _refused(verb)
            arena.close()

        _in_child(child)
        assert Path("/dev/shm", arena.name).exists()
        slot.view[:] = b"hello"
        handle = slot.seal()
        with ShmReader.attach(handle, rank=0) as rank:
            assert bytes(rank.map(handle)) == b"hello"
            assert rank.producer_alive


def test_a_child_of_a_rank_keeps_its_bytes_and_releases_nothing() -> None:
    with ShmArena.create(nbytes=4 * PAGE, ranks=1) as arena:
        with arena.reserve(4 * PAGE) as slot:
            slot.view[:] = b"\x01" * (4 * PAGE)
            handle = slot.seal()
        with ShmReader.attach(handle, rank=0) as rank:
            held = [np.frombuffer(rank.map(handle), np.uint8)]
            go_read, go_write = os.pipe()

            def child() -> None:
                _refused(lambda: rank.map(handle))
                _refused(lambda: rank.release(handle))
                os.read(go_read, 1)  # the parent has released, and the slot has new content
                assert (held[0] == 1).all()
                held.clear()
                rank.close()

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    child()
                except BaseException as error:
                    os.write(2, repr(error).encode())
                    os._exit(1)
                os._exit(0)
            assert arena.stats().slots_granted == 1
            held.clear()
            with arena.reserve(4 * PAGE) as slot:
                slot.view[:] = b"\x02" * (4 * PAGE)
                second = slot.seal()
            os.write(go_write, b"!")
            assert os.waitpid(pid, 0)[1] == 0
            os.close(go_read)
            os.close(go_write)
            assert bytes(rank.map(second)[:1]) == b"\x02"


def test_a_child_may_attach_for_itself_under_a_number_of_its_own() -> None:
    with ShmArena.create(nbytes=4 * PAGE, ranks=2) as arena:
        with arena.reserve(5) as slot:
            slot.view[:5] = b"hello"
            handle = slot.seal(5)
        with ShmReader.attach(handle, rank=0) as rank:

            def child() -> None:
                with pytest.raises(TransportError) as caught:
                    ShmReader.attach(handle, rank=0)
                assert caught.value.code == "reader-taken"
                with ShmReader.attach(handle, rank=1) as another:
                    assert bytes(another.map(handle)) == b"hello"

            _in_child(child)
            assert arena.stats().readers_attached == 1
            assert bytes(rank.map(handle)) == b"hello"
        assert arena.stats().slots_granted == 0


def test_a_child_unmaps_nothing_that_it_does_not_have() -> None:
    """A device's mapping is not inherited; its address may be another mapping's in the child."""
    nbytes = 64 * PAGE
    with (
        ShmArena.create(nbytes=nbytes, ranks=1) as arena,
        ShmReader.attach(arena.name, rank=0) as rank,
    ):
        held = [rank.map_data()[0]]

        def child() -> None:
            others = [mmap.mmap(-1, nbytes) for _ in range(8)]
            for other in others:
                other[:] = b"x" * nbytes
            held.clear()
            gc.collect()
            assert all(other[:] == b"x" * nbytes for other in others)

        _in_child(child)
        held[0].close()


def test_a_child_that_lives_on_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """The parent dies, the forked child sleeps: the rank must still be seen as dead."""
    script = textwrap.dedent(
        """
        import os, sys, time
        from mmformat.shm import Handle, ShmReader
        reader = ShmReader.attach(sys.argv[1], rank=0, directory=sys.argv[2])
        view = reader.map(Handle.from_bytes(bytes.fromhex(sys.argv[3])))
        if os.fork() == 0:
            os.write(1, str(os.getpid()).encode() + b"\\n")
            time.sleep(120)
        time.sleep(120)
        """
    )
    with ShmArena.create(nbytes=PAGE, ranks=1, backing="file", directory=tmp_path) as arena:
        with arena.reserve(5) as slot:
            handle = slot.seal()
        arguments = [sys.executable, "-c", script, arena.name, str(tmp_path), bytes(handle).hex()]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert arena.stats().readers_attached == 1
            parent.kill()
            parent.wait()
            try:
                assert arena.reap() == 1
            finally:
                os.kill(child, 9)


def test_a_subprocess_inherits_no_descriptor() -> None:
    code = """
        import os
        print([os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with (
        ShmArena.create(nbytes=PAGE, ranks=1) as arena,
        ShmReader.attach(arena.name, rank=0),
    ):
        listing = subprocess.run(command, capture_output=True, check=True, close_fds=False).stdout
    assert b"/fd/" in listing or b"pipe" in listing
    assert arena.name.encode() not in listing


def test_a_rank_that_ends_takes_nothing_with_it_and_warns_of_nothing() -> None:
    """Before Python 3.13 the resource tracker unlinked what a process had only attached to."""
    script = textwrap.dedent(
        """
        import sys
        from multiprocessing import resource_tracker
        from mmformat.shm import Handle, ShmReader
        with ShmReader.attach(sys.argv[1], rank=int(sys.argv[3])) as reader:
            view = reader.map(Handle.from_bytes(bytes.fromhex(sys.argv[2])))
            print(bytes(view).decode(), resource_tracker._resource_tracker._fd)
        """
    )
    with ShmArena.create(nbytes=4 * PAGE, ranks=2) as arena:
        for rank in range(2):
            with arena.reserve(5) as slot:
                slot.view[:] = b"hello"
                handle = slot.seal()
            arguments = [arena.name, bytes(handle).hex(), str(rank)]
            ran = subprocess.run(
                [sys.executable, "-W", "error", "-c", script, *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello None\n", "")
            assert Path("/dev/shm", arena.name).exists()
        arena.reap()
        assert arena.stats().slots_granted == 0


def test_a_memfd_goes_to_a_rank_over_a_unix_socket() -> None:
    script = textwrap.dedent(
        """
        import os, socket, sys
        from mmformat.shm import Handle, ShmReader
        with socket.socket(fileno=int(sys.argv[1])) as channel:
            message, fds, _, _ = socket.recv_fds(channel, 256, 1)
        with ShmReader.attach_fd(fds[0], rank=0) as reader:
            os.close(fds[0])
            print(bytes(reader.map(Handle.from_bytes(message))).decode())
        """
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, ShmArena.create(nbytes=PAGE, ranks=1, backing="memfd") as arena:
        with arena.reserve(5) as slot:
            slot.view[:] = b"hello"
            handle = slot.seal()
        socket.send_fds(ours, [bytes(handle)], [arena.fileno()])
        printed = subprocess.run(
            [sys.executable, "-c", script, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert printed == "hello\n"

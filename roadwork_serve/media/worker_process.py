"""Processes that decode: how they are started, and the messages between them and their parent.

A message is the lengths of its two parts, then JSON and bytes. Nothing is pickled, so that an attacker who took over a
process could send wrong data but run no code in the parent. Neither pydantic nor asyncio is imported here.
"""

import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")  # of the JSON and of the bytes
READY: Mapping[str, Any] = {"kind": "ready"}
MAX_HEADER = 64 * 2**10  # bytes of JSON in a message to the parent
BASE_MIB = 256  # libraries take 110 MiB; the rest is a reserve
# Environment variables of the processes, without keys and tokens.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")


def spawn(module: str, theirs: socket.socket, file: BinaryIO | socket.socket | None = None) -> subprocess.Popen[bytes]:
    """Start a Python process that runs the module. Takes milliseconds.

    Args:
        module: The module.
        theirs: The socket that becomes its standard input.
        file: A file or socket for it to read from its standard output; none by default.
    """
    return subprocess.Popen(  # noqa: S603 - no argument comes from outside
        [sys.executable, "-P", "-s", "-m", module],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL if file is None else file.fileno(),
        env={name: os.environ[name] for name in _INHERITED if name in os.environ}
        | {
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path),
            "PYTHONWARNINGS": "ignore",
        },
    )


def limit_memory(needs_mib: int, most_mib: int) -> None:
    """Limit the memory of this process to what a file needs, and for good to what the most expensive file needs.

    Linux counts all of it, other systems only a part.
    """
    needs, most = ((BASE_MIB + each) * 2**20 for each in (needs_mib, most_mib))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min(needs, most), most))


def send(peer: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    """Send a message, blocking."""
    encoded = json.dumps(header).encode()
    peer.sendall(LENGTHS.pack(len(encoded), len(body)) + encoded)
    peer.sendall(body)


def receive(peer: socket.socket, most: int | None = None) -> tuple[dict[str, Any], bytes] | None:
    """Return a message, blocking; None once the socket is closed.

    Args:
        peer: The socket.
        most: Largest number of bytes beside the JSON, for a parent that does not trust the process.

    Raises:
        ConnectionError: The socket was closed in the middle of a message.
        ValueError: The message is larger than allowed, or no JSON.

    """
    lengths = peer.recv(LENGTHS.size, socket.MSG_WAITALL)
    if not lengths:
        return None
    lengths += receive_exactly(peer, LENGTHS.size - len(lengths))  # a socket with a timeout may return a part
    header_size, size = LENGTHS.unpack(lengths)
    if most is not None and (header_size > MAX_HEADER or size > most):
        raise ValueError(f"a message of {header_size:,} and {size:,} bytes")
    header = receive_exactly(peer, header_size)
    return json.loads(header), receive_exactly(peer, size)


def receive_exactly(peer: socket.socket, length: int) -> bytes:
    """Return this many bytes. Raise ConnectionError if the socket is closed before."""
    parts = bytearray(length)
    room = memoryview(parts)
    while room:
        got = peer.recv_into(room)
        if not got:
            raise ConnectionResetError("the socket was closed in the middle of a message")
        room = room[got:]
    room.release()
    return bytes(parts)

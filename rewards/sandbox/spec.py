"""What a zygote is told once, at its start, and the frames in which both sides talk.

A frame is two big-endian lengths, a JSON header and raw bytes; the header says how the bytes
divide. A `Spec` holds limits and paths only: jobs come later and are never read by the zygote.
"""

import json
import socket
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_FRAME = 64 << 20
_LENGTHS = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class Layers:
    """Which layers stand. All of them, always; tests take some away to try each one by itself."""

    uid_drop: bool = True
    rlimits: bool = True
    landlock: bool = True
    seccomp: bool = True


@dataclass(frozen=True, slots=True)
class Spec:
    """One zygote's tier, limits and places. `uid` is the user to become, None to stay;
    `home` a copy of Python's installation, empty for the usual one."""

    tier: str
    directory: str
    uid: int | None
    home: str
    library: tuple[str, ...]
    wall_s: float
    cpu_s: int
    memory_mb: int
    scratch_mb: int
    output_kb: int
    system: tuple[str, ...] = ()
    """Programs and libraries of the machine that a SYSTEM zygote shows; none in a FORK zygote."""
    interpreter: str = ""
    shared: tuple[str, ...] = ()
    """The Python to execute, and its library where it is not among the system's."""
    layers: Layers = field(default_factory=Layers)
    warm: str = ""
    """`module:function` of the verifier profile, imported and called before the jail closes."""
    packages: tuple[str, ...] = ()
    """Directories of installed packages that its calls may read."""

    def header(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def parse(header: dict[str, Any]) -> "Spec":
        fields = dict(header)
        fields["layers"] = Layers(**fields["layers"])
        for name in ("library", "system", "shared", "packages"):
            fields[name] = tuple(fields[name])
        return Spec(**fields)


def frame(header: dict[str, Any], *parts: bytes) -> bytes:
    head = json.dumps({**header, "parts": [len(part) for part in parts]}).encode()
    body = b"".join(parts)
    return _LENGTHS.pack(len(head), len(body)) + head + body


def lengths(prefix: bytes) -> tuple[int, int]:
    """Header and body length. Raises ValueError for a frame nobody here would send."""
    head, body = _LENGTHS.unpack(prefix)
    if head + body > MAX_FRAME:
        raise ValueError(f"a frame of {head + body} bytes")
    return head, body


PREFIX_BYTES = _LENGTHS.size


def split(head: bytes, body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    header = json.loads(head)
    parts, start = [], 0
    for size in header.pop("parts"):
        parts.append(body[start : start + size])
        start += size
    return header, parts


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """The next frame. Raises EOFError when the other side is gone."""
    header, parts, _ = receive_with_pipes(sock)
    return header, parts


def receive_with_pipes(sock: socket.socket) -> tuple[dict[str, Any], list[bytes], list[int]]:
    """The next frame and the descriptors that came with its first byte, none or two."""
    first, pipes, _, _ = socket.recv_fds(sock, 1, 2)
    if not first:
        raise EOFError("the other side closed the socket")
    head, body = lengths(first + _exactly(sock, PREFIX_BYTES - 1))
    return *split(_exactly(sock, head), _exactly(sock, body)), pipes


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError("the other side closed the socket")
        data += piece
    return bytes(data)

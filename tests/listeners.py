"""Which processes listen on TCP, and where, read from the kernel's own tables."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

LISTEN = "0A"


class Listener(NamedTuple):
    pid: int
    address: str
    port: int

    @property
    def beyond_loopback(self) -> bool:
        return not self.address.startswith("127.") and self.address != "::1"


def listeners(pids: Iterable[int]) -> set[Listener]:
    """The TCP sockets on which these processes listen now."""
    owner = {inode: pid for pid in pids for inode in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and (pid := owner.get(fields[9])):
                address, port = fields[1].split(":")
                found.add(Listener(pid, _address(address), int(port, 16)))
    return found


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that the process has open; none if it has ended."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _address(text: str) -> str:
    """The kernel writes each 32 bits as the machine's own integer."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    if len(words) == 1:
        return str(IPv4Address(words[0]))
    address = IPv6Address(b"".join(words))
    return str(address.ipv4_mapped or address)


@contextmanager
def watched(
    processes: Callable[[], Iterable[int]], every_s: float
) -> Iterator[dict[Listener, str]]:
    """Looks again and again, while the block runs, at who listens; filled with each listener and
    the command line of its process."""
    found: dict[Listener, str] = {}
    ended = threading.Event()

    def look() -> None:
        for listener in listeners(processes()) - found.keys():
            try:
                words = Path(f"/proc/{listener.pid}/cmdline").read_bytes()
            except OSError:
                words = b"(has ended)"
            found[listener] = words.replace(b"\0", b" ").decode(errors="replace")

    def keep_looking() -> None:
        while not ended.wait(every_s):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield found
        look()
    finally:
        ended.set()
        thread.join()

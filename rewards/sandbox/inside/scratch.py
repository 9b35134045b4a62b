"""Directories that untrusted code wrote: measuring and emptying them without being led astray.

Nothing here follows a link, recurses, or builds a path: depth, names and modes are the program's.
"""

import errno
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_INODES = 2048


def used_bytes(path: str) -> int:
    """Bytes allocated below `path`. Raises OSError if it cannot all be seen or is too much to see:
    the caller treats that as a breach of the quota."""
    total, seen, pending = 0, 0, [path]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_INODES:
                    raise OSError(errno.ENOSPC, f"more than {MAX_INODES} files")
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return total


def empty(path: str) -> None:
    """Remove all below `path`. Nested directories are first moved up to `path` itself, so that no
    depth can exhaust the stack, the descriptors or the length of a path."""
    top = os.open(path, _DIRECTORY)
    moved = 0
    try:
        while names := os.listdir(top):
            for name in names:
                moved = _remove(top, name, moved)
    finally:
        os.close(top)


def _remove(top: int, name: str, moved: int) -> int:
    """Remove one entry of `top`; sub-directories move up. Returns the count of names given out."""
    try:
        os.unlink(name, dir_fd=top)
        return moved
    except (IsADirectoryError, PermissionError):
        os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        for child in os.listdir(inner):
            try:
                os.unlink(child, dir_fd=inner)
            except (IsADirectoryError, PermissionError):
                os.chmod(child, 0o700, dir_fd=inner)
                moved = _move_up(top, inner, child, moved)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
    return moved


def _move_up(top: int, inner: int, child: str, moved: int) -> int:
    while True:
        moved += 1
        try:
            os.rename(child, f"moved-{moved}", src_dir_fd=inner, dst_dir_fd=top)
            return moved
        except OSError as error:
            # The program may have chosen that very name: EEXIST, ENOTDIR, ENOTEMPTY.
            if error.errno not in (17, 20, 39):
                raise


def remove(path: str) -> None:
    """Remove `path` and all below it; a path that is already gone is fine."""
    try:
        empty(path)
        os.rmdir(path)
    except FileNotFoundError:
        return

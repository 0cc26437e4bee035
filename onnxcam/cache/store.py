"""A folder of entries: bytes by key, whole or not there at all, the oldest leaving first.

Nothing here raises for the sake of the folder: what cannot be read, or is not what was written, is
not there; what cannot be written is not kept. Several processes may use one folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from pathlib import Path

ENVIRONMENT = "ONNXCAM_CACHE"
"""The variable that names another folder; empty: nothing is kept."""

MOST_BYTES = 256 << 20
"""What all entries of a folder may take; weights of models are not among them."""

_MARK = b"onnxcam entry 1\n"
_DIGEST = 32
_OURS = re.compile(r"[0-9a-f]{64}\.entry|[0-9a-f]{64}\.[0-9a-f]{16}\.tmp")
_ABANDONED = 3600  # seconds after which a file half written has no writer any more


def default_folder() -> Path | None:
    """The user's cache folder for onnxcam, or what ONNXCAM_CACHE says; None: nothing is kept."""
    given = os.environ.get(ENVIRONMENT)
    if given is not None:
        return Path(given) if given else None
    from platformdirs import user_cache_path

    return user_cache_path("onnxcam", appauthor=False)


class Store:
    """Entries in `folder`, which take `most` bytes together at the most."""

    def __init__(self, folder: Path, most: int = MOST_BYTES) -> None:
        """Nothing is touched before the first entry is asked for."""
        self.folder, self.most = folder, most

    def get(self, key: str) -> bytes | None:
        """The entry under `key` (64 hexadecimal digits), unless it is missing or damaged."""
        path = self._path(key)
        try:
            if not self._private() or path.stat().st_size > self.most:
                return None
            held = path.read_bytes()
            head, data = held[: len(_MARK) + _DIGEST], held[len(_MARK) + _DIGEST :]
            if head != _MARK + _checksum(key, data):
                return None
            os.utime(path)  # so that the oldest is the one that was not used for longest
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keeps `data` under `key`, in one step; where that fails nothing is kept."""
        size = len(_MARK) + _DIGEST + len(data)
        if size > self.most:
            return
        temporary = self.folder / f"{key}.{secrets.token_hex(8)}.tmp"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._private():
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
                for part in (_MARK, _checksum(key, data), data):
                    stream.write(part)
            os.replace(temporary, self._path(key))  # not synced: the checksum sees what is lost
            self._trim()
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.entry"

    def _private(self) -> bool:
        """Whether only this user can write into the folder: entries are trusted."""
        found = self.folder.stat()
        if os.name != "posix":
            return True
        return found.st_uid == os.geteuid() and not found.st_mode & 0o022

    def _trim(self) -> None:
        """Takes away what passes the bound, longest unused first, and what writers left behind."""
        held: list[tuple[float, int, Path]] = []
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may take it away meanwhile
                if not _OURS.fullmatch(file.name):
                    continue
                about = file.stat()
                if file.suffix == ".entry":
                    held.append((about.st_mtime, about.st_size, file))
                elif about.st_mtime < time.time() - _ABANDONED:
                    file.unlink()
        every = sum(size for _, size, _ in held)
        for _, size, file in sorted(held):
            if every <= self.most:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            every -= size


def _checksum(key: str, data: bytes) -> bytes:
    """Of an entry and its key, so that an entry under the name of another one is not taken."""
    return hashlib.blake2b(key.encode() + data, digest_size=_DIGEST).digest()

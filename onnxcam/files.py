"""Writing results: whole or not at all, and never over a file that was not to be replaced."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from onnxcam.errors import OutputError


def check_writable(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The real path behind `path`, or an OutputError; for asking before long work.

    Args:
        path: The file to be written; symbolic links are followed.
        force: An existing file may be replaced.
    """
    shown, real = Path(path), Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise OutputError(f"cannot write {shown}: {reason(error)}") from None
    if mode is not None:
        if stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {shown}: it is a folder; give a file name in it")
        if not stat.S_ISREG(mode):
            raise OutputError(f"cannot write {shown}: it is a device, not a file")
        if not force:
            raise OutputError(f"{shown} exists already; name another file, or pass --force")
    if not real.parent.is_dir():
        raise OutputError(f"cannot write {shown}: there is no folder {real.parent}; make it first")
    return real


def write_atomic(path: str | os.PathLike[str], data: bytes, force: bool = False) -> Path:
    """Write `data` to `path` in one step: readers see the old state or the new, never a part.

    Args:
        path: The file to write; its folder must exist.
        data: The whole content.
        force: Replace an existing file.

    Returns:
        The path as given.

    Raises:
        OutputError: The file exists and `force` is off, or the system refuses the write. Nothing
            half-written is left behind.
    """
    real = check_writable(path, force)
    # In the same folder, since only a rename within one file system is atomic. Not tempfile: its
    # files are private to the user, a result should follow the umask like any other file.
    temporary = real.with_name(f".onnxcam-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if force:
            os.replace(temporary, real)
        else:
            _move_to_new(temporary, real)
    except FileExistsError:
        raise OutputError(f"{path} exists already; name another file, or pass --force") from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {reason(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Path(path)


def write_together(contents: Mapping[Path, bytes], force: bool = False) -> None:
    """Writes several files, making their folders; if one fails, those made new are taken away.

    Args:
        contents: what goes where.
        force: replace files that exist.

    Raises:
        OutputError: a file exists and `force` is off, or the system refuses.
    """
    made: list[Path] = []
    try:
        for path, data in contents.items():
            new = not path.exists()
            make_folder(path.parent)
            write_atomic(path, data, force)
            made += [path] if new else []
    except (OutputError, KeyboardInterrupt):
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def make_folder(folder: Path) -> None:
    """Makes `folder` and those above it, if they do not exist.

    Raises:
        OutputError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {reason(error)}") from None


def _move_to_new(temporary: Path, real: Path) -> None:
    """Rename, refusing to replace a file that appeared since it was checked."""
    try:
        os.link(temporary, real)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as FAT
        os.replace(temporary, real)


def reason(error: OSError) -> str:
    """Why the system refused."""
    return (error.strerror or str(error)).lower()

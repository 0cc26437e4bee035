"""Atomic writing: the races, links and odd targets that a plain open() gets wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import onnxcam.files
from onnxcam.errors import OutputError
from onnxcam.files import check_writable, write_atomic


def test_write_and_force(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    assert write_atomic(path, b"1") == path
    with pytest.raises(OutputError, match="--force"):
        write_atomic(path, b"2")
    assert path.read_bytes() == b"1"
    write_atomic(str(path), b"2", force=True)
    assert path.read_bytes() == b"2"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_umask_decides_the_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    monkeypatch.setattr(onnxcam.files.os, "fsync", lambda _: path.write_bytes(b"theirs"))
    with pytest.raises(OutputError, match="exists already"):
        write_atomic(path, b"ours")
    assert path.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["a"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(onnxcam.files.os, "link", refused)
    write_atomic(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1" and os.listdir(tmp_path) == ["a"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"1")
    link.symlink_to(target)
    with pytest.raises(OutputError, match="--force"):
        write_atomic(link, b"2")
    write_atomic(link, b"2", force=True)
    assert link.is_symlink() and target.read_bytes() == b"2"


def test_targets_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path, force=True)
    with pytest.raises(OutputError, match="a device"):
        check_writable("/dev/null", force=True)
    with pytest.raises(OutputError, match="no folder"):
        check_writable(tmp_path / "none" / "a")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a directory"):
        check_writable(tmp_path / "file" / "a")
    with pytest.raises(OutputError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), b"")

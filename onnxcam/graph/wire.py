"""Reads an ONNX file past its weights: the graph's bytes without them, and where they lie.

Parsing a model of half a gigabyte as one protobuf message takes seconds and holds every weight
twice. But a weight is a run of bytes behind a length, so one look at the wire format finds them
all: they are skipped here, and read later straight into the arrays that sessions use.

Format: https://protobuf.dev/programming-guides/encoding; field numbers: onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto, TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes are no protobuf message, or are cut short."""


class Span(NamedTuple):
    """Where the data of a weight lies: offset and length in bytes."""

    start: int
    length: int


class _Field(NamedTuple):
    number: int
    kind: int
    start: int  # of the whole field
    body: int  # of its content
    end: int


def skim(buffer: memoryview, least: int) -> tuple[bytes, dict[int, Span]]:
    """The message without the raw data of its large weights, and the spans of that data.

    Args:
        buffer: a serialised ModelProto.
        least: shortest raw data that is left out, in bytes.

    Returns:
        The shorter message, and for the i-th initializer of the graph where its data lies.

    Raises:
        Malformed: the buffer is not such a message.
    """
    pieces: list[bytes] = []
    spans: dict[int, Span] = {}
    for field in _fields(buffer, 0, len(buffer)):
        if field.number != _GRAPH or field.kind != _BYTES:
            pieces.append(bytes(buffer[field.start : field.end]))
            continue
        if any(spans):
            raise Malformed("the message holds two graphs")
        inner = _graph(buffer, field, least, spans)
        pieces += [_tag(_GRAPH), _varint(sum(map(len, inner))), *inner]
    return b"".join(pieces), spans


def _graph(buffer: memoryview, graph: _Field, least: int, spans: dict[int, Span]) -> list[bytes]:
    pieces: list[bytes] = []
    count = 0
    for field in _fields(buffer, graph.body, graph.end):
        if field.number != _INITIALIZER or field.kind != _BYTES:
            pieces.append(bytes(buffer[field.start : field.end]))
            continue
        if field.end - field.body < least:
            pieces.append(bytes(buffer[field.start : field.end]))
            count += 1
            continue
        kept: list[bytes] = []
        for part in _fields(buffer, field.body, field.end):
            if part.number == _RAW_DATA and part.kind == _BYTES and part.end - part.body >= least:
                spans[count] = Span(part.body, part.end - part.body)
            else:
                kept.append(bytes(buffer[part.start : part.end]))
        pieces += [_tag(_INITIALIZER), _varint(sum(map(len, kept))), *kept]
        count += 1
    return pieces


def _fields(buffer: memoryview, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        start = position
        tag, position = _read_varint(buffer, position, end)
        kind, body = tag & 7, position
        if kind == _VARINT:
            _, position = _read_varint(buffer, position, end)
        elif kind == _BYTES:
            length, body = _read_varint(buffer, position, end)
            position = body + length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise Malformed(f"wire type {kind} at byte {start}")
        if position > end or not tag >> 3:
            raise Malformed(f"a field at byte {start} runs past the end")
        yield _Field(tag >> 3, kind, start, body, position)


def _read_varint(buffer: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise Malformed(f"a number at byte {position} does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)

"""Keeps what loading and compiling found out, so that the next process need not do it again."""

from __future__ import annotations

from onnxcam.cache.keep import Cache
from onnxcam.cache.store import ENVIRONMENT, MOST_BYTES

__all__ = ["ENVIRONMENT", "MOST_BYTES", "Cache"]

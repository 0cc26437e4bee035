"""Things that take long to make, made once for each key, however many threads ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Things made on first use and kept. While one is made, the others can be had."""

    def __init__(self, most: int | None = None) -> None:
        """An empty pool; of more than `most`, the one not asked for longest goes."""
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}
        self._made: OrderedDict[Hashable, T] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`; `make()` gives it the first time.

        When `make` fails, whoever waited for it tries in turn.
        """
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._made:
                    return self._made[key]
            made = make()  # if it fails, its lock stays, for those who wait
            with self._lock:
                self._made[key] = made
                del self._making[key]
                while self._most is not None and len(self._made) > self._most:
                    self._made.popitem(last=False)
            return made

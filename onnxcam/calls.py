"""A call under way: its progress, its time limit, and how another thread stops it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from onnxcam.errors import Cancelled, OptionError, Timeout

Progress = Callable[[int, int], None]
"""Called with (units done, units in all) while blocks of units run."""


class Cancel:
    """Stops calls from another thread: `explainer(x, cancel=stop)` here, `stop.cancel()` there.

    One may be given to several calls, at once or one after the other. It stays cancelled: calls
    that get it later do not begin.
    """

    def __init__(self) -> None:
        """Not cancelled yet."""
        self._lock = threading.RLock()  # a signal handler may cancel in the middle of `added`
        self._calls: set[Call] = set()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stops the calls that have it: each raises `Cancelled` as soon as it can."""
        with self._lock:
            self._cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.stop()

    def added(self, call: Call) -> None:
        """From now on `call` is stopped, too."""
        with self._lock:
            self._calls.add(call)

    def removed(self, call: Call) -> None:
        """`call` is over."""
        with self._lock:
            self._calls.discard(call)


class Call:
    """What goes with one call through all its runs: progress, time limit, token. A context."""

    def __init__(
        self,
        progress: Progress | None = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Begins the call.

        Args:
            progress: called with (done, all).
            timeout: seconds; None for no limit.
            cancel: what stops it from another thread.

        Raises:
            OptionError: `timeout` is no positive number, or `cancel` no `Cancel`.
        """
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise OptionError(f"timeout is a positive number of seconds, not {timeout!r}")
        if cancel is not None and not isinstance(cancel, Cancel):
            raise OptionError(f"cancel is an onnxcam.Cancel, not {cancel!r}")
        self._progress, self._cancel = progress, cancel
        self._timeout = math.inf if timeout is None else float(timeout)
        self._end = time.monotonic() + self._timeout
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        self._stopped, self._options = False, None
        self._number, self._of = 0, 1
        self._done = self._every = 0

    def __enter__(self) -> Call:
        self.check()
        if self._cancel is not None:
            self._cancel.added(self)
        if self._timeout < threading.TIMEOUT_MAX:
            self._timer = threading.Timer(self._timeout, self.stop)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._cancel is not None:
            self._cancel.removed(self)

    def check(self) -> None:
        """Raises what the call ends with once its time is up or it was cancelled.

        Raises:
            Cancelled: another thread wants it.
            Timeout: it took too long.
        """
        if self._cancel is not None and self._cancel.cancelled:
            raise Cancelled(f"the explanation was cancelled{self._so_far()}")
        if time.monotonic() >= self._end:
            raise Timeout(
                f"the explanation took longer than its {self._timeout:g} s{self._so_far()}; allow "
                "more (timeout=), or less work: fewer steps, masks or samples, or a quicker "
                "method. The first call compiles: warm_up() does that before"
            )

    def stop(self) -> None:
        """Ends the run that is under way at its next node, and every later one at once."""
        with self._lock:
            self._stopped = True
            if self._options is not None:
                self._options.terminate = True

    @contextmanager
    def running(self, options: Any) -> Iterator[None]:
        """While a run is under way with `options`, an `onnxruntime.RunOptions`.

        Raises:
            Cancelled, Timeout: instead of beginning it.
        """
        self.check()
        with self._lock:
            self._options = options
            if self._stopped:
                options.terminate = True
        try:
            yield
        finally:
            with self._lock:
                self._options = None

    def part(self, number: int, of: int) -> None:
        """What follows is one of several equal parts: progress is that of all of them."""
        self._number, self._of = number, of

    def begin(self, every: int) -> None:
        """What follows has so many items."""
        self._done, self._every = 0, every

    def advance(self, items: int) -> None:
        """Says that `items` more are done."""
        self._done += items
        if self._progress is not None:
            self._progress(*self._all)

    @property
    def _all(self) -> tuple[int, int]:
        return self._number * self._every + self._done, self._of * self._every

    def _so_far(self) -> str:
        done, every = self._all
        return f", with {done} of {every} items done" if every else ""

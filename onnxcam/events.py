"""What a service can log: events of the logger "onnxcam", their facts as fields of the record.

    event       level    fields
    loaded      INFO     model, classes, seconds
    compiled    INFO     model, method, layer, targets, size, nodes, seconds
    session     INFO     model, provider, part, nodes, seconds
    run         DEBUG    model, method, images, targets, provider, seconds
    note        WARNING  model, method, note: why a slower or another way was taken

Nothing is printed unless the program sets logging up.
"""

from __future__ import annotations

import logging
from typing import Any

LOG = logging.getLogger("onnxcam")
LOG.addHandler(logging.NullHandler())


def event(level: int, name: str, **fields: Any) -> None:
    """Logs one: the record has `event`, and each of `fields`, as attributes."""
    if LOG.isEnabledFor(level):
        facts = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        said = ", ".join(f"{key} {value}" for key, value in facts.items())
        LOG.log(level, "%s: %s", name, said, extra={"event": name, **facts}, stacklevel=2)

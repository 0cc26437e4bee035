"""Gradients of whole classifiers: the model that computes them, and its values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from models import session
from onnxcam.diff import gradients
from onnxcam.graph import Classifier
from onnxcam.graph.emit import Emitter
from onnxcam.graph.split import extract

COTANGENT = "cotangent"


class Gradients:
    """The gradients of a classifier's logits (or of the tensor `of`) for the tensors `wrt`.

    `model` is the graph that computes them from image and cotangent, and `names` its outputs, one
    for each of `wrt`, None where the engine answers that nothing depends on it.
    """

    def __init__(
        self,
        classifier: Classifier,
        wrt: Sequence[str] | None = None,
        variant: str = "standard",
        of: str | None = None,
    ) -> None:
        self.classifier, self.notes = classifier, list[str]()
        graph = classifier.graph()
        tensors = graph.tensors()
        y = tensors[of or classifier.score.logit]
        dtype = y.dtype if np.dtype(y.dtype).kind == "f" else np.dtype(np.float32)
        cotangent = gs.Variable(COTANGENT, dtype, y.shape)
        graph.inputs.append(cotangent)
        given = [tensors[n] for n in wrt or [classifier.image.name]]
        found = gradients(Emitter(graph), y, cotangent, given, variant, self.notes)
        graph.outputs = []
        graph.toposort()
        self.names = [t.name if t is not None else None for t in found]
        outputs = [y.name, *dict.fromkeys(n for n in self.names if n)]
        inputs = [classifier.image.name, COTANGENT]
        self.model: ModelProto = extract(graph, inputs, outputs, classifier.model).complete()
        self.dtype, self.width = dtype, list(y.shape[1:])
        self._session = session(self.model)

    def __call__(self, x: np.ndarray, cotangent: np.ndarray) -> list[np.ndarray | None]:
        """The values for images `x` (N, …) and a cotangent in the shape of the scores."""
        runs = []
        step = self.classifier.batch or len(x)
        for i in range(0, len(x), step):
            feeds = {
                self.classifier.image.name: x[i : i + step].astype(self.classifier.image.dtype),
                COTANGENT: cotangent[i : i + step].astype(self.dtype),
            }
            used = {t.name: feeds[t.name] for t in self._session.get_inputs()}
            values = self._session.run([n for n in self.names if n], used)
            runs.append(values)
        joined = iter([np.concatenate(parts) for parts in zip(*runs, strict=True)])
        return [next(joined) if n else None for n in self.names]

    def of_classes(self, x: np.ndarray, classes: Sequence[int]) -> list[np.ndarray]:
        """The values for the score of each class, (N, classes, …)."""
        rows = []
        for k in classes:
            cotangent = np.zeros((len(x), *self.width), self.dtype)
            cotangent.reshape(len(x), -1)[:, k] = 1
            rows.append([v for v in self(x, cotangent) if v is not None])
        return [np.stack(values, 1) for values in zip(*rows, strict=True)]

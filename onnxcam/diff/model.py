"""Gradients as a model of their own: the classifier with its derivatives as further outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.reverse import gradients
from onnxcam.errors import ModelError, OpError, OptionError, close_matches
from onnxcam.graph.emit import Emitter
from onnxcam.graph.load import Classifier
from onnxcam.graph.model import Model
from onnxcam.graph.narrow import narrow
from onnxcam.graph.shapes import annotate
from onnxcam.graph.split import extract

TARGET, COTANGENT = "target", "cotangent"


def gradient_model(
    classifier: Classifier,
    of: str | None = None,
    wrt: Sequence[str] = (),
    variant: str = "standard",
    cotangent: bool = False,
) -> Model:
    """The model `image, target → old outputs, a gradient for each of wrt`.

    Args:
        classifier: what is differentiated.
        of: the tensor differentiated, by name; None for the class scores before a softmax.
        wrt: names of the tensors differentiated for, weights among them (their gradients are
            summed over the batch); none: the image.
        variant: "standard", or "guided", "deconv", … (see `onnxcam.diff.VARIANTS`).
        cotangent: in place of `target` an input in the shape of `of`; the gradients are those of
            Σ cotangent · of.

    Returns:
        Inputs: the image, and `target`, int64 (N,), a class for each image (or `cotangent`).
        Outputs: those of the classifier, and `<name>/gradient` in the shape of every `<name>`.

    Raises:
        ModelError: there is no such tensor, or `of` has no axis of classes to choose from.
        OpError: an operator on the way has no gradient rule.
    """
    graph = classifier.graph()
    e, tensors = Emitter(graph), graph.tensors()
    image, outputs = classifier.image.name, [t.name for t in graph.outputs]
    extra = COTANGENT if cotangent else TARGET
    if extra in tensors:
        raise ModelError(f"the model has a tensor named {extra!r} already; rename it")
    names = list(dict.fromkeys(wrt)) or [image]
    score = _named(tensors, of or classifier.score.logit)
    sources = [_named(tensors, name) for name in names]
    rows = "N" if classifier.batch is None else classifier.batch
    if cotangent:
        given = gs.Variable(extra, np.dtype(score.dtype), score.shape)
        graph.inputs.append(given)
    else:
        wide = [n for n in (score.shape or [])[1:] if n != 1]
        flat = score.shape is None or (len(score.shape) < 2 and score.shape[:1] != [rows])
        if flat or len(wide) > 1:
            raise ModelError(
                f"{score.name!r} of shape {score.shape} has no single axis of classes to take a "
                "target from; give a cotangent instead (cotangent=True, --cotangent)"
            )
        target = gs.Variable(extra, np.dtype(np.int64), [rows])
        graph.inputs.append(target)
        column = e.Reshape(target, [-1, 1])
        column.shape = [rows, 1]
        start = len(graph.nodes)
        # A weight is differentiated for where it stands, not in the copy for one class.
        weights = any(isinstance(t, gs.Constant) for t in sources)
        score = narrow(e, score, column, 1, stop={*names, *([score.name] if weights else [])})
        annotate(graph.nodes[start:], graph.opset)
        score.shape = [rows, 1]
        given = e.Expand(e.tensor(np.ones((1, 1), score.dtype)), e.Shape(score))
        given.dtype = np.dtype(score.dtype)
    notes: list[str] = []
    found = gradients(e, score, given, sources, variant, notes)
    graph.outputs = []
    for name, g in zip(names, found, strict=True):
        if g is None:
            lost = f": {'; '.join(notes)}" if notes else ""
            raise OpError(f"the score does not depend on {name!r} in a way that can be seen{lost}")
        result = gs.Variable(f"{name}/gradient", g.dtype, g.shape)
        graph.nodes.append(gs.Node("Identity", result.name, {}, [g], [result]))
        outputs.append(result.name)
    graph.toposort()
    return extract(graph, [image, extra], outputs, classifier.model)


def _named(tensors: dict[str, gs.Tensor], name: str) -> gs.Tensor:
    found = tensors.get(name)
    if found is None:
        raise OptionError(f"the model has no tensor {name!r}{close_matches(name, tensors)}")
    return found

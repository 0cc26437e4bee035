"""scikit-learn pipelines behind torchvision's networks for the zoo, joined into one file.

    python tools/zoo_sklearn.py make resnet18-logistic out/zoo/resnet18-logistic

Runs in an environment of its own: torch, torchvision, onnx, onnxscript, scikit-learn, skl2onnx. As
people do it, the network's pooled features go through a fitted pipeline; torch exports the one and
skl2onnx the other, and `onnx.compose` joins them. The pipeline is fitted on random pictures with
random labels. For the reference it is written as linear layers in torch.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import zoo_torchvision
from export_torchvision import calibrate, images, write_onnx
from zoo_maker import COUNT, Array, Group, Made, generator, run, softmax
from zoo_torch import differentiated, started

EXPORTS = (("torchscript+skl2onnx", 17), ("dynamo+skl2onnx", 18))
CLASSES, PICTURES = 10, 64
HEADS = {"resnet18": "fc", "mobilenet_v2": "classifier"}
"""What a network has behind its pooled features: the pipeline takes its place."""

MODELS = ("resnet18-logistic", "resnet18-mlp", "mobilenet_v2-logistic")
NAMED = {"mobilenet_v2-logistic"}
"""Their classes have names, in place of numbers."""


def groups() -> list[Group]:
    """The pairs and their exports."""
    layer = zoo_torchvision.layer_of
    return [Group("scikit-learn", m, EXPORTS, layer(m.partition("-")[0])) for m in MODELS]


def build(group: Group) -> Made:
    """One network with random weights, and the pipeline fitted on its features."""
    import sklearn

    torch, models = started()
    name, _, kind = group.model.partition("-")
    body = models.get_model(name, weights=None).eval()
    setattr(body, HEADS[name], torch.nn.Identity())
    calibrate(torch, body, images(torch, 8, 224))
    with torch.no_grad():
        features = body(images(torch, PICTURES, 224)).numpy()
    pipeline = fitted(kind, features, group.model in NAMED)
    x = images(torch, COUNT, 224)

    def write(exporter: str, opset: int, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "body.onnx"
            write_onnx(torch, body, x, first, opset, exporter.partition("+")[0])
            join(first, pipeline, features, opset, path)

    whole = torch.nn.Sequential(body, *in_torch(torch, pipeline)).eval()
    reference = differentiated(torch, whole, x, f"[0].{group.layer}", None)
    reference["out"] = softmax(reference["logits"])
    framework = f"scikit-learn {sklearn.__version__} / torch {torch.__version__.partition('+')[0]}"
    return Made(framework, group.layer, reference, write)


def fitted(kind: str, features: Array, named: bool) -> Any:
    """A pipeline that has learned random labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = {
        "logistic": LogisticRegression(C=0.01),
        "mlp": MLPClassifier((64,), alpha=1.0, random_state=0, max_iter=50),
    }
    labels = generator(kind).permutation(PICTURES) % CLASSES
    names = [f"class {label}" for label in labels]
    return make_pipeline(StandardScaler(), last[kind]).fit(features, names if named else labels)


def in_torch(torch: Any, pipeline: Any) -> list[Any]:
    """The pipeline up to its logits, as layers in torch; the scaler is part of the first."""
    scaler, last = (step for _, step in pipeline.steps)
    if hasattr(last, "coefs_"):
        weights, biases = last.coefs_, last.intercepts_
    else:
        weights, biases = [last.coef_.T], [last.intercept_]
    scaled = weights[0] / scaler.scale_[:, None]
    weights = [scaled, *weights[1:]]
    biases = [biases[0] - scaler.mean_ @ scaled, *biases[1:]]
    layers = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, torch.nn.ReLU()]
    return layers[:-1]


def join(first: Path, pipeline: Any, features: Array, opset: int, path: Path) -> None:
    """Writes the network in `first` with the pipeline behind it."""
    import onnx
    from skl2onnx import to_onnx

    body = onnx.load(first)
    tail = to_onnx(pipeline, features[:1], target_opset={"": opset, "ai.onnx.ml": 3})
    body.ir_version = tail.ir_version = min(body.ir_version, tail.ir_version)
    pair = [(body.graph.output[0].name, tail.graph.input[0].name)]
    onnx.save(onnx.compose.merge_models(body, tail, io_map=pair), path)


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))

"""Model repositories for the Triton inference server, and manifests for KServe.

Schema: model_config.proto of the Triton common repository; a repository's layout:
https://docs.nvidia.com/deeplearning/triton-inference-server, "Model Repository".
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import onnx

from onnxcam.errors import OptionError
from onnxcam.exporting import Exported

_TYPES = {  # ONNX element type → Triton's name of it
    "BOOL": "TYPE_BOOL",
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "DOUBLE": "TYPE_FP64",
    "BFLOAT16": "TYPE_BF16",
    "STRING": "TYPE_STRING",
    **{f"INT{n}": f"TYPE_INT{n}" for n in (8, 16, 32, 64)},
    **{f"UINT{n}": f"TYPE_UINT{n}" for n in (8, 16, 32, 64)},
}
_LABELS = "labels.txt"


def fitting_name(text: str) -> str:
    """A name for a model made of any text."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "explainer"


def repository(made: Exported, name: str, batch: int = 32) -> dict[str, bytes]:
    """A model repository with one model: path in it → content.

    Args:
        made: the explainer.
        name: of the model, which is that of its folder.
        batch: most images in one run; requests are joined up to it. A model that takes a fixed
            number of images gets each request as it is.

    Raises:
        OptionError: the name is none for a folder.
    """
    if name != fitting_name(name):
        raise OptionError(
            f"{name!r} is no name for a model in a repository: take letters, digits, '-' and '_'"
        )
    files = {f"{name}/1/{file}": data for file, data in made.model.files("model.onnx").items()}
    labels = json.loads(made.model.metadata.get("onnxcam.labels", "[]"))
    if labels:
        lines = "".join(f"{' '.join(str(label).split())}\n" for label in labels)
        files[f"{name}/{_LABELS}"] = lines.encode()
    files[f"{name}/config.pbtxt"] = _config(made, name, batch, len(labels)).encode()
    return files


def _config(made: Exported, name: str, batch: int, labels: int) -> str:
    graph = made.model.proto.graph
    free = not graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    fields: dict[str, Any] = {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": batch if free else 0,
        "input": [_end(value, free) for value in graph.input],
        "output": [_end(value, free) for value in graph.output],
    }
    scores = [o for o in fields["output"] if math.prod(o["dims"]) in (labels, -labels)]
    if labels and scores:
        scores[0]["label_filename"] = _LABELS
    if free:
        fields["dynamic_batching"] = {}
    return "".join(_lines(fields))


def _end(value: onnx.ValueInfoProto, free: bool) -> dict[str, Any]:
    """An input or output; with a free batch its first axis is not named."""
    kind = value.type.tensor_type
    type_name = onnx.TensorProto.DataType.Name(kind.elem_type)
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim][int(free) :]
    found = {"name": value.name, "data_type": _Word(_TYPES[type_name]), "dims": dims or [1]}
    return found if dims else {**found, "reshape": {"shape": []}}


class _Word(str):
    """A value that stands without quotes: the name of an enumeration's member."""


def _lines(fields: dict[str, Any], indent: str = "") -> list[str]:
    """A message in protobuf's text format."""
    found = []
    for key, value in fields.items():
        many = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
        for one in value if many else [value]:
            if isinstance(one, dict):
                found += [f"{indent}{key} {{\n", *_lines(one, indent + "  "), f"{indent}}}\n"]
            else:
                shown = one if isinstance(one, _Word) else json.dumps(one)
                found.append(f"{indent}{key}: {shown}\n")
    return found


def manifest(name: str, uri: str) -> str:
    """A KServe InferenceService that serves a repository at `uri` with Triton.

    Raises:
        OptionError: the address has no scheme.
    """
    if not re.match(r"[a-z][a-z0-9+.-]*://.", uri):
        raise OptionError(
            f"{uri!r} is no address that a cluster can load from; write it with its scheme, as in "
            "s3://bucket/models or pvc://claim/repository"
        )
    service = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "explainer"
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: {json.dumps(uri)}
"""

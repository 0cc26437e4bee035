"""ONNX in, ONNX out: loading classifiers, finding score and feature map, cutting graphs."""

from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.load import Classifier, load, logits
from onnxcam.graph.model import Model
from onnxcam.graph.normal import Image
from onnxcam.graph.score import Score
from onnxcam.graph.split import split

__all__ = ["Classifier", "FeatureMap", "Image", "Model", "Score", "load", "logits", "split"]

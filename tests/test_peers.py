"""Agreement with pytorch-grad-cam and captum, where they implement the same formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import residual_net

from models import images
from onnxcam import Explainer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
CLASS = 3


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Any:
    """A small residual network in torch, its feature-map layer, a picture, and its ONNX file."""
    x = images(2, 3, 32, 40)
    path = tmp_path_factory.mktemp("peers") / "net.onnx"
    model = residual_net(path, root, x)
    return model, model[1], x, path


def agree(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-4) -> None:
    assert got.shape == want.shape
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= tolerance, f"off by {worst:.1e} of the largest"


SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "grad-cam": ("GradCAM", {}),
    "hires-cam": ("HiResCAM", {}),
    "layer-cam": ("LayerCAM", {}),
    "xgrad-cam": ("XGradCAM", {}),
    "shapley-cam": ("ShapleyCAM", {}),
    "ablation-cam": ("AblationCAM", {}),
}


@pytest.mark.parametrize("method", [*SAME, "eigen-cam", "eigengrad-cam"])
def test_pytorch_grad_cam(net: Any, method: str) -> None:
    peer = pytest.importorskip("pytorch_grad_cam")
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, layer, x, path = net
    eigen = {"eigen-cam": "EigenCAM", "eigengrad-cam": "EigenGradCAM"}
    cam = getattr(peer, SAME[method][0] if method in SAME else eigen[method])(model, [layer])
    targets = [ClassifierOutputTarget(CLASS)] * len(x)
    tensor = torch.tensor(x, requires_grad=True)
    outputs = cam.activations_and_grads(tensor)
    cam.outputs = outputs
    loss = sum(target(output) for target, output in zip(targets, outputs, strict=True))
    loss.backward(retain_graph=True, create_graph=cam.detach is False)

    def array(values: Any) -> Any:
        return values.detach().numpy() if cam.detach else values

    (acts,) = (array(a) for a in cam.activations_and_grads.activations[:1])
    (grads,) = (array(g) for g in cam.activations_and_grads.gradients[:1])
    want = cam.get_cam_image(tensor, layer, targets, acts, grads, False)
    want = np.asarray(want.detach() if hasattr(want, "detach") else want)
    options = {"centre": "yes"} if method in eigen else {}
    got = Explainer(path, method, provider="cpu", **options)(x, CLASS).raw
    if method in eigen:  # theirs has an arbitrary sign
        signs = np.sign((got * want).sum((1, 2), keepdims=True))
        want = want * signs
    agree(got, want)


def test_pytorch_grad_cam_guided(net: Any) -> None:
    pytest.importorskip("pytorch_grad_cam")
    import torch
    from pytorch_grad_cam import GuidedBackpropReLUModel

    model, _, x, path = net
    guided = GuidedBackpropReLUModel(model=model, device="cpu")
    want = np.stack([guided(torch.tensor(one[None]), target_category=CLASS) for one in x])
    got = Explainer(path, "guided-backprop", provider="cpu")(x, CLASS).raw
    agree(got, want.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("saliency", {}),
        ("input-x-gradient", {}),
        ("integrated-gradients", {"steps": 16}),
        ("guided-backprop", {}),
        ("deconvnet", {}),
        ("grad-cam", {}),
    ],
)
def test_captum(net: Any, method: str, options: dict[str, Any]) -> None:
    attr = pytest.importorskip("captum.attr")
    import torch

    model, layer, x, path = net
    tensor = torch.tensor(x)
    if method == "grad-cam":
        want = attr.LayerGradCam(model, layer).attribute(tensor, CLASS)[:, 0]
    else:
        name = {
            "saliency": "Saliency",
            "input-x-gradient": "InputXGradient",
            "integrated-gradients": "IntegratedGradients",
            "guided-backprop": "GuidedBackprop",
            "deconvnet": "Deconvolution",
        }[method]
        extra: dict[str, Any] = {"abs": False} if method == "saliency" else {}
        if method == "integrated-gradients":
            extra = {"n_steps": options["steps"], "method": "riemann_middle"}
        want = getattr(attr, name)(model).attribute(tensor, target=CLASS, **extra)
    got = Explainer(path, method, provider="cpu", **options)(x, CLASS).raw
    agree(got, want.detach().numpy())


def test_onnx_files_do_not_change(net: Any) -> None:
    """Guided backpropagation in a framework swaps modules; here the file stays as it was."""
    *_, x, path = net
    before = path.read_bytes()
    explainer = Explainer(path, provider="cpu")
    plain = explainer(x, CLASS).scores
    Explainer(path, "guided-backprop", provider="cpu")(x, CLASS)
    assert path.read_bytes() == before
    assert (explainer(x, CLASS).scores == plain).all()

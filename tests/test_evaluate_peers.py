"""Metrics agree with Quantus, captum and pytorch-grad-cam where these have the same formula.

Each of them asks the network in torch, ours its ONNX file. What differs by definition (a fill, an
order, a scale) is set alike here and told in docs/evaluate.md under "Against other libraries".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import residual_net

from models import images
from onnxcam import Explainer
from onnxcam.evaluate.impute import linear
from onnxcam.evaluate.metrics import METRICS, area
from onnxcam.evaluate.places import TOLERANCE
from onnxcam.evaluate.probes import ROAD_SHARES, probe, subsets
from onnxcam.evaluate.similarity import rank_correlation, scaled, ssim
from onnxcam.evaluate.trial import Trial, View
from onnxcam.image import Geometry

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
CLASS, HEIGHT, WIDTH, STEPS = 3, 36, 40, 24
QUIET = {"disable_warnings": True, "display_progressbar": False, "return_aggregate": False}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Any:
    """The network in torch, pictures of mean 0 in every channel, an explainer of the ONNX file."""
    x = images(4, 3, HEIGHT, WIDTH) + 3 * np.kron(images(4, 3, 6, 5, seed=2), np.ones((6, 8)))
    x = (x - x.mean(axis=(2, 3), keepdims=True)).astype(np.float32)
    path = tmp_path_factory.mktemp("peers") / "net.onnx"
    model = residual_net(path, root, x, spread=2.0)
    return model, x, Explainer(path, "grad-cam", provider="cpu", threads=1)


def fixed_map(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A map (height, width) from 0 to 1 with warm places, no two cells alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    warm = sum(
        np.exp(-((y - a * height) ** 2 + (x - b * width) ** 2) / 60) for a, b in rng.random((3, 2))
    )
    values = warm + 0.1 * rng.random((height, width))
    return np.asarray(values / values.max(), np.float32)


def trial(
    x: np.ndarray, heat: np.ndarray, explainer: Any = None, target: int = CLASS, **more: Any
) -> Trial:
    """A trial of a class on one picture, black being 0."""
    height, width = x.shape[1:]
    whole = Geometry((0, 0, width, height), (height, width), (0, 0), (height, width))
    logit, probability = (
        (0.0, 0.0) if explainer is None else (s[0, target] for s in explainer.scores(x[None]))
    )
    view = View(
        x, np.zeros_like(x), float(logit), float(probability), (height, width), whole, **more
    )
    return Trial(view, heat)


def measured(one: Trial, explainer: Any, name: str, target: int = CLASS) -> float:
    """A metric whose altered pictures the model is asked about."""
    for key in METRICS[name].probes:
        altered = probe(key, STEPS)(one)
        logits, probabilities = explainer.scores(altered.astype(np.float32))
        one.judged[key] = logits[:, target], probabilities[:, target]
    value = METRICS[name].measure(one)
    assert value is not None
    return value


def agree(got: Any, want: Any, tolerance: float = CLOSE) -> None:
    """Within the tolerance of each other, and not for want of anything to tell apart."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape and np.isfinite(got).all()
    assert np.ptp(want) > 20 * tolerance, want
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def quantus() -> Any:
    return pytest.importorskip("quantus", reason="pip install --no-deps quantus")


def heats(count: int) -> np.ndarray:
    return np.stack([fixed_map(seed) for seed in range(count)])


def of(metric: Any, net: Any, maps: np.ndarray, **more: Any) -> Any:
    """What Quantus says of maps (N, H, W) of the pictures."""
    model, x, _ = net
    given: dict[str, Any] = {"channel_first": True, "device": "cpu"} | more
    classes = np.full(len(x), CLASS)
    return metric(model=model, x_batch=x, y_batch=classes, a_batch=maps[:, None], **given)


# Quantus


@pytest.mark.parametrize(("name", "theirs"), [("complexity", "Complexity"),
                                              ("sparseness", "Sparseness")])  # fmt: skip
def test_quantus_complexity(net: Any, name: str, theirs: str) -> None:
    _, x, _ = net
    signed = np.sin(9 * heats(4)).astype(np.float32) * heats(4) ** np.arange(1, 5)[:, None, None]
    for maps in (heats(4) ** np.arange(1, 5)[:, None, None], signed):
        metric = getattr(quantus(), theirs)(abs=True, normalise=False, **QUIET)
        want = of(metric, net, maps.copy())
        agree([METRICS[name].measure(trial(x[0], one)) for one in maps], want)


def object_at(seed: int) -> np.ndarray:
    """A mask (H, W) of one box."""
    y, x = np.random.default_rng(seed).integers(0, (HEIGHT - 8, WIDTH - 8))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + 8, x : x + 6] = True
    return mask


def within(mask: np.ndarray, reach: int) -> np.ndarray:
    """The pixels no further than that from the object."""
    places, every = np.argwhere(mask), np.indices(mask.shape).reshape(2, -1).T
    near = ((every[:, None] - places[None]) ** 2).sum(-1).min(1) <= reach**2
    return np.asarray(near.reshape(mask.shape))


def test_quantus_places(net: Any) -> None:
    model, x, _ = net
    maps, masks = heats(40), np.stack([object_at(seed) for seed in range(40)])
    many = np.broadcast_to(x[:1], (40, *x.shape[1:]))
    trials = [trial(x[0], m, mask=mask) for m, mask in zip(maps, masks, strict=True)]
    given: dict[str, Any] = {
        "model": model, "x_batch": many, "y_batch": np.full(40, CLASS), "a_batch": maps[:, None],
        "channel_first": True, "device": "cpu",
    }  # fmt: skip
    near = np.stack([within(mask, TOLERANCE) for mask in masks])
    want = quantus().PointingGame(**QUIET)(**given, s_batch=near[:, None])
    got = [METRICS["pointing"].measure(one) for one in trials]
    agree(got, 100.0 * np.asarray(want, float))
    want = quantus().RelevanceMassAccuracy(normalise=False, **QUIET)(
        **given, s_batch=masks[:, None]
    )
    agree([METRICS["energy"].measure(one) for one in trials], 100 * np.asarray(want))
    hottest = [
        (one.hottest(0.05) & mask).sum() / 72 for one, mask in zip(trials, masks, strict=True)
    ]
    want = quantus().TopKIntersection(k=72, **QUIET)(**given, s_batch=masks[:, None])
    agree(hottest, want)


def test_quantus_pixel_flipping_is_deletion(net: Any) -> None:
    _, x, explainer = net
    maps = heats(4)
    flipping = {"features_in_step": 3 * HEIGHT * WIDTH // STEPS, "normalise": False}
    metric = quantus().PixelFlipping(perturb_baseline=0.0, **flipping, **QUIET)
    after = np.array(of(metric, net, maps, softmax=True))
    trials = [trial(one, m, explainer) for one, m in zip(x, maps, strict=True)]
    got = [measured(one, explainer, "deletion-mean") for one in trials]
    whole = np.array([[one.view.probability] for one in trials])
    agree([one.judged["deletion-mean"][1] for one in trials], np.hstack([whole, after]))
    agree(got, [area(row) for row in np.hstack([whole, after])])


def test_quantus_pixel_flipping_of_an_empty_picture_is_insertion(net: Any) -> None:
    model, x, explainer = net
    maps, empty = heats(4), np.zeros_like(x)

    def put_in(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        found, rows = arr.copy(), np.arange(len(arr))[:, None]
        found[rows, indices] = x.reshape(len(x), -1)[rows, indices]
        return found

    flipping = {"features_in_step": 3 * HEIGHT * WIDTH // STEPS, "normalise": False}
    metric = quantus().PixelFlipping(perturb_func=put_in, **flipping, **QUIET)
    after = np.array(of(metric, (model, empty, explainer), maps, softmax=True))
    trials = [trial(one, m, explainer) for one, m in zip(x, maps, strict=True)]
    got = [measured(one, explainer, "insertion-mean") for one in trials]
    curves = np.array([one.judged["insertion-mean"][1] for one in trials])
    agree(curves[:, 1:], after)
    agree(got, [area(row) for row in np.hstack([curves[:, :1], after])])


def test_quantus_faithfulness_correlation_is_sensitivity_n(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, x, explainer = net
    maps = heats(4)
    drawn = subsets(trial(x[0], maps[0]))
    chosen = [np.flatnonzero(np.broadcast_to(cells, x.shape[1:])) for cells in drawn]

    def choices() -> Iterator[np.ndarray]:
        for one in chosen:
            for _ in x:
                yield one

    left = choices()
    trials = [trial(one, m, explainer) for one, m in zip(x, maps, strict=True)]
    got = [measured(one, explainer, "sensitivity-n") for one in trials]
    metric = quantus().FaithfulnessCorrelation(
        nr_runs=len(chosen), perturb_baseline=0.0, normalise=False, **QUIET
    )
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(left))
    agree(got, of(metric, net, maps, softmax=False))


def noise(x: np.ndarray) -> np.ndarray:
    """Eight draws for each picture, (8, N, C, H, W), louder from one picture to the next."""
    drawn = np.random.default_rng(8).uniform(-0.3, 0.3, (8, *x.shape))
    return (drawn * np.arange(1, len(x) + 1)[:, None, None, None]).astype(np.float32)


def max_sensitivities(net: Any) -> list[float | None]:
    _, x, explainer = net
    found = []
    for i, one in enumerate(x):
        own = trial(one, explainer(one[None], CLASS).raw[0])
        own.again = explainer(one + noise(x)[:, i], CLASS).raw
        found.append(METRICS["max-sensitivity"].measure(own))
    return found


def test_quantus_max_sensitivity(net: Any) -> None:
    _, x, _ = net
    attr = pytest.importorskip("captum.attr")
    import torch

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        maps = attr.LayerGradCam(model, model[1]).attribute(torch.tensor(inputs), CLASS)
        return np.kron(maps.detach(), np.ones((4, 4)))  # it takes maps as large as the picture

    draws = iter(noise(x))

    def disturbed(arr: np.ndarray, indices: Any, **_: Any) -> np.ndarray:
        return arr + next(draws).reshape(arr.shape)

    metric = quantus().MaxSensitivity(nr_samples=8, perturb_func=disturbed, **QUIET)
    maps = explain(net[0], x, None)[:, 0]
    agree(max_sensitivities(net), of(metric, net, maps, explain_func=explain))


def test_quantus_fills_as_road_does(net: Any) -> None:
    fill = pytest.importorskip("quantus.functions.perturb_func").noisy_linear_imputation
    _, x, _ = net
    for share in ROAD_SHARES:
        removed = trial(x[0], fixed_map(5)).hottest(share)
        want = fill(x[0].astype(np.float64), np.flatnonzero(removed), noise=0.0)
        agree(linear(x[0], removed), want)


def test_quantus_similarities() -> None:
    theirs = pytest.importorskip("quantus.functions.similarity_func")
    a, b = (
        np.stack([fixed_map(i) for i in range(5)]),
        np.stack([fixed_map(i) for i in range(5, 10)]),
    )
    pairs = list(zip(a, b, strict=True))
    want = [theirs.correlation_spearman(one.ravel(), other.ravel()) for one, other in pairs]
    agree([rank_correlation(*pair) for pair in pairs], want)
    want = [theirs.ssim(*(scaled(m.astype(np.float64)) for m in pair)) for pair in pairs]
    agree([ssim(*pair) for pair in pairs], want)


# captum


def test_captum_sensitivity_max(net: Any) -> None:
    attr, metrics = (pytest.importorskip(f"captum.{name}") for name in ("attr", "metrics"))
    import torch

    model, x, _ = net
    draws = torch.tensor(noise(x).swapaxes(0, 1).reshape(-1, *x.shape[1:]))
    want = metrics.sensitivity_max(
        lambda inputs, target: (attr.LayerGradCam(model, model[1]).attribute(inputs, target),),
        torch.tensor(x),
        lambda inputs: inputs + draws,
        n_perturb_samples=8,
        target=CLASS,
    )
    agree(max_sensitivities(net), want.detach())


# pytorch-grad-cam


def cam_metric(
    metric: Any, net: Any, maps: np.ndarray, target: int = CLASS, score: bool = False, **more: Any
) -> Any:
    import torch
    from pytorch_grad_cam.utils import model_targets as targets

    kind = targets.ClassifierOutputTarget if score else targets.ClassifierOutputSoftmaxTarget
    model, x, _ = net
    return metric(torch.tensor(x), maps, [kind(target)] * len(x), model, **more)


@pytest.mark.parametrize("score", [False, True])
def test_pytorch_grad_cam_drop_and_increase(net: Any, score: bool) -> None:
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    _, x, explainer = net
    suffix, maps = "-score" if score else "", heats(4)
    drops, rises = [], []
    for target in range(6):
        drop = cam_metric(theirs.DropInConfidence(), net, maps, target, score)
        rise = cam_metric(theirs.IncreaseInConfidence(), net, maps, target, score)
        for one, m, absolute, risen in zip(x, maps, drop, rise, strict=True):
            own = trial(one, m, explainer, target)
            before = own.view.logit if score else own.view.probability
            if before > 0:
                got = measured(own, explainer, f"drop-soft{suffix}", target)
                drops.append((got * before / 100, absolute))
            got = measured(own, explainer, f"increase-soft{suffix}", target)
            rises.append((got / 100, risen))
    agree(*zip(*drops, strict=True))
    agree(*zip(*rises, strict=True))


def test_pytorch_grad_cam_fills_as_road_does(net: Any) -> None:
    imputer = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    import torch

    _, x, _ = net
    for share in ROAD_SHARES:
        kept = ~trial(x[0], fixed_map(5)).hottest(share)
        want = imputer(torch.tensor(x[0]), torch.tensor(kept.astype(np.float32)))
        agree(linear(x[0], ~kept), want)


def test_pytorch_grad_cam_road(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.road")
    import torch

    _, x, explainer = net
    maps = heats(4)
    trials = [trial(one, m, explainer) for one, m in zip(x, maps, strict=True)]

    class Imputer(theirs.NoisyLinearImputer):  # type: ignore[misc]
        """Theirs, with the noise that ours draws for the picture."""

        def __call__(self, img: Any, mask: Any) -> Any:
            (view,) = (one.view for one in trials if (one.view.x == img.numpy()).all())
            self.noise = view.noise
            drawn = view.rng().standard_normal(img.shape)[:, mask.numpy() == 0]
            monkeypatch.setattr(torch, "randn_like", lambda _: torch.tensor(drawn).float())
            return super().__call__(img, mask)

    monkeypatch.setattr(theirs, "NoisyLinearImputer", Imputer)
    kept = [100 - 100 * share for share in ROAD_SHARES]
    before = np.array([one.view.probability for one in trials])
    most = cam_metric(theirs.ROADMostRelevantFirstAverage(kept), net, maps)
    least = cam_metric(theirs.ROADLeastRelevantFirstAverage(kept), net, maps)
    both = cam_metric(theirs.ROADCombined(kept), net, maps)
    for kind, want in {"most": before + most, "least": before + least, "both": both}.items():
        agree([measured(one, explainer, f"road-{kind}") for one in trials], want)

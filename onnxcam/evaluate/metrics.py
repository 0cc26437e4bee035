"""The metric table: what is measured of an explanation, by which formula, after which paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxcam.errors import OptionError, close_matches
from onnxcam.evaluate.metric import Measure, Metric
from onnxcam.evaluate.places import PLACES
from onnxcam.evaluate.probes import ROAD_SHARES, subsets
from onnxcam.evaluate.trial import Trial

CURVES = {"insertion", "deletion", "most", "least"}


def _kept(trial: Trial, probe: str, score: bool) -> tuple[float, float]:
    """The class before and after: Y and O of the papers."""
    logits, probabilities = trial.judged[probe]
    view = trial.view
    if score:
        return view.logit, float(logits[0])
    return view.probability, float(probabilities[0])


def _drop(probe: str, score: bool) -> Measure:
    def measure(trial: Trial) -> float | None:
        before, after = _kept(trial, probe, score)
        return None if before <= 0 else 100 * max(0.0, before - after) / before

    return measure


def _increase(probe: str, score: bool) -> Measure:
    def measure(trial: Trial) -> float | None:
        before, after = _kept(trial, probe, score)
        return 100.0 * (after > before)

    return measure


def area(values: np.ndarray, shares: np.ndarray | None = None) -> float:
    """The area under a curve over shares from 0 to 1, by trapezoids."""
    at = np.linspace(0, 1, len(values)) if shares is None else shares
    return float(np.trapezoid(values, at) / (at[-1] - at[0]))


def _curve(probe: str) -> Measure:
    return lambda trial: area(trial.judged[probe][1])


def _road(how: str, both: str) -> Measure:
    def measure(trial: Trial) -> float:
        most, least = (float(trial.judged[f"{kind}-{how}"][1].mean()) for kind in ("most", "least"))
        return {"most": most, "least": least, "both": (least - most) / 2}[both]

    return measure


def _sensitivity_n(trial: Trial) -> float | None:
    """Correlation of what subsets hold of the map with what their removal takes off the logit."""
    held = (subsets(trial) * trial.heat).sum(axis=(1, 2))
    lost = trial.view.logit - trial.judged["subsets"][0]
    if held.std() == 0 or lost.std() == 0:
        return None
    return float(np.corrcoef(held, lost)[0, 1])


def _max_sensitivity(trial: Trial) -> float | None:
    size = float(np.linalg.norm(trial.map))
    if trial.again is None or size == 0:
        return None
    off = trial.again.astype(np.float64) - trial.map
    return float(np.sqrt((off**2).sum(axis=(1, 2))).max() / size)


def _complexity(trial: Trial) -> float | None:
    """Entropy of the shares that the cells of the map have in all of it."""
    values = np.abs(trial.map.astype(np.float64)).reshape(-1)
    if not values.sum():
        return None
    shares = values[values > 0] / values.sum()
    return float(-(shares * np.log(shares)).sum())


def _sparseness(trial: Trial) -> float | None:
    """The Gini index of the map's values."""
    values = np.sort(np.abs(trial.map.astype(np.float64)).reshape(-1))
    if not values.sum():
        return None
    count = len(values)
    ranks = np.arange(1, count + 1)
    return float(1 - 2 * ((values / values.sum()) * (count - ranks + 0.5) / count).sum())


GRAD_CAM_PP = "Chattopadhay et al., Grad-CAM++, WACV 2018, Sec. 5.1"
ABLATION = "Desai & Ramaswamy, Ablation-CAM, WACV 2020"
RISE = "Petsiuk et al., RISE, BMVC 2018, Sec. 4.2"
ROAD = "Rong et al., ROAD, ICML 2022, Sec. 4"


def _of_papers() -> list[Metric]:
    rows = []
    ways = {f"kept-{share}": (str(share), f"top {share} % of pixels kept, the rest black")
            for share in (20, 30, 50)}  # fmt: skip
    ways["soft"] = ("soft", "every pixel times the map, L∘I")
    for score, of, y in ((False, "", "the class's probability"), (True, "-score", "its logit")):
        for probe, (name, how) in ways.items():
            source = GRAD_CAM_PP if name == "soft" else ABLATION
            what = f"{'activation score' if score else 'confidence'}, {how}"
            rows += [
                Metric(
                    f"drop-{name}{of}", f"Average Drop % ({what})", "less", _drop(probe, score),
                    f"100 · max(0, Y − O) / Y, Y being {y} for the picture, O for what the map "
                    "keeps; pictures with Y ≤ 0 have none", source, (probe,), "%",
                ),
                Metric(
                    f"increase-{name}{of}", f"% Increase ({what})", "more", _increase(probe, score),
                    f"100 · [Y < O], Y being {y}", source, (probe,), "%",
                ),
            ]  # fmt: skip
    return rows


def _curves() -> list[Metric]:
    rows = []
    fills = {
        "blur": "a blur",
        "mean": "the mean colour",
        "linear": "linear fills",
        "noisy-linear": "noisy linear fills",
    }
    for how, said in fills.items():
        for kind, better in (("insertion", "more"), ("deletion", "less")):
            verb = "put in" if kind == "insertion" else "taken away"
            rows.append(Metric(
                f"{kind}-{how}", f"{kind.capitalize()} AUC ({said})", better,
                _curve(f"{kind}-{how}"), "area under the class's probability while the hottest "
                f"pixels are {verb} first; in their place {said}", RISE, (f"{kind}-{how}",),
            ))  # fmt: skip
    probes = ("most-noisy-linear", "least-noisy-linear")
    at = ", ".join(f"{100 * share:g}" for share in ROAD_SHARES)
    for both, title, better in (
        ("most", "ROAD, most relevant first", "less"),
        ("least", "ROAD, least relevant first", "more"),
        ("both", "ROAD, (least − most) / 2", "more"),
    ):
        rows.append(Metric(
            f"road-{both}", title, better, _road("noisy-linear", both),
            f"mean probability of the class with {at} % of the pixels removed by noisy linear "
            "imputation", ROAD, probes,
        ))  # fmt: skip
    return rows


_ROWS = [
    *_of_papers(),
    *_curves(),
    Metric(
        "sensitivity-n", "Sensitivity-n (correlation)", "more", _sensitivity_n,
        "correlation, over random halves of a 14×14 grid, of the heat in a half with what blacking "
        "it takes off the logit", "Ancona et al., ICLR 2018, Sec. 3.2", ("subsets",),
    ),
    Metric(
        "max-sensitivity", "Max-Sensitivity", "less", _max_sensitivity,
        "largest ‖map(x + δ) − map(x)‖ / ‖map(x)‖ for uniform noise δ within 2 % of the input's "
        "range", "Yeh et al., NeurIPS 2019, Def. 2.2", again=True,
    ),
    Metric(
        "complexity", "Complexity (entropy)", "less", _complexity,
        "entropy of the shares that cells have in the map", "Bhatt et al., IJCAI 2020, Sec. 2.3",
    ),
    Metric(
        "sparseness", "Sparseness (Gini)", "more", _sparseness,
        "Gini index of the map's values", "Chalasani et al., ICML 2020, Sec. 5",
    ),
    *PLACES,
]  # fmt: skip
METRICS: Mapping[str, Metric] = {row.name: row for row in _ROWS}
DEFAULTS = (
    *("drop-soft", "increase-soft", "drop-20", "drop-30", "drop-50", "increase-20"),
    *("increase-30", "increase-50", "drop-soft-score", "increase-soft-score", "insertion-blur"),
    *("deletion-mean", "sparseness", "pointing", "energy", "iou-25", "iou-50", "maxboxacc-v1"),
    *("maxboxacc-v2", "discrimination-share", "discrimination-mean"),
)


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """The rows that are named, each once: by name, by group ("drop"), or "all".

    Raises:
        OptionError: nothing has that name.
    """
    found: dict[str, Metric] = {}
    for name in names:
        rows = [m for m in METRICS.values() if name in (m.name, m.group, "all")]
        if not rows:
            groups = dict.fromkeys(m.group for m in METRICS.values())
            raise OptionError(
                f"there is no metric {name!r}{close_matches(name, [*METRICS, *groups])}; "
                f"kinds are {', '.join(groups)}, or all"
            )
        found |= {m.name: m for m in rows}
    return list(found.values())

"""The saturation case: the numbers of its page, and its picture."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def saturation(root: Path) -> Any:
    """The tool that makes the picture."""
    spec = importlib.util.spec_from_file_location("saturation", root / "tools" / "saturation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_tells_the_truth(saturation: Any, root: Path) -> None:
    page = (root / "docs" / "saturation.md").read_text("utf-8")
    found = saturation.cases()
    for method, case in found.items():
        peaks = [float(one.of().max()) for one in case]
        shown = [f"{peaks[0]:.3g}", f"{peaks[1]:.3g}" if peaks[1] > 1e-3 else f"{peaks[1]:.7f}"]
        left = "0.01 %" if case.left < 0.01 else f"{case.left * 100:.0f} %"
        assert f"| {saturation.METHODS[method]} | {shown[0]} | {shown[1]} | {left} |" in page
    assert found["grad-cam"].left < 2e-4 and found["ablation-cam"].left > 0.7
    logit, probability = found["grad-cam"]
    p = float(probability.target_score.item())
    assert np.allclose(probability.raw, logit.raw * p * (1 - p), rtol=1e-2)
    assert found["ablation-cam"].probability.weights.max() > 0.94


def test_the_page_tells_where_ablation_fades_too(saturation: Any, root: Path) -> None:
    page = (root / "docs" / "saturation.md").read_text("utf-8")
    found = saturation.cases(*saturation.SHARED)
    table = page.split("heart, p = 0.99991")[1]
    for method, case in found.items():
        title = saturation.METHODS[method]
        row = re.search(rf"^\| {title} \| (\S+) \| (\S+) \| (\S+) % \|$", table, re.M)
        assert row is not None
        shown = [float(number) for number in row.groups()]
        peaks = [float(one.of().max()) for one in case]
        assert shown == pytest.approx([*peaks, 100 * case.left], rel=0.05)
    p = float(found["grad-cam"].probability.target_score.item())
    assert p == pytest.approx(0.99991, abs=1e-5)
    assert found["ablation-cam"].probability.weights.max() < 0.0004
    assert found["ablation-cam"].left < 0.01 and found["grad-cam"].left < found["ablation-cam"].left


def test_the_sheet_is_drawn(saturation: Any, tmp_path: Path) -> None:
    image = saturation.sheet(saturation.cases())
    assert image.width > 600 and image.height > 400

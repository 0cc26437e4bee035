"""The chain from image to score: its sections, branches, repeats, and where the model is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

import models
import onnxcam
from models import LIGHT, tiny, weight
from onnxcam.graph.chain import Chain, Run, chain_of

BLOCK = (
    " c{n} = Conv <pads = [1, 1, 1, 1]> (a{m}, k) d{n} = Relu(c{n})"
    " e{n} = Conv <pads = [1, 1, 1, 1]> (d{n}, k) s{n} = Add(e{n}, a{m}) a{n} = Relu(s{n})"
)


def residual(blocks: int) -> onnxcam.graph.Classifier:
    """A stem `a0`, residual blocks `a1` …, mean and dense layer."""
    body = "c0 = Conv <pads = [1, 1, 1, 1]> (x, w) a0 = Relu(c0)"
    body += "".join(BLOCK.format(n=n, m=n - 1) for n in range(1, blocks + 1))
    body += f" g = GlobalAveragePool(a{blocks}) f = Flatten(g) z = Gemm(f, v) y = Softmax(z)"
    weights = {"w": weight(4, 3, 3, 3), "k": weight(4, 4, 3, 3), "v": weight(4, 5)}
    return onnxcam.load(models.model(body, weights))


def drawn(chain: Chain) -> list[tuple[int, list[str]]]:
    """Each run: its times, and a line for each section: branches | steps → tensor."""

    def section(run: Run) -> list[str]:
        lines = []
        for one in run.sections:
            parts = []
            for stretch in one.stretches:
                parts += [" ".join(s.op for s in b) + " |" for b in stretch.branches]
                parts += ["around |"] * stretch.around
                parts += [s.op for s in stretch.steps]
            lines.append(f"{' '.join(parts)} → {one.end.tensor}")
        return lines

    return [(run.times, section(run)) for run in chain.runs]


STEM, HEAD = (1, ["Conv Relu → a0"]), (1, ["GlobalAveragePool Flatten Gemm → z"])
RESIDUAL = "Conv Relu Conv | around | Add Relu → a"


def test_blocks_that_repeat_are_folded() -> None:
    classifier = residual(5)
    chain = chain_of(classifier, classifier.default)
    assert drawn(chain) == [STEM, (5, [f"{RESIDUAL}5"]), HEAD]
    assert chain.image == ("x", ("N", 3, 6, 5))
    assert [s.op for s in chain.final] == ["Softmax"]
    end = chain.runs[1].sections[-1].end
    assert (end.tensor, end.position, end.split, end.shape) == ("a5", -1, True, ("N", 4, 6, 5))


def test_a_cut_in_the_middle_is_not_folded_away() -> None:
    classifier = residual(5)
    chain = chain_of(classifier, classifier.layer("a2"))
    assert drawn(chain) == [STEM, (2, [f"{RESIDUAL}2"]), (3, [f"{RESIDUAL}5"]), HEAD]
    ends = [s.end.tensor for run in chain.runs for s in run.sections if s.end.split]
    assert ends == ["a2"]


def test_a_cut_within_a_section_divides_it() -> None:
    chain = chain_of(residual(1), residual(1).layer("s1"))
    assert drawn(chain)[1:3] == [
        (1, ["Conv Relu Conv | around | Add → s1"]),
        (1, ["Relu → a1"]),
    ]


def test_a_cut_in_a_branch_is_marked_there() -> None:
    classifier = residual(3)
    chain = chain_of(classifier, classifier.layer("d2"))
    assert [run.times for run in chain.runs] == [1, 1, 1, 1, 1]
    (branch,) = chain.runs[2].sections[0].stretches[0].branches
    assert [s.tensor for s in branch if s.split] == ["d2"]


def test_every_node_of_the_path_is_there_once() -> None:
    classifier = residual(3)
    chain = chain_of(classifier, None)
    assert chain.split is None
    count = sum(r.times * len(s.every()) for r in chain.runs for s in r.sections)
    assert count == 2 + 3 * 5 + 3


def test_an_activation_written_out_is_no_branch() -> None:
    proto = models.model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) q = Sigmoid(p) a = Mul(p, q)"
        " g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v)",
        {"w": weight(4, 3, 3, 3), "v": weight(4, 5)},
    )
    classifier = onnxcam.load(proto)
    chain = chain_of(classifier, classifier.default)
    assert drawn(chain)[0] == (1, ["Conv Sigmoid Mul → a"])


def test_the_tensor_that_goes_on_is_named_where_a_node_gives_several() -> None:
    proto = models.model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) u, a = Split <axis = 1, num_outputs = 2> (p)"
        " r = Relu(a) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, v)",
        {"w": weight(4, 3, 3, 3), "v": weight(2, 5)},
    )
    chain = chain_of(onnxcam.load(proto), None)
    names = [s.tensor for r in chain.runs for one in r.sections for s in one.every()]
    assert names == ["p", "a", "r", "g", "f", "y"]


def test_no_feature_map_no_cut() -> None:
    classifier = onnxcam.load(models.model("f = Flatten(x) y = Gemm(f, v)", {"v": weight(90, 5)}))
    chain = chain_of(classifier, classifier.default)
    assert drawn(chain) == [(1, ["Flatten Gemm → y"])]


def test_the_little_model() -> None:
    classifier = onnxcam.load(tiny())
    assert drawn(chain_of(classifier, classifier.default)) == [
        (1, ["Conv Relu → a"]),
        (1, ["GlobalAveragePool Flatten Gemm → y"]),
    ]


@pytest.mark.parametrize(
    ("file", "times"),
    [
        ("light_resnet50", [1, 1, 1, 2, 1, 3, 1, 5, 1, 2, 1]),
        ("light_densenet121", [1, 1, 6, 1, 1, 12, 1, 1, 24, 1, 1, 16, 1, 1]),
        ("light_inception_v1", [1, 1, 1, 2, 1, 5, 1, 2, 1]),
    ],
)
def test_large_models_fit_on_a_page(file: str, times: list[int]) -> None:
    classifier = onnxcam.load(LIGHT / f"{file}.onnx")
    assert [r.times for r in chain_of(classifier, classifier.default).runs] == times


def test_a_transformer_is_cut_within_its_last_block(goldens: Path) -> None:
    classifier = onnxcam.load(goldens / "tiny_vit/ts17.onnx")
    assert classifier.default is not None
    chain = chain_of(classifier, classifier.default)
    assert [(r.times, len(r.sections)) for r in chain.runs if r.times > 1] == [(2, 2)]
    inside = [s for r in chain.runs for one in r.sections for s in one.every() if s.split]
    assert [s.tensor for s in inside] == [classifier.default.tensor]

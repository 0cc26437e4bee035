"""The rules for operators that weigh, move, gather and pool: ties, second gradients, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import vjp_structural
from gradcheck import Spec, check_again, gradient_model, node_model
from onnx.reference import ReferenceEvaluator
from vjp_windows import apart, i, x

from models import session
from onnxcam.errors import OpError

SMALL = [s for s in vjp_structural.SPECS if s.evaluator and (s.inputs[0].size <= 64)]
FIRST = list({(s.op, s.constant): s for s in reversed(SMALL)}.values())
"""A row of each operator, with computed and with constant weights."""

RAN_OUT = {"GlobalLpPool"}
"""Operators that the evaluator does not know."""


def test_every_operator_has_a_row_that_is_differentiated_twice() -> None:
    assert {s.op for s in FIRST} == {s.op for s in vjp_structural.SPECS} - RAN_OUT


@pytest.mark.parametrize("spec", FIRST, ids=lambda s: s.id)
def test_gradients_have_gradients(spec: Spec) -> None:
    check_again(spec)


def gradient(op: str, image: np.ndarray, **attributes: object) -> np.ndarray:
    """The gradient of the sum of the outputs, by ONNX Runtime."""
    proto = node_model(op, [image.astype(np.float32)], attributes)
    ran = session(proto).run(None, {"x0": image.astype(np.float32)})[0]
    feeds = {"x0": image.astype(np.float32), "cotangent": np.ones_like(ran)}
    return np.asarray(session(gradient_model(proto)).run(None, feeds)[0])


def test_of_equal_maxima_the_first_takes_all() -> None:
    image = np.array([[[[1, 1, 2, 3], [0, 1, 3, 3], [4, 5, 0, 0], [5, 5, 0, 0]]]])
    want = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    found = gradient("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2])
    assert found.tolist() == [[want]]
    found = gradient("MaxPool", image, kernel_shape=[4, 4])
    assert found[0, 0].tolist() == [[0] * 4, [0] * 4, [0, 1, 0, 0], [0] * 4]
    assert gradient("GlobalMaxPool", image).tolist() == found.tolist()


def test_a_cell_that_wins_in_many_windows_is_given_all_of_them() -> None:
    image = np.zeros((1, 1, 3, 3))
    image[0, 0, 1, 1] = 1
    assert gradient("MaxPool", image, kernel_shape=[2, 2])[0, 0, 1, 1] == 4
    apart_by_dilation = gradient("MaxPool", np.array([[[0.0, 0, 1, 0, 0]]]), kernel_shape=[2],
                                 strides=[2], dilations=[2])  # fmt: skip
    assert apart_by_dilation.tolist() == [[[0, 0, 2, 0, 0]]]


def test_where_the_norm_is_0_so_is_its_gradient() -> None:
    for op, more in (("LpPool", {"kernel_shape": [2, 2]}), ("GlobalLpPool", {})):
        for p in (1, 2, 3):
            assert not gradient(op, np.zeros((1, 1, 2, 2)), p=p, **more).any()


@pytest.mark.parametrize("reduction", ["mul", "max", "min"])
@pytest.mark.parametrize("op", ["ScatterND", "ScatterElements"])
def test_other_reductions_of_scattered_updates_are_refused(op: str, reduction: str) -> None:
    places, updates = (i([0], [1]), x(2, 3)) if op == "ScatterND" else (i([0, 1, 0]), x(1, 3))
    proto = node_model(op, [x(3, 3), places, updates], {"reduction": reduction})
    with pytest.raises(OpError, match=f"{op} with reduction '{reduction}' has no gradient rule"):
        gradient_model(proto)


@pytest.mark.parametrize(
    ("op", "constants"),
    [
        ("Slice", [i(0), i(1), i(0)]),
        ("Gather", [i(0)]),
        ("Resize", [None, np.float32([2, 1, 1])]),
    ],
)
def test_what_works_along_a_free_batch_is_refused(
    op: str, constants: list[np.ndarray | None]
) -> None:
    given = tuple(k for k, c in enumerate(constants, 1) if c is not None)
    proto = node_model(op, [x(2, 2, 3), *constants], constant=given)
    with pytest.raises(OpError, match=rf"node 'it' \({op}\): .*along the batch"):
        gradient_model(proto, {"x0": ["N", 2, 3]})


def computed(
    op: str, image: np.ndarray, *constants: np.ndarray | None, late: tuple[str, ...] = ("x1", "x2")
) -> onnx.ModelProto:
    """One operator; the constants `late` come when the model runs."""
    proto = node_model(op, [image, *constants])
    for name in late:
        (at,) = (k for k, t in enumerate(proto.graph.initializer) if t.name == name)
        t = proto.graph.initializer.pop(at)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, t.data_type, t.dims))
    return proto


@pytest.mark.parametrize(
    ("starts", "ends"),
    [([1, 0], [3, 4]), ([-2, 1], [9, -1]), ([-9, 3], [2, 2**62]), ([4, 2], [4, 1]),
     ([7, 0], [9, 2])],
)  # fmt: skip
@pytest.mark.parametrize("axes", [(1, 2), (-1, 1), None])
def test_a_slice_with_computed_ends(
    starts: list[int], ends: list[int], axes: tuple[int, int] | None
) -> None:
    rest = [] if axes is None else [i(*axes)]
    image = x(2, 5, 4)
    fixed = node_model("Slice", [image, i(*starts), i(*ends), *rest])
    (y,) = ReferenceEvaluator(fixed).run(None, {"x0": image})
    feeds = {"x0": image, "cotangent": x(*y.shape)}
    (want,) = ReferenceEvaluator(gradient_model(fixed)).run(None, feeds)
    built = gradient_model(
        computed("Slice", image, i(*starts), i(*ends), *rest), constant=("x1", "x2")
    )
    (found,) = ReferenceEvaluator(built).run(None, {**feeds, "x1": i(*starts), "x2": i(*ends)})
    assert np.array_equal(found, want)


def test_computed_ends_with_steps_or_along_the_batch_are_refused() -> None:
    given = (i(0), i(4), i(1))
    with pytest.raises(OpError, match="with steps has no gradient rule where its ends are comp"):
        gradient_model(computed("Slice", x(2, 5, 4), *given, i(2)), constant=("x1", "x2"))
    proto = computed("Slice", x(2, 5, 4), i(0), i(1), i(0))
    with pytest.raises(OpError, match="along the batch, which is free"):
        gradient_model(proto, {"x0": ["N", 5, 4]}, constant=("x1", "x2"))


@pytest.mark.parametrize("given", [(1, 0, 2, 3), (-1, 2, 0, -2), (-2, -1, -2, 0), (3, -1, -1, 1)])
@pytest.mark.parametrize("axes", [(1, 2), (-1, 1), None])
@pytest.mark.parametrize("value", [None, np.array(0.5)])
def test_a_pad_with_computed_widths(
    given: tuple[int, ...], axes: tuple[int, int] | None, value: np.ndarray | None
) -> None:
    image = x(2, 5, 4)
    pads = i(*given) if axes else i(0, *given[:2], 0, *given[2:])
    rest = [value, None if axes is None else i(*axes)]
    fixed = node_model("Pad", [image, pads, *rest])
    feeds = {"x0": image} | ({} if value is None else {"x2": value})
    shape = list(image.shape)
    for axis, low, high in zip(axes or (1, 2), given[:2], given[2:], strict=True):
        shape[axis] += low + high
    feeds["cotangent"] = x(*shape)
    want = ReferenceEvaluator(gradient_model(fixed)).run(None, feeds)
    built = gradient_model(computed("Pad", image, pads, *rest, late=("x1",)), constant=("x1",))
    found = ReferenceEvaluator(built).run(None, {**feeds, "x1": pads})
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_scales_must_be_constant() -> None:
    proto = node_model("Resize", [x(1, 1, 2, 2), None, np.float32([1, 1, 2, 2])])
    with pytest.raises(OpError, match="'x2' must be constant for a gradient"):
        gradient_model(proto)


def test_the_places_of_maxima_are_those_of_the_pool_itself() -> None:
    proto = node_model("MaxPool", [apart(1, 1, 4, 4)], {"kernel_shape": [2, 2], "strides": [2, 2]})
    built = gradient_model(proto)
    assert [n.op_type for n in built.graph.node].count("MaxPool") == 1

"""Rules of the linear operators that mix channels: one run of them serves all units."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxcam.ablate.state import Batch, Delta, Factor, Lane, Outer, State, Walk


def matmul(w: Walk, node: gs.Node, states: list[State]) -> State:
    """x @ y where one side is untouched: linear in the other."""
    (a, b), (x, y) = node.inputs, states
    if (x is None) == (y is None):
        return None
    left = x is not None
    touched, t, other = (x, a, b) if left else (y, b, a)
    assert touched is not None
    rank = len(t.shape)
    if rank < 2 or len(other.shape) < 2:
        return None
    if isinstance(touched, Batch):
        return _rows(w, node, touched, left)
    if isinstance(touched, Delta):
        if w.batch_axis(other) is None:
            return Delta(w.e.MatMul(*((touched.part, other) if left else (other, touched.part))))
        if w.batch_axis(t) != 0:
            return None
        tall = w.unmerge(touched.part, t)
        product = w.e.MatMul(*((tall, other) if left else (other, tall)))
        return Delta(w.e.Reshape(product, w.dims(node.outputs[0])))
    if not isinstance(touched, Lane):
        return None
    summed = rank - 1 if left else rank - 2
    if touched.axis != summed:
        if touched.axis < rank - 2:
            return None
        off = None
        if touched.off is not None:
            off = w.e.MatMul(*((touched.off, other) if left else (other, touched.off)))
        axis = len(node.outputs[0].shape) - (rank - touched.axis)
        return Lane(off, axis, touched.outer, touched.inner)
    part = w.by_unit(w.difference(t, touched), summed, touched)
    across = len(other.shape) - (2 if left else 1)
    slices = w.by_unit(other, across, touched)
    if len(other.shape) < rank:  # align the leading axes behind that of the units
        slices = w.e.axes("Unsqueeze", slices, list(range(1, 1 + rank - len(other.shape))))
    elif len(other.shape) > rank:
        return None
    if touched.outer * touched.inner == 1:
        left, right = (part, slices) if left else (slices, part)
        return Outer(
            _factor(left, node.inputs[0], 2, node), _factor(right, node.inputs[1], 1, node)
        )
    product = w.e.MatMul(*((part, slices) if left else (slices, part)))
    return Delta(w.merge(product, node.outputs[0]))


def _factor(t: gs.Tensor, source: gs.Tensor, kept: int, node: gs.Node) -> Factor:
    """A side of the product with what is summed cut to one element, and where it extends.

    `kept` is the position from the end of the other of its last two axes: rows of the left side,
    columns of the right one.
    """
    shape = list(source.shape)
    shape[-(3 - kept)] = 1
    shape = [1] * (len(node.outputs[0].shape) - len(shape)) + shape
    return Factor(t, tuple(n != 1 for n in shape))


def _rows(w: Walk, node: gs.Node, touched: Batch, left: bool) -> State:
    """Weights of each image times columns, (N, M, F) @ (N, F, 1): one product for an image.

    As it stands it would be one for each image and unit.
    """
    weights, column = node.inputs
    if left or len(column.shape) != 3 or column.shape[2] != 1 or w.batch_axis(weights) != 0:
        return None
    if len(weights.shape) != 3 or w.batch_axis(column) != 0:
        return None
    e = w.e
    tall = e.axes("Squeeze", w.unmerge(touched.full, column), [3])
    product = e.MatMul(e.Transpose(tall, perm=[1, 0, 2]), e.Transpose(weights, perm=[0, 2, 1]))
    return Batch(e.Reshape(e.Transpose(product, perm=[1, 0, 2]), w.dims(node.outputs[0])))


def gemm(w: Walk, node: gs.Node, states: list[State]) -> State:
    """y = alpha · x @ W + beta · c, as the MatMul that it is."""
    x, y = states[0], states[1]
    if y is not None or node.attrs.get("transA", 0) or any(s is not None for s in states[2:]):
        return None
    weight = node.inputs[1]
    if node.attrs.get("transB", 0) and not isinstance(x, Delta):
        shape = list(weight.shape)
        weight = w.e.Transpose(weight, perm=[1, 0])
        if not isinstance(weight, gs.Constant):
            weight.shape = shape[::-1]
    alpha = float(node.attrs.get("alpha", 1.0))
    if isinstance(x, Delta):
        return Delta(
            w.e.Gemm(x.part, weight, **{k: v for k, v in node.attrs.items() if k != "beta"})
        )
    product = gs.Node("MatMul", inputs=[node.inputs[0], weight], outputs=[node.outputs[0].copy()])
    state = matmul(w, product, [x, None])
    product.inputs.clear()
    if alpha != 1.0 and isinstance(state, Outer):
        return Outer(Factor(w.e.Mul(state.left.t, alpha), state.left.full), state.right)
    if alpha != 1.0 and isinstance(state, Delta):
        return Delta(w.e.Mul(state.part, alpha))
    return state if isinstance(state, Delta | Outer) else None


def conv(w: Walk, node: gs.Node, states: list[State]) -> State:
    """A convolution: channel by channel if depthwise, else the sum of one for each channel."""
    x = states[0]
    if any(s is not None for s in states[1:]) or node.inputs[1].shape is None:
        return None
    source, kernel = node.inputs[0], node.inputs[1]
    if isinstance(x, Delta):
        return Delta(w.e.again(node, [x.part, kernel])[0])
    if not isinstance(x, Lane) or (x.axis, x.outer, x.inner) != (1, 1, 1):
        return None
    group = node.attrs.get("group", 1)
    if group == w.units:
        off = w.e.again(node, [w.zeros(source, x), *node.inputs[1:]])[0]
        return Lane(off, 1, 1, kernel.shape[0] // group)
    if group != 1:
        return None
    e, k = w.e, w.units
    out_channels, taps = kernel.shape[0], list(kernel.shape[2:])
    part = w.difference(source, x)
    slices = e.Transpose(kernel, perm=[1, 0, *range(2, 2 + len(taps))])
    if w.chosen is not None:
        part, slices = e.Gather(part, w.chosen, axis=1), e.Gather(slices, w.chosen, axis=0)
        return _conv_blocks(w, node, part, slices)
    slices = e.Reshape(slices, [k * out_channels, 1, *taps])
    apart = e.again(node, [part, slices], group=k)[0]
    grid = node.outputs[0].shape[2:]
    apart = e.Reshape(apart, [0, k, out_channels, *grid])
    return Delta(
        w.merge(e.Transpose(apart, perm=[1, 0, *range(2, 3 + len(grid))]), node.outputs[0])
    )


def _conv_blocks(w: Walk, node: gs.Node, part: gs.Tensor, slices: gs.Tensor) -> State:
    """For a block of units, whose number is not known here, `group` cannot be: 1×1 kernels only."""
    e, attrs = w.e, node.attrs
    kernel, out = node.inputs[1], node.outputs[0]
    if any(n != 1 for n in kernel.shape[2:]) or any(attrs.get("pads", [0])):
        return None
    strides = attrs.get("strides", [1])
    if any(n != 1 for n in strides):
        axes = list(range(2, 2 + len(strides)))
        part = e.Slice(part, [0] * len(axes), [1 << 30] * len(axes), axes, list(strides))
    # (N, B, h, w) and (B, C, 1, 1) → (B, N, C, h, w): an outer product.
    first = e.Transpose(part, perm=[1, 0, *range(2, len(out.shape))])
    return Delta(
        w.merge(e.Mul(e.axes("Unsqueeze", first, [2]), e.axes("Unsqueeze", slices, [1])), out)
    )

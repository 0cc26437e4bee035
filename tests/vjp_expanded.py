"""The test table of operators without a rule, which are differentiated through their definition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from gradcheck import Spec
from vjp_elementwise import i, inside, named, sizes, x

SINGLE = {"step": 1e-2, "tolerance": 1e-3}
"""For definitions that hold float32 numbers, or compute in float32."""


def norms() -> list[Spec]:
    """Normalisations over groups of channels, tokens, and the whole image."""
    rows = []
    for shape, attributes in itertools.product(
        ((3, 4, 2, 2), (2, 4, 3)), ({"num_groups": 2}, {"num_groups": 4, "epsilon": 0.01})
    ):
        inputs = (x(*shape), x(4), x(4, seed=1))
        exact = {**attributes, "stash_type": 11}
        note = f"{sizes(shape)} {named(attributes)}"
        rows.append(Spec("GroupNormalization", inputs, exact, note, batch=True))
        rows.append(Spec("GroupNormalization", inputs, exact, f"{note} in 24", opset=24))
        rows.append(Spec("GroupNormalization", inputs, attributes, f"{note} single", **SINGLE))
    for shape, epsilon in (((2, 3, 2, 3), None), ((3, 4), None), ((2, 3, 5), 0.1)):
        for axis in range(-len(shape), len(shape)):
            attributes = {"axis": axis, **({} if epsilon is None else {"epsilon": epsilon})}
            inputs = (x(*shape), x(*shape[axis:]))
            free = axis not in (0, -len(shape))
            rows.append(Spec("RMSNormalization", inputs, attributes, f"{sizes(shape)} axis {axis}",
                             opset=23, batch=free))  # fmt: skip
    rows.append(Spec("RMSNormalization", (x(2, 3, 4), x(4)), note="default", opset=24, batch=True))
    image = x(3, 3, 3, 2).astype(np.float32)
    rows += [
        Spec("MeanVarianceNormalization", (image,), **SINGLE),
        Spec("MeanVarianceNormalization", (image,), {"axes": [2, 3]}, "of an image", batch=True,
             **SINGLE),
    ]  # fmt: skip
    return rows


def attentions() -> list[Spec]:
    """Attention: 3 and 4 axes, shared keys, masks, past keys, and all its results."""
    q, k, v = x(2, 2, 3, 4), x(2, 2, 5, 4, seed=1), x(2, 2, 5, 4, seed=2)
    wide = x(2, 4, 3, 4)
    heads: dict[str, tuple[np.ndarray, ...]] = {
        "4d": (q, k, v),
        "4d shared": (wide, k, v),
        "4d other width": (q, k, x(2, 2, 5, 3, seed=3)),
    }
    tokens: dict[str, tuple[dict[str, int], tuple[np.ndarray, ...]]] = {}
    for name, inputs in heads.items():
        flat = tuple(t.transpose(0, 2, 1, 3).reshape(2, t.shape[2], -1) for t in inputs)
        counts = {"q_num_heads": inputs[0].shape[1], "kv_num_heads": 2}
        tokens[name.replace("4d", "3d")] = counts, flat
        tokens[name] = {}, inputs
    seen = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 1, 0, 0, 1]], bool)
    masks: dict[str, tuple[np.ndarray, ...]] = {
        "": (),
        "mask 2d": (x(3, 5),),
        "mask 3d": (x(2, 1, 3, 5),),
        "mask for all": (x(2, 1, 1, 5),),
        "bool mask": (seen,),
        "bool mask 4d": (np.stack([[seen], [~seen | seen[:1]]]),),
    }
    forms = ({}, {"is_causal": 1}, {"scale": 0.3}, {"softcap": 2.0})
    rows = []
    for (name, (counts, inputs)), form in itertools.product(tokens.items(), forms):
        attributes = {**counts, **form}
        note = f"{name} {named(form)}"
        rows.append(Spec("Attention", inputs, attributes, note, opset=23, batch=(0, 1, 2)))
    for (name, mask), causal, opset in itertools.product(masks.items(), (0, 1), (23, 24)):
        if causal and name in ("mask for all", "bool mask 4d"):
            continue  # the evaluator has no causal mask then; and some rows would see nothing
        free = (0, 1, 2) if name in ("", "mask 2d", "bool mask") else ()
        rows.append(
            Spec(
                "Attention",
                (q, k, v, *mask),
                {"is_causal": causal},
                f"{name} causal {causal} opset {opset}",
                opset=opset,
                batch=free,
            )
        )
    for mode in range(4):
        # With mode 0 the evaluator gives what is past the softcap.
        attributes = {"qk_matmul_output_mode": mode, **({"softcap": 2.0} if mode else {})}
        inputs = (q, k, v, x(3, 5))
        for output in (0, 3):
            fixed = (2, 3) if output == 3 else ()
            rows.append(
                Spec(
                    "Attention",
                    inputs,
                    attributes,
                    f"mode {mode} output {output}",
                    opset=23,
                    outputs=4,
                    output=output,
                    constant=fixed,
                )
            )
    past = (x(2, 2, 2, 4, seed=7), x(2, 2, 2, 4, seed=8))
    for name, opset in itertools.product(("3d", "4d"), (23, 24)):
        counts, inputs = tokens[name]
        rows.append(
            Spec(
                "Attention",
                (*inputs, x(3, 7), *past),
                counts,
                f"{name} past opset {opset}",
                opset=opset,
                outputs=3,
            )
        )
    window = {"left_window_size": 1, "right_window_size": 2}
    rows += [
        Spec("Attention", (q, k, v, None, None, None, i(3, 4)), note="padded keys", opset=24),
        Spec("Attention", (q, q + 1, v[:, :, :3]), window, "window", opset=25, runtime=False),
    ]
    return rows


def turned() -> list[Spec]:
    """Rotary embeddings: caches by position and in place, halves and pairs, part of a head."""
    image, token = x(2, 2, 3, 4), x(2, 3, 8)
    places = i([0, 2, 1], [4, 3, 1])
    rows = []
    for part, pairs in itertools.product((0, 2), (0, 1)):
        width = (part or 4) // 2
        attributes = {"interleaved": pairs, "rotary_embedding_dim": part}
        cache = (x(5, width, seed=1), x(5, width, seed=2), places)
        whole = (x(2, 3, width, seed=1), x(2, 3, width, seed=2))
        note = named(attributes)
        rows += [
            Spec("RotaryEmbedding", (image, *cache), attributes, f"{note} cache", opset=23),
            Spec("RotaryEmbedding", (image, *whole), attributes, f"{note} whole", opset=23,
                 batch=(0, 1, 2)),
            Spec("RotaryEmbedding", (token, *cache), {**attributes, "num_heads": 2},
                 f"{note} 3d", opset=24),
        ]  # fmt: skip
    return rows


def others() -> list[Spec]:
    """What else the standard defines by other operators."""
    crops: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((3, 5, 2), {}), ((5, 8, 5), {}), ((3, 8, 5), {}), ((3, 2), {"axes": [0, 1]}),
        ((3, 2), {"axes": [-3, -2]}), ((9, 2), {"axes": [1, 2]}),
    ]  # fmt: skip
    labels = i(0, 2)
    rows = [
        *(Spec("CenterCropPad", (x(4, 6, 3), i(*to)), a, f"to {to} {named(a)}",
               batch=a == {"axes": [1, 2]}) for to, a in crops),
        *(Spec("AffineGrid", (x(2, n, n + 1).astype(np.float32), i(2, 3, *[3, 4, 2][:n])),
               {"align_corners": corners}, f"{n} axes, align_corners {corners}", **SINGLE)
          for n, corners in itertools.product((2, 3), (0, 1))),
        *(Spec("CausalConvWithState", (x(2, 2, 5), x(2, 1, 3), *past), note=f"{len(past)} more",
               opset=27, outputs=2, runtime=False) for past in ((), (x(2), x(2, 2, 2)))),
        *(Spec("SwiGLU", (x(2, 4), x(2, 4, seed=1)), a, named(a), opset=28, runtime=False,
               batch=(0, 1)) for a in ({}, {"alpha": 0.5})),
        *(Spec("SoftmaxCrossEntropyLoss", (x(2, 3), labels), {"reduction": r}, r)
          for r in ("mean", "sum", "none")),
        Spec("NegativeLogLikelihoodLoss", (x(2, 3), labels, inside(0.5, 2, 3)), constant=(2,)),
    ]  # fmt: skip
    return rows


EXPANDED: list[Spec] = [*norms(), *attentions(), *turned(), *others()]

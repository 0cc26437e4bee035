"""Matrix products: what is linear in each of its inputs. Convolutions have their own room."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, Dim, dims, fixed, known, unbroadcast, vjp
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("Gemm")
def gemm(
    e: Emitter, g: T, y: T, a: T, b: T, c: T | None = None,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Answers:  # fmt: skip
    def of_a() -> T:
        if transA:
            return e.Gemm(b, g, alpha=alpha, transA=transB, transB=1)
        return e.Gemm(g, b, alpha=alpha, transB=int(not transB))

    def of_b() -> T:
        if transB:
            return e.Gemm(g, a, alpha=alpha, transA=1, transB=transA)
        return e.Gemm(a, g, alpha=alpha, transA=int(not transA))

    def of_c() -> T:
        assert c is not None
        return unbroadcast(e, g if beta == 1 else e.Mul(g, beta), known(y), c)

    return [of_a, of_b, of_c if c is not None else None]


@vjp("MatMul")
def matmul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    rank_a, rank_b = len(known(a)), len(known(b))
    batch = known(y)[: len(known(y)) - (rank_a > 1) - (rank_b > 1)]
    row = known(a)[-2:] if rank_a > 1 else [1, known(a)[0]]
    column = known(b)[-2:] if rank_b > 1 else [known(b)[0], 1]

    def turned(t: T, rank: int, axis: int) -> T:  # a vector as a matrix first
        wide = t if rank > 1 else e.axes("Unsqueeze", t, [axis])
        rank = max(rank, 2)
        return e.Transpose(wide, perm=[*range(rank - 2), rank - 1, rank - 2])

    def whole() -> T:  # the cotangent with the axes that vectors dropped
        if rank_a > 1 and rank_b > 1:
            return g
        gone = [len(batch) + i for i, r in enumerate((rank_a, rank_b)) if r == 1]
        return e.axes("Unsqueeze", g, gone)

    def summed(t: T, shape: Sequence[Dim], x: T) -> T:
        if len(known(x)) == 1:
            t = e.axes("ReduceSum", t, list(range(len(batch))), keepdims=0) if batch else t
            return e.Reshape(t, dims(known(x)))
        return unbroadcast(e, t, shape, x)

    def of_a() -> T:
        product = e.MatMul(whole(), turned(b, rank_b, 1))
        return summed(product, [*batch, *row], a)

    def of_b() -> T:
        product = e.MatMul(turned(a, rank_a, 0), whole())
        return summed(product, [*batch, *column], b)

    return [of_a, of_b]


@vjp("Einsum")
def einsum(e: Emitter, g: T, y: T, *xs: T, equation: str) -> Answers:
    terms, out = _terms(equation, [len(known(x)) for x in xs])

    def of(i: int) -> T:
        term = terms[i]
        others = [(t, x) for j, (t, x) in enumerate(zip(terms, xs, strict=True)) if j != i]
        there = set(out).union(*(t for t, _ in others))
        have = "".join(c for c in dict.fromkeys(term) if c in there)
        letters = ",".join([out, *(t for t, _ in others)]) + "->" + have
        part = e.Einsum(g, *(x for _, x in others), equation=letters)
        missing = [k for k, c in enumerate(term) if c not in there or c in term[:k]]
        if missing:
            part = e.axes("Unsqueeze", part, missing)
        for k in missing:
            if term[k] in term[:k]:  # a diagonal: nothing flows beside it
                first, n = term.index(term[k]), fixed(xs[i], k)
                wide = [n if axis in (first, k) else 1 for axis in range(len(term))]
                part = e.Mul(part, np.eye(n, dtype=g.dtype).reshape(wide))
        if missing:
            part = e.Expand(part, e.Shape(xs[i]))
        # An axis of size 1 that Einsum stretched to another operand's.
        sizes = {c: n for t, x in zip(terms, xs, strict=True)
                 for c, n in zip(t, known(x), strict=True) if n != 1}  # fmt: skip
        return unbroadcast(e, part, [sizes.get(c, 1) for c in term], xs[i])

    return [lambda i=i: of(i) for i in range(len(xs))]  # type: ignore[misc]


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The subscripts of the operands and of the result, "..." written out."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    spare = [c for c in string.ascii_letters if c not in equation]
    wide = max((r - len(t) + 3 for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    dots = "".join(spare[:wide])
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        out = "..." * ("..." in left) + "".join(sorted(c for c in set(letters)
                                                       if letters.count(c) == 1))  # fmt: skip
    full = [t.replace("...", dots[wide - (r - len(t) + 3) :] if "..." in t else "")
            for t, r in zip(terms, ranks, strict=True)]  # fmt: skip
    return full, out.replace("...", dots)

"""Masked, moved and noisy inputs: what is changed, and the scores of all versions, stacked."""

from __future__ import annotations

from onnxcam.perturb import items, scaling, stacks

__all__ = ["items", "scaling", "stacks"]

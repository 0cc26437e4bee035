"""One explanation under trial: the picture as the model saw it, its heat, and altered pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxcam.evaluate.boxes import fits, inside, parts
from onnxcam.evaluate.impute import IMPUTATIONS, Impute, linear
from onnxcam.evaluate.samples import Box
from onnxcam.image import Geometry, lay_on, normalise

BLACK = "black"


@dataclass(eq=False)
class View:
    """A picture as the model saw it, and what it says of one class.

    Attributes:
        x: the model's input, (C, H, W), float32 whatever the model takes.
        black: the same of a black picture: what is left of a pixel times 0.
        logit, probability: of the class asked about, for the untouched picture.
        boxes: objects of that class, in pixels of the stored picture.
        mask: (height, width), bool, of the stored picture: the object; None where not known.
        size: (height, width) of the stored picture.
        geometry: how that lies under `x`.
        seed: of whatever is drawn for this picture.
        others: objects of other classes, as `boxes`.
        other_mask: the same, as `mask`; they are there besides `others`.
    """

    x: np.ndarray
    black: np.ndarray
    logit: float
    probability: float
    size: tuple[int, int]
    geometry: Geometry
    boxes: tuple[Box, ...] = ()
    mask: np.ndarray | None = None
    seed: int = 0
    others: tuple[Box, ...] = ()
    other_mask: np.ndarray | None = None

    def rng(self) -> np.random.Generator:
        """A generator that starts anew: all methods get the same draws."""
        return np.random.default_rng(self.seed)

    @cached_property
    def tie_breaks(self) -> np.ndarray:
        """Random numbers, (H·W,), that decide between pixels of equal heat."""
        return np.asarray(self.rng().random(self.x[0].size))

    @cached_property
    def imputations(self) -> dict[str, Impute]:
        """The imputations by name."""
        black = self.black
        return {
            BLACK: lambda x, removed: np.where(removed, black, x),
            **IMPUTATIONS,
            "noisy-linear": lambda x, removed: linear(x, removed, self.noise, self.rng()),
        }

    @property
    def noise(self) -> float:
        """Of noisy linear imputation: a tenth of the picture's own standard deviation.

        Rong et al. add noise of standard deviation 0.1 to pictures normalised to about 1.
        """
        return 0.1 * float(self.x.std())


@dataclass(eq=False)
class Trial:
    """One method's map of a `View`, and how the model judges pictures altered by it.

    Attributes:
        view: the picture.
        map: (h, w), as the method gives it.
        judged: by name of a probe the logits and probabilities of the class, (S,) each.
        again: maps of slightly disturbed copies of the picture, (S, h, w), where asked for.
    """

    view: View
    map: np.ndarray
    judged: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    again: np.ndarray | None = None

    @cached_property
    def heat(self) -> np.ndarray:
        """(H, W) over the model's input, from 0 to 1: L of the papers."""
        height, width = self.view.x.shape[1:]
        whole = Geometry((0, 0, width, height), (height, width), (0, 0), (height, width))
        return normalise(lay_on(self.map, whole, width, height))

    @cached_property
    def shown(self) -> np.ndarray:
        """The heat on the stored picture, (height, width); 0 where the model saw nothing."""
        height, width = self.view.size
        return normalise(lay_on(self.map, self.view.geometry, width, height))

    @cached_property
    def order(self) -> np.ndarray:
        """Pixels of the input, (H·W,), the hottest first; among equals by chance."""
        return np.lexsort((self.view.tie_breaks, -self.heat.reshape(-1)))

    def hottest(self, share: float) -> np.ndarray:
        """(H, W), bool: that share of all pixels, the hottest of them."""
        count = round(share * self.heat.size)
        return self._marked(self.order[:count])

    def coolest(self, share: float) -> np.ndarray:
        """(H, W), bool: that share of all pixels, the least hot of them."""
        count = round(share * self.heat.size)
        return self._marked(self.order[self.heat.size - count :])

    def _marked(self, pixels: np.ndarray) -> np.ndarray:
        marked = np.zeros(self.heat.size, bool)
        marked[pixels] = True
        return marked.reshape(self.heat.shape)

    @cached_property
    def object(self) -> np.ndarray | None:
        """(height, width), bool, of the stored picture: the mask, else what the boxes cover."""
        if self.view.mask is not None:
            return self.view.mask
        marked = covered(self.view.boxes, self.view.size)
        return marked if marked.any() else None

    @cached_property
    def others(self) -> np.ndarray | None:
        """The same of objects of other classes: all that masks and boxes cover."""
        marked = covered(self.view.others, self.view.size)
        if self.view.other_mask is not None:
            marked |= self.view.other_mask
        return marked if marked.any() else None

    @cached_property
    def fits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What `boxes.fits` finds; the object's boxes are those around the mask's parts where only
        a mask is known."""
        view = self.view
        boxes = inside(view.boxes, view.size)
        if not len(boxes) and view.mask is not None:
            boxes = parts(view.mask[None])[1].astype(np.float64)
        return fits(self.shown, boxes) if len(boxes) else None


def covered(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """(height, width), bool: what the boxes cover, of each at least a pixel."""
    marked = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        top, left = max(0, round(y0)), max(0, round(x0))
        marked[top : max(round(y1), top + 1), left : max(round(x1), left + 1)] = True
    return marked


Altered = Callable[[Trial], np.ndarray]
"""Pictures (S, C, H, W) made of a trial's."""

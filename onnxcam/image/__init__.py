"""Pictures: reading them, turning them into a model's input, and drawing heat maps on them."""

from onnxcam.image.draw import (
    colormap_names,
    colour,
    figure,
    lay_on,
    most_seen,
    normalise,
    overlay,
    panel,
    save_image,
    seen,
)
from onnxcam.image.find import find_pictures
from onnxcam.image.geometry import Geometry
from onnxcam.image.grid import CELL, Cell, grid
from onnxcam.image.guess import Choice, candidates, choose, choose_by_labels
from onnxcam.image.presets import (
    PRESETS,
    Preset,
    adapt,
    find_sidecar,
    from_config,
    from_metadata,
    load_preset,
)
from onnxcam.image.read import MAX_PIXELS, Picture, read_picture
from onnxcam.image.save import jpeg

__all__ = [
    "CELL",
    "MAX_PIXELS",
    "PRESETS",
    "Cell",
    "Choice",
    "Geometry",
    "Picture",
    "Preset",
    "adapt",
    "candidates",
    "choose",
    "choose_by_labels",
    "colormap_names",
    "colour",
    "figure",
    "find_pictures",
    "find_sidecar",
    "from_config",
    "from_metadata",
    "grid",
    "jpeg",
    "lay_on",
    "load_preset",
    "most_seen",
    "normalise",
    "overlay",
    "panel",
    "read_picture",
    "save_image",
    "seen",
]

"""What happens to the scores when one unit of a feature map is switched off, for all units.

`exact` asks of every tensor of the head how it differs from the untouched run and emits the few
operators that this takes; `literal` switches unit after unit off and runs the head again. Both
give the same numbers.
"""

from onnxcam.ablate.literal import literal
from onnxcam.ablate.walk import exact

__all__ = ["exact", "literal"]

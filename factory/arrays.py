"""Arrays that many modules speak of."""

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""(N, H, W, 3) RGB."""
Masks = NDArray[np.uint8]
"""(N, H, W) class indices."""
Features = NDArray[np.float32]
"""(N, F), or (V, F) of the views of one image."""
Floats = NDArray[np.float64]
Mask = NDArray[np.uint8]
"""(H, W) class indices."""
Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB of one image."""

"""Where the search for a flow may begin: at the flow of the two frames before."""

import numpy as np
from scipy import spatial


def forward_interpolate(flow: np.ndarray) -> np.ndarray:
    """Moves each vector along itself, and gives each pixel the one that ends nearest to it.

    Source: the code of Teed and Deng, "RAFT" (ECCV 2020), where videos are begun so. Vectors that
    end outside, in row 0 or in column 0 are left out, as there.

    Args:
        flow: (h, w, 2) from one frame to the next, in its own pixels.

    Returns:
        (h, w, 2) float32, for the pixels of the next frame; zeros if all vectors end outside.
    """
    h, w, _ = flow.shape
    y, x = np.mgrid[:h, :w]
    vectors = flow.reshape(-1, 2).astype(np.float32)
    ends = vectors + np.stack([x, y], axis=-1).reshape(-1, 2)
    inside = np.all((ends > 0) & (ends < (w, h)), axis=1)
    if not inside.any():
        return np.zeros_like(flow, np.float32)
    _, nearest = spatial.cKDTree(ends[inside]).query(np.stack([x, y], axis=-1))
    return vectors[inside][nearest]

"""Any tracks that may be, small ones, for tests of rules."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms_infer.tracks import Tracks

coordinates = st.integers(-10, 50).map(lambda step: np.float32(step / 40))


@st.composite
def any_tracks(draw: st.DrawFn, max_count: int = 5, max_frames: int = 7) -> Tracks:
    """0..1 tracks, mostly inside the picture, at usual rates."""
    count, frames = draw(st.integers(0, max_count)), draw(st.integers(1, max_frames))
    points = draw(hnp.arrays(np.float32, (count, frames, 2), elements=coordinates))
    visible = draw(hnp.arrays(np.bool_, (count, frames)))
    ids = draw(st.lists(st.integers(0, 2 * max_count - 1), min_size=count, max_size=count, unique=True))
    return Tracks(points, visible, ids, fps=draw(st.sampled_from([8.0, 16.0, 24.0, 30.0, 29.97])))

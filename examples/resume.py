"""Stop a stream and go on later, bit for bit: resume.py [SOURCE]."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from ms_infer import Stream, Tracks

source = sys.argv[1] if len(sys.argv) > 1 else "demo"
with tempfile.TemporaryDirectory() as folder:
    saved = Path(folder) / "stream.safetensors"
    with Stream(source, seed=1) as stream:
        stream.start(tracks=Tracks.grid(4, 4).grab((0.3, 0.5), (0.7, 0.5), radius=0.2))
        stream.step()
        stream.snapshot(saved)
        undisturbed = stream.step().frames
    with Stream(source) as stream:
        stream.restore(saved)
        resumed = stream.step().frames
print("equal:", np.array_equal(undisturbed, resumed))

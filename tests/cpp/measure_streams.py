"""What a model and every further stream of it cost in C++: seconds and resident memory, and what a warm-up saves.

python tests/cpp/measure_streams.py build/cpp/ms_infer/cpp/libms_infer.so BUNDLE --streams 4
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from tests.cpp.native import Library, NativeModel, NativeStream  # noqa: E402


def resident_mb() -> float:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measured(name: str, work: object) -> object:
    """Does the work, prints its seconds and what it added to the resident memory."""
    before, start = resident_mb(), time.perf_counter()
    made = work()  # type: ignore[operator]
    print(f"{name}: {time.perf_counter() - start:.2f} s, {resident_mb() - before:+.0f} MB")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--streams", type=int, default=4)
    options = parser.parse_args()
    library = Library(options.library)
    model = measured("model", lambda: NativeModel(library, options.bundle, precision="fp32"))
    assert isinstance(model, NativeModel)
    streams: list[NativeStream] = []
    for number in range(options.streams):
        measured(f"stream {number + 1}", lambda: streams.append(NativeStream(library, model)))
        if number == 1:
            measured("  its warm-up", lambda: library.call("ms_stream_warm_up", streams[-1].handle))
        times = [float(streams[-1].step()[1].times[4]) for _ in range(6)]
        print(f"  chunks of {', '.join(f'{ms:.0f}' for ms in times)} ms; {resident_mb():.0f} MB resident")
    for stream in streams:
        stream.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

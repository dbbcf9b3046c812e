"""What a GPU has to say about this project, in one call: `python scripts/gpu_check.py --out DIR`.

Steps run in order of worth, each in its own process with a time limit; one that fails stops no other. DIR gets at most
8 files: the log, `gpu_check.json`, and what the steps measured. A later call with that file in `build/` (or named by
`--done`) goes on where the earlier one stopped. Needs PyTorch with CUDA and this repository, nothing installed: pure
wheels in `build/wheels` are imported from there:

    pip download --no-deps -d build/wheels tyro docstring-parser typeguard

TensorRT-RTX comes in two parts where less than its size can be sent at a time (`scripts/gpu_carry.py`), photographs for
the training in `build/assets`.

`--rehearse` runs the same steps on a CPU with tiny models: it tests this script and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS_FILE = "scripts/gpu_steps.py"
KNOWN = ROOT / "build" / "gpu_check.json"
SLOWER = 5
"""Times the limits that a rehearsal has: its machine may be busy."""


@dataclass(frozen=True)
class Step:
    """One question."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    """Longest time that it may take."""
    call: int = 1
    """In which call it runs when nobody asks."""


def own(name: str, limit_s: float, *arguments: str, call: int = 1) -> Step:
    return Step(name, (sys.executable, STEPS_FILE, name, *arguments), limit_s, call)


STEPS = (
    own("smoke", 120),
    own("bench-1.3b", 170),
    own("bench-5b", 120),
    own("kernels", 90),
    own("stages", 60),
    Step("tests", (sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", "--timeout=120"), 170),
    own("tensorrt", 120, call=2),
    own("train", 330, call=2),
)


@dataclass
class Result:
    """How a step went."""

    name: str
    state: str
    """ok, failed, "too long", "no time left" or "done before"."""
    seconds: float = 0.0
    words: str = ""
    """The last line that it printed."""


def environment(out: Path, *, rehearse: bool) -> dict[str, str]:
    """Of the steps: the repository and carried wheels are importable, results go to `out`."""
    wheels = sorted(str(path) for path in (ROOT / "build" / "wheels").glob("*.whl"))
    paths = [str(ROOT), *(str(ROOT / folder) for folder in ("kernels", "export", "training")), *wheels]
    known = os.environ.get("PYTHONPATH")
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([known] if known else [])]),
        "GPU_CHECK_OUT": str(out),
    }
    if rehearse:
        found |= {"GPU_CHECK_REHEARSE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return found


def run_step(step: Step, log: Path, seconds: float, env: dict[str, str]) -> Result:
    """Run it for at most so long; its words go to the log."""
    began = time.monotonic()
    with log.open("a+") as file:
        file.write(f"\n== {step.name}: {' '.join(step.command[1:])}\n")
        file.flush()
        start = file.tell()
        try:
            code = subprocess.run(step.command, cwd=ROOT, env=env, stdout=file, stderr=file, timeout=seconds).returncode
            state = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "too long"
        file.seek(start)
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    return Result(step.name, state, round(time.monotonic() - began, 1), (lines or ["it said nothing"])[-1][:160])


def run_steps(
    steps: Sequence[Step], out: Path, *, minutes: float, done: Sequence[str] = (), rehearse: bool = False
) -> list[Result]:
    """All steps that were not done before, as long as there is time; `gpu_check.json` is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    end, env, results = time.monotonic() + 60 * minutes, environment(out, rehearse=rehearse), []
    for step in steps:
        left = end - time.monotonic()
        if step.name in done:
            results.append(Result(step.name, "done before"))
        elif left < min(20.0, step.limit_s):
            results.append(Result(step.name, "no time left"))
        else:
            limit = step.limit_s * (SLOWER if rehearse else 1)
            results.append(run_step(step, out / "gpu_check.log", min(limit, left), env))
        content = {"rehearsal": rehearse, "results": [asdict(result) for result in results]}
        (out / "gpu_check.json").write_text(json.dumps(content, indent=1))
    return results


def done_before(path: Path, *, rehearse: bool) -> list[str]:
    """Steps that an earlier call has finished; a rehearsal finishes nothing for a GPU."""
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text())
    finished = [one["name"] for one in earlier["results"] if one["state"] in ("ok", "done before")]
    return finished if earlier["rehearsal"] == rehearse else []


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every step of this call is ok or was before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "build/gpu_check")))
    parser.add_argument("--minutes", type=float, default=8.0, help="time for this call (%(default)s)")
    parser.add_argument("--call", type=int, default=1, choices=(1, 2), help="2: TensorRT-RTX and training")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these steps")
    parser.add_argument("--done", type=Path, default=KNOWN, help="gpu_check.json of an earlier call (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU with tiny models")
    options = parser.parse_args(arguments)
    wanted = [step for step in STEPS if step.name in (options.only or [step.name])]
    if not options.only and not options.rehearse:
        wanted = [step for step in wanted if step.call == options.call]
    done = done_before(options.done, rehearse=options.rehearse)
    out = options.out.resolve()
    results = run_steps(wanted, out, minutes=options.minutes, done=done, rehearse=options.rehearse)
    if options.rehearse:
        print("a rehearsal: nothing below was measured on a GPU")
    for one in results:
        print(f"{one.name:<11} {one.state:<12} {one.seconds:6.1f} s  {one.words}")
    return 0 if all(one.state in ("ok", "done before") for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The whole check: style, types, layers, the site, the page, every test suite in its own process, the C++ build.

With two cores two jobs run at a time. `scripts/test.py types c++` chooses.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CORES = os.cpu_count() or 1
LANES = min(CORES, 2)
QUIET_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CCACHE = {f"CMAKE_{language}_COMPILER_LAUNCHER": "ccache" for language in ("C", "CXX")}

QUICK: dict[str, list[str]] = {
    "style": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "layers": ["lint-imports"],
}
"""Checks of seconds, before all others."""
CHECKS: dict[str, list[str]] = {"types": ["mypy"], "docs": [sys.executable, "-m", "scripts.docs"]}
APART = ["docs", "engines", "packages", "export", "aot", "interp", "serve", "browser", "fleet", "cpp"]
"""Folders of tests that are suites of their own."""
SUITES: dict[str, list[str]] = {
    "tests": ["tests", *(f"--ignore=tests/{name}" for name in APART)],
    **{f"tests/{name}": [f"tests/{name}"] for name in APART},
    "benchmarks": ["benchmarks"],
}
"""Name of a suite -> what pytest is given."""
IN_TURN = ("c++", "tests/serve", "tests/browser", "tests/fleet")
"""Jobs that never run beside one another: servers and pages are asked for frames in time, and a build takes cores."""
SLOW = ["--durations=12", "--durations-min=5"]
"""What each suite says of its slowest tests and fixtures."""
_PRINTING = threading.Lock()
_TOLD: list[str] = []


def run(name: str, command: list[str]) -> bool:
    """Run it; what it says comes whole when it ends, for others may run beside it."""
    start = time.monotonic()
    print(f"== {name}: {' '.join(command)}", flush=True)
    environment = {**os.environ, **QUIET_THREADS, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    if shutil.which("ccache"):
        environment = {**CCACHE, **environment}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    passed = done.returncode == 0
    told = f"== {name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s"
    with _PRINTING:
        print(f"{done.stdout}{told}", flush=True)
        _TOLD.append(told)
    return passed


def page() -> bool:
    """Types of the page's modules, where npm is found; what it installs lies outside of the tree's own files."""
    if shutil.which("npm") is None:
        print("== page: skipped, no npm", flush=True)
        return True
    tools = ROOT / "build" / "page"
    tools.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "browser" / "package.json", tools)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(tools)]
    if not run("page", install):
        print("== page: skipped, its tools do not install from npm", flush=True)
        return True
    return run("page", [str(tools / "node_modules" / ".bin" / "tsc"), "--project", "tests/browser"])


def cpp() -> bool:
    """Configure, build and test the C++ library, where a compiler and CMake are found."""
    if not (ROOT / "CMakeLists.txt").exists() or shutil.which("cmake") is None:
        print("== c++: skipped, no CMake", flush=True)
        return True
    build = ROOT / "build" / "cpp"
    build.mkdir(parents=True, exist_ok=True)
    steps = [
        ["cmake", "-S", ".", "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(build), "-j", str(CORES // LANES)],
        ["ctest", "--test-dir", str(build), "--output-on-failure"],
    ]
    with open(build / ".lock", "w") as lock:  # tests/cpp/conftest.py uses the same folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        return all(run("c++", step) for step in steps)


def suite(name: str) -> bool:
    """One of the suites, in a process of its own."""
    return run(name, [sys.executable, "-m", "pytest", "-q", *SLOW, *SUITES[name]])


def jobs() -> dict[str, Callable[[], bool]]:
    """What runs side by side, the longest first; the tests of the C++ library are behind its build, which they use."""
    suites = {name: partial(suite, name) for name in SUITES if name != "tests/cpp"}
    checks = {name: partial(run, name, command) for name, command in CHECKS.items()}
    return {"c++": lambda: all([cpp(), suite("tests/cpp")]), **suites, **checks, "page": page}


def side_by_side(chosen: dict[str, Callable[[], bool]]) -> list[bool]:
    """Results of jobs: one lane begins with those of IN_TURN, and takes of the others when it is through."""

    def in_turn(names: Iterable[str]) -> list[bool]:
        return [chosen[name]() for name in names]

    with ThreadPoolExecutor(LANES) as pool:
        timed = pool.submit(in_turn, [name for name in IN_TURN if name in chosen])
        others = pool.map(lambda job: job(), [job for name, job in chosen.items() if name not in IN_TURN])
        return [*timed.result(), *others]


def main() -> int:
    everything = jobs()
    wanted = sys.argv[1:] or [*QUICK, *everything]
    if unknown := set(wanted) - {*QUICK, *everything}:
        print(f"no check is called {', '.join(sorted(unknown))}; there are {', '.join([*QUICK, *everything])}")
        return 2
    results = [run(name, command) for name, command in QUICK.items() if name in wanted]
    results += side_by_side({name: job for name, job in everything.items() if name in wanted})
    print("\n".join(["", "The whole check:", *_TOLD]))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

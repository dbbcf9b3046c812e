"""The whole check: style, types, layers, the site, the page, every test suite in its own process, the C++ build.

With two cores the suite `tests`, which is the longest, runs beside the others. `scripts/test.py types c++` chooses.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
QUIET_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

CHECKS: list[tuple[str, list[str]]] = [
    ("style", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("layers", ["lint-imports"]),
    ("docs", [sys.executable, "-m", "scripts.docs"]),
]
APART = ("tests/serve", "tests/interp", "tests/aot", "tests/browser", "tests/packages", "tests/fleet", "benchmarks")
"""Suites that run beside `tests`, which is as long as all of them together."""
SUITES = {"tests": ["tests", "--ignore=tests/serve"], **{name: [name] for name in APART}}
"""Name of a suite -> what pytest is given."""
_PRINTING = threading.Lock()


def run(name: str, command: list[str]) -> bool:
    """Run it; what it says comes whole when it ends, for others may run beside it."""
    start = time.monotonic()
    print(f"== {name}: {' '.join(command)}", flush=True)
    environment = {**os.environ, **QUIET_THREADS, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
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
    with _PRINTING:
        print(done.stdout, end="")
        print(f"== {name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
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
        ["cmake", "--build", str(build), "-j", str(os.cpu_count())],
        ["ctest", "--test-dir", str(build), "--output-on-failure"],
    ]
    with open(build / ".lock", "w") as lock:  # tests/cpp/building.py uses the same folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        return all(run("c++", step) for step in steps)


def suite(name: str) -> bool:
    """One of the suites, in a process of its own."""
    if not any((ROOT / name).rglob("*.py")):
        return True
    return run(name, [sys.executable, "-m", "pytest", "-q", *SUITES[name]])


def main() -> int:
    wanted = sys.argv[1:]
    results = [run(name, command) for name, command in CHECKS if not wanted or name in wanted]
    if not wanted or "page" in wanted:
        results.append(page())
    jobs = [(partial(suite, name), name) for name in SUITES] + [(cpp, "c++")]
    chosen = [job for job, name in jobs if not wanted or name in wanted]
    lanes = 2 if (os.cpu_count() or 1) > 1 else 1
    with ThreadPoolExecutor(lanes) as pool:
        results += pool.map(lambda job: job(), chosen)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The whole check: style, types, layers, the site, the page, every test suite in its own process, the C++ build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
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
SUITES = ["tests", "tests/interp", "tests/aot", "tests/browser", "tests/packages", "tests/fleet", "benchmarks"]


def run(name: str, command: list[str]) -> bool:
    start = time.monotonic()
    print(f"== {name}: {' '.join(command)}", flush=True)
    environment = {**os.environ, **QUIET_THREADS, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    passed = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
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
    build = str(ROOT / "build" / "cpp")
    steps = [
        ["cmake", "-S", ".", "-B", build, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", build, "-j", str(os.cpu_count())],
        ["ctest", "--test-dir", build, "--output-on-failure"],
    ]
    return all(run("c++", step) for step in steps)


def main() -> int:
    wanted = sys.argv[1:]
    results = [run(name, command) for name, command in CHECKS if not wanted or name in wanted]
    if not wanted or "page" in wanted:
        results.append(page())
    for suite in SUITES:
        if (ROOT / suite).is_dir() and any((ROOT / suite).rglob("*.py")) and (not wanted or suite in wanted):
            results.append(run(suite, [sys.executable, "-m", "pytest", "-q", suite]))
    if not wanted or "c++" in wanted:
        results.append(cpp())
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

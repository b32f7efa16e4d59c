"""Every benchmark, one after another: tables on the screen, and in experiments/benchmarks/*.csv.

    python tests/benchmarks [NAME ...]

Without names all of them, about an hour on two cores. Each is a script of its own with more options (`--help`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = {
    "head": ["head.py"],
    "growth": ["head.py", "--growth"],
    "step": ["step.py"],
    "ema": ["ema.py"],
    "metrics": ["metrics.py"],
    "input": ["input.py"],
    "preparation": ["preparation.py"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            print(f"no benchmark {name!r}: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
            return 2
    failed = []
    for name in options.names or BENCHMARKS:
        print(f"--- {name}", flush=True)
        script, *arguments = BENCHMARKS[name]
        if subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *arguments]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

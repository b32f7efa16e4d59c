"""Protects the host process: a library that is imported changes nothing in it, the command sets up its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

from sgre_lib.base.process import HOST_ENVIRONMENT, keep_freed_memory

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def run_python(code: str, **environment: str) -> str:
    """What a fresh process prints, started with none of the variables but these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_WAIT"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


SHOW = "import os; print(*sorted(name for name in os.environ if name.startswith(('MALLOC_', 'OMP_WAIT'))))"


def test_importing_the_library_leaves_the_process_alone():
    assert run_python(f"import sgre_lib; sgre_lib.AsymmetricLoss; sgre_lib.SGREHead; {SHOW}") == ""


def test_the_command_sets_its_own_before_torch():
    code = (
        "import sys, sgre_lib.__main__ as command, sgre_lib.base.process as process\n"
        "apply = process.apply_host_environment\n"
        "command.apply_host_environment = lambda: (print('torch' in sys.modules), apply())\n"
        "sys.argv = ['sgre', 'evaluate', '--exp-dir', 'nowhere']\n"
        f"assert command.main() == 2; {SHOW}"
    )
    first, *_, last = run_python(code).splitlines()
    assert first == "False"
    assert last.split() == sorted(HOST_ENVIRONMENT)


def test_the_users_variables_stay():
    code = f"from sgre_lib.base.process import apply_host_environment as apply; apply(); {SHOW}; "
    code += "print(os.environ['OMP_WAIT_POLICY'])"
    names, policy = run_python(code, MALLOC_ARENA_MAX="2", OMP_WAIT_POLICY="ACTIVE").splitlines()
    assert names.split() == ["MALLOC_ARENA_MAX", "OMP_WAIT_POLICY"]
    assert policy == "ACTIVE"


@pytest.mark.skipif(not GLIBC, reason="glibc's own variables")
def test_freed_memory_is_kept_by_the_call_and_by_the_variables():
    """Page faults of allocating the same 80 MB five times: with the memory kept the pages are touched once."""
    code = (
        "import resource\n"
        "from sgre_lib.base.process import apply_host_environment\n"
        "if '{how}' == 'call': apply_host_environment()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(5): b'x' * 80_000_000\n"
        "print(faults() - before)"
    )
    plain = int(run_python(code.format(how="none")))
    call = int(run_python(code.format(how="call")))
    variables = int(run_python(code.format(how="none"), **HOST_ENVIRONMENT))
    assert max(call, variables) < 0.5 * plain


def test_keeping_freed_memory_says_whether_it_can():
    assert keep_freed_memory() == GLIBC

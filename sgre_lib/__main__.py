"""`python -m sgre_lib VERB` and `sgre VERB`: the command in a process of its own."""

import sys

from .base.process import apply_host_environment


def main() -> int:
    """Run the command that `sys.argv` names and return its exit status."""
    apply_host_environment()  # before the command imports torch
    from .commands import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m sgre_lib VERB` is `sgre VERB`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())

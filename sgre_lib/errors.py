"""The one exception that means: the person using this made a mistake that they can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input. Its message is one line that says what is wrong, where, and what would be right.

    The command line prints it on stderr without a traceback and exits with status 2; notebooks show it as it is.
    Anything else that goes wrong is a fault of the program and keeps its traceback.
    """

    def __init__(self, message: str):
        text = str(message)
        # A DataLoader re-raises a worker's error with the worker's whole traceback as the message: keep its last line.
        if text.startswith("Caught UserError in DataLoader worker"):
            text = text.strip().splitlines()[-1].split("UserError: ", 1)[-1]
        super().__init__(" ".join(text.split()))

"""Ends of a run that have a name: a mistake of the user's, a stop that was asked for, a loss that is no number."""


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


class Stopped(SystemExit):
    """Training was asked to stop (Ctrl-C, SIGTERM) and has saved its state. Exit status 1. It says how to resume."""

    def __init__(self, message: str):
        super().__init__(message)
        self.code = 1


class LoaderDied(RuntimeError):
    """A process that loads images was killed from outside."""


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN. The message says at which epoch and batch."""

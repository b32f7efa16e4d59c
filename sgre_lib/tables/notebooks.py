"""The numbered notebooks, executed with papermill in kernels of their own.

Papermill calls a run that timed out complete, and only warns about parameters that a notebook does not have. So unknown
parameters are refused first, and nobody takes an executed notebook for a success: results are files of their own.
"""

import contextlib
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from tqdm import tqdm

from ..base.errors import UserError
from ..base.places import PROJECT_ROOT
from ..base.process import HOST_ENVIRONMENT
from ..base.settings import TrainSettings
from .declaration import COST_PARAMETERS

NOTEBOOKS = PREPARE, TRAIN, EVALUATE, VISUALIZE, COST, REPORT, START = (
    "01_prepare_datasets", "03_train", "04_evaluate", "05_visualize_heatmaps", "12_cost", "20_reproduce_tables",
    "21_all_tables",
)  # fmt: skip
"""The notebooks that tables and their report are made of."""


class LocalKernelManager(AsyncKernelManager):
    """A kernel reached over sockets of this machine, not its network, where the system's path lengths allow it."""

    environment: ClassVar[Mapping[str, str]] = {}
    """Variables that the kernel has on top of this process's."""

    running: ClassVar[set["LocalKernelManager"]] = set()
    """The kernels of this process that have been started and not shut down."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        # Named here: kernels started side by side would otherwise all take `kernel-ipc` in the working directory.
        socket = Path(jupyter_runtime_dir(), f"sgre-{uuid.uuid4().hex[:12]}")
        if sys.platform == "linux" and len(bytes(socket)) < 100:  # of 107, with what is added
            socket.parent.mkdir(parents=True, exist_ok=True)
            self.transport, self.ip = "ipc", str(socket)

    async def _async_launch_kernel(self, kernel_cmd, **options) -> None:
        options["env"] = {**HOST_ENVIRONMENT, **(options.get("env") or os.environ), **self.environment}
        self.running.add(self)
        await super()._async_launch_kernel(kernel_cmd, **options)

    async def _async_cleanup_resources(self, *arguments, **options) -> None:
        self.running.discard(self)
        await super()._async_cleanup_resources(*arguments, **options)


def interrupt_kernels() -> None:
    """Interrupt the running cell of every kernel that this process has started: training then saves and leaves."""
    for manager in list(LocalKernelManager.running):
        if pid := getattr(manager.provisioner, "pid", None):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)


class NotebookFailed(Exception):
    """A notebook stopped with an error. The message is one line: the notebook and the error."""


def notebooks_folder() -> Path:
    """The notebooks of the checkout that this package was imported from."""
    return PROJECT_ROOT / "notebooks"


def notebook_parameters(notebook: str) -> dict[str, Any]:
    """The parameters that a numbered notebook takes: name -> papermill's description."""
    import papermill

    return papermill.inspect_notebook(str(notebooks_folder() / f"{notebook}.ipynb"))


def machine_parameters(notebook: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What a notebook takes of the machine's settings: all in its parameter `machine`, else those that it names."""
    known = notebook_parameters(notebook)
    if "machine" in known:
        return {"machine": dict(machine)}
    return {name: value for name, value in machine.items() if name in known}


def split_parameters(parameters: dict[str, Any], notebook: str = TRAIN) -> dict[str, Any]:
    """Parameters as a notebook takes them: its own by name, the rest in `more_settings`.

    What is not declared takes the library's default, never the example value that stands in the notebook.
    """
    known = notebook_parameters(notebook)
    values = vars(TrainSettings()) | COST_PARAMETERS | parameters
    own = {name: values[name] for name in known if name in values}
    return own | {"more_settings": {name: value for name, value in parameters.items() if name not in known}}


def run_notebook(
    notebook: str,
    output: Path,
    parameters: dict[str, Any],
    *,
    label: str | None = None,
    progress: bool = True,
    history: Path | None = None,
    epochs: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Execute a numbered notebook with papermill and keep the executed copy at `output`.

    parameters: of JSON types; an unknown one is a UserError, as papermill would only warn. history: a history.csv to
    watch, so that the bar shows epochs. environment: variables for the kernel alone. Raises NotebookFailed; the copy
    then ends at the failing cell.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    known = notebook_parameters(notebook)
    for name in parameters:
        if name not in known:
            raise UserError(f"notebook {notebook} has no parameter {name!r} (it has {', '.join(known)})")
    output.parent.mkdir(parents=True, exist_ok=True)
    manager = type("KernelManager", (LocalKernelManager,), {"environment": dict(environment or {})})
    with _watch(label or notebook, history, epochs, progress):
        try:
            papermill.execute_notebook(
                str(notebooks_folder() / f"{notebook}.ipynb"),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(notebooks_folder()),
                progress_bar=False,
                coalesce_streams=True,
                kernel_manager_class=manager,
                # A kernel that is told to end while it idles would report that as an error. What a cell does wrong comes
                # as a message, whatever this level is.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        except (PapermillExecutionError, RuntimeError) as error:  # RuntimeError: a kernel that died or did not answer
            name = f"{error.ename}: " if isinstance(error, PapermillExecutionError) else ""
            text = " ".join(str(getattr(error, "evalue", error)).split())[:300]
            raise NotebookFailed(f"{notebook}: {name}{text}") from None
    return output


@contextlib.contextmanager
def _watch(label: str, history: Path | None, epochs: int, progress: bool) -> Iterator[None]:
    """A progress bar beside a running notebook: epochs, where there is a history to read, else seconds."""
    stop, total = threading.Event(), (epochs or None) if history else None
    bar = tqdm(total=total, desc=label, unit="epoch", leave=False, disable=None if progress else True)

    def follow() -> None:
        while not stop.wait(0.5):
            if history is not None and history.exists():
                lines = history.read_text(encoding="utf-8").splitlines()
                if len(lines) > 1:
                    bar.n = len(lines) - 1
                    bar.set_postfix_str(f"EMA mAP {100 * float(lines[-1].split(',')[4]):.1f}", refresh=False)
            bar.refresh()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()


def say(text: str) -> None:
    """Print a line without breaking a progress bar."""
    tqdm.write(text)

"""The command line: one verb for each library function, with the same parameter names.

A verb is a function that calls the library, under a decorator that says its name, purpose and options.
Exit status: 0 done; 2 for a mistake of the user's (one line on stderr); 1 for anything else.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from . import __version__
from .base.errors import LoaderDied, NonFiniteLoss, Stopped, UserError
from .base.files import write_text
from .base.places import check_out
from .base.settings import MachineSettings, TrainSettings, option_flag, option_kind, read_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        options = vars(PARSER.parse_args(arguments))
        verb = options.pop("verb")
        if verb is None:
            PARSER.print_help()
            return 0
        return VERBS[verb](options) or 0
    except UserError as error:
        print(f"sgre: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sgre: interrupted", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and reports a mistake in one line."""

    def __init__(self, *arguments, **options):
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", _Help)
        super().__init__(*arguments, **options)

    def error(self, message: str):
        raise UserError(f"{message} ({self.prog} --help lists the options)")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of each option that has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _get_help_string(self, action):
        if action.default is False or action.default in (None, "", argparse.SUPPRESS) or not action.option_strings:
            return action.help
        return super()._get_help_string(action)


PARSER = _Parser(prog="sgre", description=__doc__.splitlines()[0])
PARSER.add_argument("--version", action="version", version=__version__, help="print the version and exit")
VERB_PARSERS = PARSER.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

Run = Callable[[dict], int | None]

VERBS: dict[str, Run] = {}
"""The verbs, in the order of `sgre --help`: each gets its options by name and returns an exit status, None being 0."""

Option = tuple[tuple[str, ...], dict[str, Any]]
"""What `add_argument` of argparse takes: flags, and the rest by name."""


def _verb(purpose: str, *options: Option, machine: Sequence[Option] = (), ways: Sequence[Option] = ()):
    """Make a function the verb of its name. machine: options of what computes. ways: options that exclude each other."""

    def enter(run: Run) -> Run:
        parser = VERB_PARSERS.add_parser(run.__name__[1:], help=purpose)
        parts = [(parser, options)]
        parts += [(parser.add_argument_group("what computes"), machine)] if machine else []
        parts += [(parser.add_mutually_exclusive_group(), ways)] if ways else []
        for part, some in parts:
            for flags, rules in some:
                part.add_argument(*flags, **rules)
        VERBS[run.__name__[1:]] = run
        return run

    return enter


# --- Options of several verbs ----------------------------------------------------------------------------------------


def _option(flag: str, help: str, **rules: Any) -> Option:
    return (flag,), {"help": help, **rules}


def _switch(flag: str, help: str, **rules: Any) -> Option:
    return _option(flag, help, action="store_true", **rules)


UNSAID = {"default": argparse.SUPPRESS}  # what is not said is not in the result


def _field_options(settings: type) -> list[Option]:
    """One option for each field of settings."""
    options = []
    for item in fields(settings):
        rules, kind = item.metadata, option_kind(item)
        said = rules["help"] + ("" if str(item.default) in ("None", "False", "") else f" (default: {item.default})")
        if kind is bool:
            more = {"action": argparse.BooleanOptionalAction if item.default else "store_true"}
        else:
            more = {"choices": rules["choices"]} if "choices" in rules else {"metavar": kind.__name__.upper()}
            more |= {"dest": item.name, "type": kind}
        flags = option_flag(item.name), *rules.get("also", ())
        options.append((flags, {"help": said, **UNSAID, **more}))
    return options


def _read_seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text} is not a list of whole numbers such as 0,1,2") from None


DATA_ROOT = _option("--data-root", "folder of raw datasets; default SGRE_DATA_ROOT, else data/raw", metavar="DIR")
EXPERIMENT = [
    _option("--exp-dir", "experiment folder, ours or the authors'", required=True, metavar="DIR"),
    _option("--data", "dataset name or prepared folder; default the experiment's"),
    DATA_ROOT,
    _option("--device", "auto, cpu, cuda or cuda:N", default="auto"),
]
BATCHES = [
    _option("--batch-size", "images at a time", type=int, default=64),
    _option("--num-workers", "image loading processes; -1: one a core, at most 8", type=int, default=-1),
]
THRESHOLD = _option("--threshold", "score from which a label is predicted, 0..1", type=float, default=0.5)
NEVER_PREDICTED = "precision of a label that is never predicted, in CP (the release counts 1)"
SCALES = {"choices": ("paper", "mini")}
TABLES = [
    _option("tables", "names in experiments/tables, or .toml files; default: all", nargs="*", metavar="TABLE"),
    _option("--seeds", "seeds of every row, instead of the table's", type=_read_seeds, metavar="N,N,..."),
]

# --- Verbs -----------------------------------------------------------------------------------------------------------


@_verb(
    "turn a raw dataset into its prepared folder",
    _option("--data", "dataset name; with --check also a prepared folder", required=True),
    DATA_ROOT,
    _option("--out", "prepared folder to write; default data/<data>", metavar="DIR"),
    _switch("--skip-missing", "leave out images the disk does not have, and record them"),
    _switch("--check", "check the prepared folder, or else the raw dataset: lists, mask, every photo; writes nothing"),
)
def _prepare(options: dict) -> int:
    from .datasets.prepare import check, describe_prepared, prepare

    if options.pop("check"):
        found = check(options["data"], data_root=options["data_root"], out=options["out"])
        print(found.text())
        return 0 if found.ok else 2
    print(describe_prepared(prepare(**options)))
    return 0


@_verb(
    "compute the label embeddings of a prepared dataset",
    _option("--data", "dataset name or prepared folder", required=True),
    _option("--embed-type", default="bert", choices=("bert", "sentence", "glove", "random"), help="what makes them"),
    _option("--text-model", "bert, sentence: local folder or hub name of the text encoder", metavar="NAME"),
    _option("--glove-file", "glove: text file of the vectors", metavar="FILE"),
    _option("--out", ".npy to write; default <prepared folder>/<embed type>.npy", metavar="FILE"),
)
def _embed(options: dict) -> None:
    from .datasets.label_embeddings import embed

    print(f"wrote {embed(**options)}")


WITHOUT_EFFECT = ("ema_epoch", "warmup_epoch")  # the released train.py has them and does not use them


@_verb(
    "train a model; writes an experiment folder",
    *_field_options(TrainSettings),
    *_field_options(MachineSettings),
    _option("--exp-dir", "experiment folder; default experiments/<model>_<data>/exp<N>", metavar="DIR", **UNSAID),
    _switch("--resume", "go on from what --exp-dir holds; start where it holds nothing", **UNSAID),
    *(
        _option(option_flag(name), "of the release, without effect there and here", type=int, metavar="INT", **UNSAID)
        for name in WITHOUT_EFFECT
    ),
)
def _train(options: dict) -> int:
    from .training.launch import recorded_end
    from .training.train import train

    for name in [name for name in WITHOUT_EFFECT if options.pop(name, None) is not None]:
        print(f"sgre: {option_flag(name)} has no effect, as in the released code", file=sys.stderr)
    try:
        with recorded_end():
            print(train(**options).exp_dir)
    except (Stopped, NonFiniteLoss, LoaderDied) as error:
        print(f"sgre: {error}", file=sys.stderr)
        return 1
    return 0


@_verb(
    "score the test images; writes result.json and its companions",
    *EXPERIMENT,
    *BATCHES,
    _option("--threshold", "score from which a label is predicted; default the experiment's", type=float),
    _option("--topk", "k of top-k metrics and of prediction.txt; default the experiment's", type=int),
    _option("--never-predicted", NEVER_PREDICTED, choices=("one", "zero"), default="one"),
)
def _evaluate(options: dict) -> None:
    from .evaluation.evaluate import evaluate
    from .evaluation.result_files import describe_metrics

    metrics = evaluate(**options)
    print("\n".join(describe_metrics(metrics, metrics["labels"], metrics["topk"])))


@_verb(
    "draw alignment maps of test images",
    *EXPERIMENT,
    _option("--images", "images by listed path, file name or stem; default: by rule", nargs="+", metavar="NAME"),
    _option("--limit", "how many images, where they are picked by rule", type=int, default=10),
    _option("--labels", "present, predicted, or NAME,NAME,...", default="present"),
    THRESHOLD,
)
def _visualize(options: dict) -> None:
    from .heatmaps.visualize import visualize

    print(*visualize(**options), sep="\n")


@_verb(
    "measure where labels look, by the boxes of the test images",
    *EXPERIMENT,
    _option("--limit", "the first so many test images only; default all", type=int),
    *BATCHES,
)
def _localise(options: dict) -> None:
    from .heatmaps.localise import describe_localisation, localise

    print("\n".join(describe_localisation(localise(**options))))


@_verb(
    "label photos of your own",
    _option("images", "files, folders, or quoted patterns ('photos/*.jpg')", nargs="+", metavar="IMAGE"),
    *EXPERIMENT,
    THRESHOLD,
    _option("--topk", "at most so many labels an image; with --threshold 0 always so many", type=int),
    _option("--format", "json has all labels' scores", choices=("text", "json", "csv"), default="text"),
    _option("--out", "write there; default the standard output", metavar="FILE"),
    _option("--heatmaps", "also draw one figure an image into this folder", metavar="DIR"),
    *BATCHES,
)
def _predict(options: dict) -> int:
    from .inference.predict import predict
    from .inference.predictions import describe_unreadable, format_predictions

    form, out = options.pop("format"), options.pop("out")
    out = None if out is None else check_out(out)
    predictions = predict(**options)
    text = format_predictions(predictions, form)
    if out is not None:
        print(f"wrote {write_text(out, text)}")
    else:
        if hasattr(sys.stdout, "reconfigure"):  # a file's name may have signs that the terminal has not
            sys.stdout.reconfigure(errors="backslashreplace")
        print(text, end="")
    unreadable = describe_unreadable(predictions)
    if unreadable:
        print(f"sgre: {unreadable}", file=sys.stderr)
    return 2 if unreadable else 0


@_verb(
    "write the model as an ONNX file, checked against PyTorch",
    *EXPERIMENT[:-1],
    _option("--out", "the .onnx file to write", required=True, metavar="FILE"),
    _option("--image-size", "side of the square input, pixels; default the experiment's", type=int),
    _option("--opset", "ONNX operator set, 14 to 20", type=int, default=17),
)
def _export(options: dict) -> int:
    from .inference.export_onnx import ExportMismatch, describe_file, export_onnx

    try:
        print(describe_file(export_onnx(**options)))
    except ExportMismatch as error:
        print(f"sgre: {error}", file=sys.stderr)
        return 1
    return 0


@_verb(
    "run a table's rows through the notebooks; writes table and report",
    *TABLES,
    _option("--scale", "real dataset (default), or the same rows on mini; --list and --verify: default both", **SCALES),
    _option("--only", "run these rows only", nargs="+", metavar="ROW"),
    _switch("--force", "run again what is done; the old is kept aside"),
    _option("--jobs", "runs side by side, one a GPU; of --slurm: tasks at a time", type=int, default=1),
    _option("--only-run", "run only these, by key, and write no table", nargs="+", metavar="KEY"),
    _option("--machine", "TOML file of the options below, which win over it", metavar="FILE"),
    machine=_field_options(MachineSettings),
    ways=(
        _switch("--list", "show tables with their state and cost, and stop"),
        _switch("--dry-run", "show what would run, and its hours; writes nothing"),
        _switch("--verify", "derive every number again from the stored scores"),
        _option("--slurm", "write a Slurm array script, one task a run, and stop", metavar="FILE"),
    ),
)
def _reproduce(options: dict) -> int:
    tables, scale = options["tables"] or None, options["scale"]
    if options["list"]:
        from .tables.results import list_tables

        print(list_tables(tables, scale=scale))
        return 0
    if options["verify"]:
        return _verify(tables, scale)
    named = {item.name: options[item.name] for item in fields(MachineSettings) if item.name in options}
    machine = (read_machine(options["machine"]) if options["machine"] else MachineSettings()).replace(**named).check()
    chosen = {"only": options["only"], "force": options["force"], "runs": options["only_run"]}
    if options["dry_run"] or options["slurm"]:
        return _plan(options, tables, scale or "paper", machine, chosen)
    from .tables.reproduce import reproduce

    # A cluster ends a job with SIGTERM: as on Ctrl-C, training saves first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    chosen |= {"seeds": options["seeds"], "jobs": options["jobs"], "machine": machine}
    results = reproduce(tables, scale=scale or "paper", **chosen)
    if options["only_run"]:
        runs = [run for result in results for row in result.rows for run in row.runs]
        return 1 if any(run.state != "done" for run in runs if run.run.key in options["only_run"]) else 0
    return 1 if any(result.failed or result.report_problem for result in results) else 0


def _verify(tables: list[str] | None, scale: str | None) -> int:
    from .tables.plan import read_tables, results_folder
    from .tables.verify import verify_table

    right = True
    for table in read_tables(tables, scale):
        line, differences = verify_table(table, results_folder())
        print(line, *(f"    {difference}" for difference in differences), sep="\n")
        right = right and not differences
    return 0 if right else 1


def _plan(options: dict, tables: list[str] | None, scale: str, machine: MachineSettings, chosen: dict) -> int:
    from .tables.plan import describe_plan, plan_runs, read_tables, results_folder
    from .tables.slurm import write_slurm

    seeds, jobs = options["seeds"], options["jobs"]
    plan = plan_runs(read_tables(tables, scale, seeds), results_folder(), **chosen)
    if options["dry_run"]:
        print(describe_plan(plan, jobs))
    else:
        script = write_slurm(plan, options["slurm"], jobs=jobs, seeds=seeds, machine=machine)
        print(f"wrote {script}: {len(plan)} tasks")
    return 0


@_verb(
    "write all tables, runs and executed notebooks as one offline HTML folder",
    *TABLES,
    _option("--scale", "only this one; default both", **SCALES),
    _option("--out", "new, empty or earlier report folder; default experiments/report", metavar="DIR"),
)
def _report(options: dict) -> None:
    from .tables.report import build_report

    options["tables"] = options["tables"] or None
    print(build_report(options.pop("out"), **options))

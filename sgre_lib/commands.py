"""The command line: one verb for each library function, with the same parameter names.

A verb is two functions side by side: one adds its options to its parser, one calls the library. `VERBS` lists them.
Exit status: 0 done; 2 for a mistake of the user's (one line on stderr); 1 for anything else.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import NamedTuple

from . import __version__
from .base.errors import LoaderDied, NonFiniteLoss, Stopped, UserError
from .base.files import write_text
from .base.places import check_out
from .base.settings import MachineSettings, TrainSettings, option_flag, option_kind, read_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = make_parser()
    try:
        options = vars(parser.parse_args(arguments))
        verb = options.pop("verb")
        if verb is None:
            parser.print_help()
            return 0
        return VERBS[verb].run(options) or 0
    except UserError as error:
        print(f"sgre: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sgre: interrupted", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="sgre", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for name, verb in VERBS.items():
        verb.add_options(verbs.add_parser(name, help=verb.purpose))
    return parser


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


# --- Options that several verbs have ---------------------------------------------------------------------------------


def _add_data_root(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--data-root", metavar="DIR", help="folder of raw datasets; default SGRE_DATA_ROOT, else data/raw")


def _add_experiment(verb: argparse.ArgumentParser, *, device: bool = True) -> None:
    verb.add_argument("--exp-dir", required=True, metavar="DIR", help="experiment folder, ours or the authors'")
    verb.add_argument("--data", help="dataset name or prepared folder; default the experiment's")
    _add_data_root(verb)
    if device:
        verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_batches(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--batch-size", type=int, default=64, help="images at a time")
    verb.add_argument("--num-workers", type=int, default=-1, help="image loading processes; -1: one a core, at most 8")


def _add_threshold(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--threshold", type=float, default=0.5, help="score from which a label is predicted, 0..1")


def _add_fields(verb: argparse.ArgumentParser, settings: type) -> None:
    """One option for each field of settings; what is not said is not in the result."""
    add, unsaid = verb.add_argument, {"default": argparse.SUPPRESS}
    for item in fields(settings):
        rules, kind = item.metadata, option_kind(item)
        flags = [option_flag(item.name), *rules.get("also", ())]
        said = rules["help"] + ("" if str(item.default) in ("None", "False", "") else f" (default: {item.default})")
        if kind is bool:
            add(*flags, action=argparse.BooleanOptionalAction if item.default else "store_true", help=said, **unsaid)
        else:
            more = {"choices": rules["choices"]} if "choices" in rules else {"metavar": kind.__name__.upper()}
            add(*flags, dest=item.name, type=kind, help=said, **more, **unsaid)


def _add_tables(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("tables", nargs="*", metavar="TABLE", help="names in experiments/tables, or .toml files; default: all")
    add("--seeds", metavar="N,N,...", help="seeds of every row, instead of the table's")


def _read_seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text} is not a list of whole numbers such as 0,1,2") from None


def _prepare_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--data", required=True, help="dataset name; with --check also a prepared folder")
    _add_data_root(verb)
    add("--out", metavar="DIR", help="prepared folder to write; default data/<data>")
    add("--skip-missing", action="store_true", help="leave out images the disk does not have, and record them")
    what = "check the prepared folder, or else the raw dataset: lists, mask, every photo; writes nothing"
    add("--check", action="store_true", help=what)


def _prepare(options: dict) -> int:
    from .datasets.prepare import check, describe_prepared, prepare

    if options.pop("check"):
        found = check(options["data"], data_root=options["data_root"], out=options["out"])
        print(found.text())
        return 0 if found.ok else 2
    print(describe_prepared(prepare(**options)))
    return 0


def _embed_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--data", required=True, help="dataset name or prepared folder")
    add("--embed-type", default="bert", choices=("bert", "sentence", "glove", "random"), help="what makes them")
    add("--text-model", metavar="NAME", help="bert, sentence: local folder or hub name of the text encoder")
    add("--glove-file", metavar="FILE", help="glove: text file of the vectors")
    add("--out", metavar="FILE", help=".npy to write; default <prepared folder>/<embed type>.npy")


def _embed(options: dict) -> None:
    from .datasets.label_embeddings import embed

    print(f"wrote {embed(**options)}")


def _train_options(verb: argparse.ArgumentParser) -> None:
    _add_fields(verb, TrainSettings)
    _add_fields(verb, MachineSettings)
    add, unsaid = verb.add_argument, {"default": argparse.SUPPRESS}
    add("--exp-dir", metavar="DIR", help="experiment folder; default experiments/<model>_<data>/exp<N>", **unsaid)
    add("--resume", action="store_true", help="go on from what --exp-dir holds; start where it holds nothing", **unsaid)
    for name in WITHOUT_EFFECT:
        add(option_flag(name), type=int, metavar="INT", help="of the release, without effect there and here", **unsaid)


WITHOUT_EFFECT = ("ema_epoch", "warmup_epoch")  # the released train.py has them and does not use them


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


def _evaluate_options(verb: argparse.ArgumentParser) -> None:
    _add_experiment(verb)
    _add_batches(verb)
    verb.add_argument("--threshold", type=float, help="score from which a label is predicted; default the experiment's")
    verb.add_argument("--topk", type=int, help="k of top-k metrics and of prediction.txt; default the experiment's")
    precision = "precision of a label that is never predicted, in CP (the release counts 1)"
    verb.add_argument("--never-predicted", default="one", choices=("one", "zero"), help=precision)


def _evaluate(options: dict) -> None:
    from .evaluation.evaluate import evaluate
    from .evaluation.result_files import describe_metrics

    metrics = evaluate(**options)
    print("\n".join(describe_metrics(metrics, metrics["labels"], metrics["topk"])))


def _visualize_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    _add_experiment(verb)
    add("--images", nargs="+", metavar="NAME", help="images by listed path, file name or stem; default: by rule")
    add("--limit", type=int, default=10, help="how many images, where they are picked by rule")
    add("--labels", default="present", help="present, predicted, or NAME,NAME,...")
    _add_threshold(verb)


def _visualize(options: dict) -> None:
    from .heatmaps.visualize import visualize

    for folder in visualize(**options):
        print(folder)


def _localise_options(verb: argparse.ArgumentParser) -> None:
    _add_experiment(verb)
    verb.add_argument("--limit", type=int, help="the first so many test images only; default all")
    _add_batches(verb)


def _localise(options: dict) -> None:
    from .heatmaps.localise import describe_localisation, localise

    print("\n".join(describe_localisation(localise(**options))))


def _predict_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or quoted patterns ('photos/*.jpg')")
    _add_experiment(verb)
    _add_threshold(verb)
    verb.add_argument("--topk", type=int, help="at most so many labels an image; with --threshold 0 always so many")
    verb.add_argument("--format", choices=("text", "json", "csv"), default="text", help="json has all labels' scores")
    verb.add_argument("--out", metavar="FILE", help="write there; default the standard output")
    verb.add_argument("--heatmaps", metavar="DIR", help="also draw one figure an image into this folder")
    _add_batches(verb)


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


def _export_options(verb: argparse.ArgumentParser) -> None:
    _add_experiment(verb, device=False)
    verb.add_argument("--out", required=True, metavar="FILE", help="the .onnx file to write")
    verb.add_argument("--image-size", type=int, help="side of the square input, pixels; default the experiment's")
    verb.add_argument("--opset", type=int, default=17, help="ONNX operator set, 14 to 20")


def _export(options: dict) -> int:
    from .inference.export_onnx import ExportMismatch, describe_file, export_onnx

    try:
        print(describe_file(export_onnx(**options)))
    except ExportMismatch as error:
        print(f"sgre: {error}", file=sys.stderr)
        return 1
    return 0


def _reproduce_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    _add_tables(verb)
    scales = "real dataset (default), or the same rows on mini; --list and --verify: default both"
    add("--scale", choices=("paper", "mini"), help=scales)
    add("--only", nargs="+", metavar="ROW", help="run these rows only")
    add("--force", action="store_true", help="run again what is done; the old is kept aside")
    add("--jobs", type=int, default=1, help="runs side by side, one a GPU; of --slurm: tasks at a time")
    add("--only-run", nargs="+", metavar="KEY", help="run only these, by key, and write no table")
    add("--machine", metavar="FILE", help="TOML file of the options below, which win over it")
    _add_fields(verb.add_argument_group("what computes"), MachineSettings)
    ways = verb.add_mutually_exclusive_group()
    ways.add_argument("--list", action="store_true", help="show tables with their state and cost, and stop")
    ways.add_argument("--dry-run", action="store_true", help="show what would run, and its hours; writes nothing")
    ways.add_argument("--verify", action="store_true", help="derive every number again from the stored scores")
    ways.add_argument("--slurm", metavar="FILE", help="write a Slurm array script, one task a run, and stop")


def _reproduce(options: dict) -> int:
    tables, scale = options["tables"] or None, options["scale"]
    if options["list"]:
        from .tables.results import list_tables

        print(list_tables(tables, scale=scale))
        return 0
    if options["verify"]:
        return _verify(tables, scale)
    seeds, machine = _read_seeds(options["seeds"]), _read_machine(options)
    if options["dry_run"] or options["slurm"]:
        return _plan(options, tables, scale or "paper", seeds, machine)
    from .tables.reproduce import reproduce

    # A cluster ends a job with SIGTERM: as on Ctrl-C, training saves first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    chosen = {name: options[name] for name in ("only", "force", "jobs")}
    chosen |= {"runs": options["only_run"], "machine": machine}
    results = reproduce(tables, scale=scale or "paper", seeds=seeds, **chosen)
    if options["only_run"]:
        runs = [run for result in results for row in result.rows for run in row.runs]
        return 1 if any(run.state != "done" for run in runs if run.run.key in options["only_run"]) else 0
    return 1 if any(result.failed or result.report_problem for result in results) else 0


def _read_machine(options: dict) -> MachineSettings:
    """What the options say of the machine, over what the file of `--machine` says."""
    named = {item.name: options[item.name] for item in fields(MachineSettings) if item.name in options}
    file = options["machine"]
    return (read_machine(file) if file else MachineSettings()).replace(**named).check()


def _verify(tables: list[str] | None, scale: str | None) -> int:
    from .tables.plan import read_tables, results_folder
    from .tables.verify import verify_table

    right = True
    for table in read_tables(tables, scale):
        line, differences = verify_table(table, results_folder())
        print(line, *(f"    {difference}" for difference in differences), sep="\n")
        right = right and not differences
    return 0 if right else 1


def _plan(
    options: dict, tables: list[str] | None, scale: str, seeds: list[int] | None, machine: MachineSettings
) -> int:
    from .tables.plan import describe_plan, plan_runs, read_tables, results_folder
    from .tables.slurm import write_slurm

    chosen = {"only": options["only"], "runs": options["only_run"], "force": options["force"]}
    plan = plan_runs(read_tables(tables, scale, seeds), results_folder(), **chosen)
    if options["dry_run"]:
        print(describe_plan(plan, options["jobs"]))
    else:
        script = write_slurm(plan, options["slurm"], jobs=options["jobs"], seeds=seeds, machine=machine)
        print(f"wrote {script}: {len(plan)} tasks")
    return 0


def _report_options(verb: argparse.ArgumentParser) -> None:
    _add_tables(verb)
    verb.add_argument("--scale", choices=("paper", "mini"), help="only this one; default both")
    verb.add_argument("--out", metavar="DIR", help="new, empty or earlier report folder; default experiments/report")


def _report(options: dict) -> None:
    from .tables.report import build_report

    tables, seeds = options["tables"] or None, _read_seeds(options["seeds"])
    print(build_report(options["out"], tables=tables, scale=options["scale"], seeds=seeds))


class Verb(NamedTuple):
    """purpose: a line of `sgre --help`. run: gets the options by name and returns an exit status, None being 0."""

    purpose: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[dict], int | None]


VERBS = {
    "prepare": Verb("turn a raw dataset into its prepared folder", _prepare_options, _prepare),
    "embed": Verb("compute the label embeddings of a prepared dataset", _embed_options, _embed),
    "train": Verb("train a model; writes an experiment folder", _train_options, _train),
    "evaluate": Verb("score the test images; writes result.json and its companions", _evaluate_options, _evaluate),
    "visualize": Verb("draw alignment maps of test images", _visualize_options, _visualize),
    "localise": Verb("measure where labels look, by the boxes of the test images", _localise_options, _localise),
    "predict": Verb("label photos of your own", _predict_options, _predict),
    "export": Verb("write the model as an ONNX file, checked against PyTorch", _export_options, _export),
    "reproduce": Verb(
        "run a table's rows through the notebooks; writes table and report", _reproduce_options, _reproduce
    ),
    "report": Verb(
        "write all tables, runs and executed notebooks as one offline HTML folder", _report_options, _report
    ),
}
"""The verbs, in the order of `sgre --help`."""

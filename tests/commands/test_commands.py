"""Protects the command line: exit statuses, one line for a mistake, nothing written before it is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TINY, run_sgre, train_words

from sgre_lib.base.settings import MachineSettings, TrainSettings, make_machine, make_settings, split_settings
from sgre_lib.commands import PARSER, VERBS, main


def run(arguments, capsys) -> tuple[int, str]:
    """Exit status and stderr of one command, in this process."""
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


def without(options: dict, *names: str) -> dict:
    return {name: value for name, value in options.items() if name not in names}


def test_the_published_command_parses():
    words = "train --model mlic --arch resnet101 --data voc2007 --loss asl --batch-size 128 --lr 0.00009 --lamda 0.1"
    options = vars(PARSER.parse_args([*words.split(), "--ema-decay", "0.9983", "--pos", "-twd", "--rm-cls"]))
    settings = make_settings(**split_settings(without(options, "verb"))[0])
    assert (settings.lr, settings.ema_decay, settings.pos) == (9e-5, 0.9983, True)
    assert (settings.true_weight_decay, settings.rm_cls) == (True, True)
    assert (settings.epochs, settings.image_size, settings.seed, settings.embed_type) == (60, 448, 0, "bert")


def test_settings_survive_the_command_line():
    settings = make_settings(data="x", lr=3e-4, pos=True, pretrained=False, output_stride=16)
    machine = make_machine(num_workers=0, tensorboard=True)
    options = vars(PARSER.parse_args(["train", *settings.arguments(), *machine.arguments()]))
    of_training, of_machine = split_settings(without(options, "verb"))
    assert make_settings(**of_training) == settings
    assert make_machine(**of_machine) == machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--data"),
        (["train", "--data", "x", "--epoch", "3"], "--epoch 3"),  # no abbreviations
        (["train", "--data", "x", "--lr", "0"], "--lr 0.0 must be above 0"),
        (["train", "--data", "x", "--lr", "fast"], "invalid float value: 'fast'"),
        (["train", "--data", "x", "--batch-size", "5", "--processes", "2"], "not a multiple"),
        (["train", "--data", "nowhere/at/all"], "nowhere/at/all does not exist"),
        (["train", "--data", "x", "--resume"], "--resume needs --exp-dir"),
        (["train", "--data", "x", "--backbone-weights", "none.pth"], "none.pth is not a file"),
        (["train", "--data", "x", "--image-size", "0"], "--image-size 0 is below 8"),
        (["prepare", "--data", "imagenet"], "unknown dataset 'imagenet'"),
        (["evaluate", "--exp-dir", "nowhere"], "--exp-dir nowhere does not exist"),
        (["evaluate"], "--exp-dir"),
        (["visualize", "--exp-dir", "nowhere"], "nowhere does not exist"),
        (["reproduce", "no-such-table"], "no table 'no-such-table'"),
        (["embed", "--data", "nowhere/at/all"], "does not exist"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, errors = run(arguments, capsys)
    assert status == 2
    assert len(errors.strip().splitlines()) == 1
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_mistakes_known_only_with_the_data_leave_nothing_behind(small_mini, tmp_path, capsys):
    exp_dir = tmp_path / "exp"
    tiny = train_words(data=str(small_mini), **TINY)
    for more, message in (
        (["--embed-type", "bert"], "bert.npy are missing"),
        (["--embed-type", "random", "--arch", "no_such_net"], "--arch no_such_net"),
        (["--embed-type", "random", "--num-heads", "7"], "--num-heads 7 does not divide"),
        (["--embed-type", "random", "--device", "cuda:99"], "cuda"),
    ):
        status, errors = run([*tiny, *more, "--exp-dir", exp_dir], capsys)
        assert status == 2
        assert message in errors.strip().splitlines()[-1]
        assert not exp_dir.exists()


def test_whole_way_from_the_shell(data_root, tmp_path):
    """prepare, train, evaluate and visualize as a user types them, in a folder of their own."""

    def sgre(*arguments):
        done = run_sgre(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "fingerprint" in sgre("prepare", "--data", "mini", "--data-root", data_root)
    sgre("embed", "--data", "mini", "--embed-type", "random")
    assert np.load(tmp_path / "data/mini/random.npy").shape == (16, 768)
    tiny = train_words(data="mini", embed_type="minilm", **TINY)
    folder = sgre(*tiny, "--data-root", data_root).strip().splitlines()[-1]
    assert folder.endswith("experiments/mlic_mini/exp1")
    assert "mAP" in sgre("evaluate", "--exp-dir", folder)
    assert sgre("visualize", "--exp-dir", folder, "--limit", "2").count("visualization") == 2


def test_help_says_every_default():
    text = run_sgre("train", "--help").stdout
    for name in ("--lamda", "--ema-decay", "--image-size", "--orid-norm", "-twd"):
        assert name in text
    assert "default: 0.9997" in text
    assert all("--" + name.replace("_", "-") in text for name in vars(TrainSettings()) | vars(MachineSettings()))


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_explains_each_option(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: sgre {verb} ")
    (verbs,) = (action.choices for action in PARSER._actions if action.dest == "verb")
    for action in verbs[verb]._actions:
        assert action.help, action.dest
        assert all(flag in shown for flag in action.option_strings)

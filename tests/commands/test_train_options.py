"""Protects the options of `sgre train`: their names, the release's spelling and defaults, what each one takes."""

from __future__ import annotations

import argparse
from dataclasses import fields

import pytest

from sgre_lib.base.settings import MachineSettings, TrainSettings
from sgre_lib.commands import PARSER, main

RELEASED = {
    "--arch": "resnet101", "--batch-size": 64, "--clip": 0.0, "--data": "", "--ema-decay": 0.9997,
    "--embed-type": "bert", "--estop": False, "--gamma-neg": 2.0, "--gamma-pos": 0.0, "--img-size": 448,
    "--lamda": 1.0, "--loss": "asl", "--lr": 1e-4, "--lr-scheduler": "OneCycleLR", "--max-epochs": 60,
    "--model": "mlic", "--normalize-before": False, "--num-heads": 8, "--num-layers": 1, "--optimizer": "AdamW",
    "--orid-norm": False, "--pct-start": 0.2, "--pos": False, "--pretrained-model": None, "--rm-cls": False,
    "--seed": 0, "--tau": 1.0, "--threshold": 0.5, "--topk": 3, "-twd": False, "--weight-decay": 1e-4, "--amp": False,
}  # fmt: skip
"""Options of the released `train.py`, with its defaults."""

OURS = {
    "--accumulate": 1, "--augment": "full", "--backbone-weights": None, "--branches": "both", "--channels-last": False,
    "--compile": False, "--deterministic": False, "--epochs": 60, "--image-size": 448, "--output-stride": None,
    "--pretrained": True, "--no-pretrained": True, "--step-size": None, "--true-weight-decay": False,
    "--cache": "none", "--data-root": None, "--device": "auto", "--num-workers": -1, "--processes": 1,
    "--save-minutes": 10.0, "--tensorboard": False,
}  # fmt: skip
"""Options of ours, with their defaults."""

NEITHER = {"-h", "--help", "--exp-dir", "--resume", "--ema-epoch", "--warmup-epoch"}

CHOICES = {
    "--optimizer": ("AdamW", "Adam", "SGD"),
    "--lr-scheduler": ("OneCycleLR", "StepLR", "ReduceLROnPlateau"),
    "--loss": ("asl", "bce"),
    "--model": ("mlic", "gap"),
    "--branches": ("both", "patch", "object"),
    "--augment": ("full", "flip", "none"),
    "--cache": ("none", "memory", "disk"),
    "--output-stride": (8, 16, 32),
}


def train_actions() -> dict[str, argparse.Action]:
    """The options of `sgre train` by flag."""
    verbs = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction))
    return {flag: action for action in verbs.choices["train"]._actions for flag in action.option_strings}


def test_the_option_list_is_frozen():
    actions = train_actions()
    assert set(actions) == set(RELEASED) | set(OURS) | NEITHER
    defaults = {item.name: item.default for kind in (TrainSettings, MachineSettings) for item in fields(kind)}
    found = {flag: defaults[actions[flag].dest] for flag in RELEASED | OURS}
    assert found == RELEASED | OURS
    assert {flag: tuple(a.choices) for flag, a in actions.items() if a.choices} == CHOICES


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--img-size 224", "image_size", 224),
        ("--image-size 224", "image_size", 224),
        ("--max-epochs 3", "epochs", 3),
        ("-twd", "true_weight_decay", True),
        ("--lr 0.0001", "lr", 1e-4),  # also where it is the default: the user has asked for it
    ],
)
def test_what_is_said_and_nothing_else_is_passed_on(words, name, value):
    options = vars(PARSER.parse_args(["train", *words.split()]))
    assert options == {"verb": "train", name: value}


def test_options_without_effect_say_so_in_a_line(capsys):
    assert main(["train", "--ema-epoch", "5", "--warmup-epoch", "1", "--data", "nowhere/at/all"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "--ema-epoch has no effect" in lines[0]
    assert "--warmup-epoch has no effect" in lines[1]
    assert "nowhere/at/all does not exist" in lines[2]

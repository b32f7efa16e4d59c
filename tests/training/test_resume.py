"""Protects starting and going on: --resume as one command, what may differ, every schedule to the bit, other weights."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import TINY, run_sgre, train_words

from sgre_lib import (
    UserError,
    build_model,
    evaluate,
    export_released,
    make_settings,
    train,
)
from sgre_lib.base.config import read_config
from sgre_lib.base.errors import Stopped
from sgre_lib.model.checkpoints import read_checkpoint, write_checkpoint
from sgre_lib.model.experiment import BEST, LAST, PREVIOUS
from sgre_lib.training.loop import Trainer
from sgre_lib.training.resume import CLASSIFIERS, load_pretrained


def options(small_mini, **changes):
    return {"data": str(small_mini), "embed_type": "random", "pos": True, **TINY, **changes}


class StopAfterFour(Trainer):
    """A trainer that is asked to stop, as by SIGTERM, in its fourth step."""

    def step(self, *arguments):
        self.stopping.asked = self.steps_done == 3
        return super().step(*arguments)


RECIPES = {
    "AdamW, StepLR": {"lr_scheduler": "StepLR", "step_size": 1},
    "Adam, ReduceLROnPlateau": {"optimizer": "Adam", "lr_scheduler": "ReduceLROnPlateau"},
    "SGD, OneCycleLR": {"optimizer": "SGD", "lr": 1e-5, "pct_start": 0.4},
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_resumes_to_the_bit(small_mini, tmp_path, monkeypatch, recipe):
    chosen = options(small_mini, epochs=3, **RECIPES[recipe])
    whole = train(**chosen, exp_dir=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("sgre_lib.training.train.Trainer", StopAfterFour)
        with pytest.raises(Stopped):
            train(**chosen, exp_dir=tmp_path / "cut", progress=False)
    train(exp_dir=tmp_path / "cut", resume=True, progress=False)
    one, other = (read_checkpoint(folder / LAST) for folder in (whole.exp_dir, tmp_path / "cut"))
    for key in ("model", "average", "optimizer", "schedule", "generators"):
        leaves = [torch.utils._pytree.tree_leaves(state[key]) for state in (one, other)]
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*leaves, strict=True))


# --- One command for the start and every restart -------------------------------------------------------------------


def test_one_command_starts_and_goes_on(small_mini, tmp_path):
    words = train_words(**options(small_mini, epochs=1, exp_dir=tmp_path / "exp"))
    first = run_sgre(*words, "--resume")
    assert first.returncode == 0, first.stderr
    assert "nothing is saved" in (tmp_path / "exp" / "train.log").read_text()
    weights = (tmp_path / "exp" / BEST).read_bytes()
    second = run_sgre(*words, "--resume")
    assert second.returncode == 0, second.stderr
    log = (tmp_path / "exp" / "train.log").read_text()
    assert log.count("nothing is saved") == 1
    assert "resumed at epoch 2" in log
    assert (tmp_path / "exp" / BEST).read_bytes() == weights


def test_nothing_saved_and_nothing_asked_for_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing is saved in .*none yet, and --data is missing"):
        train(exp_dir=tmp_path / "none", resume=True, progress=False)
    assert not (tmp_path / "none").exists()


def test_an_experiment_without_its_state_is_not_begun_anew(experiment, small_mini, tmp_path):
    copy = tmp_path / "exp"
    shutil.copytree(experiment, copy)
    for name in (LAST, PREVIOUS):
        (copy / name).unlink()
    with pytest.raises(UserError, match="nothing to go on from"):
        train(**options(small_mini), exp_dir=copy, resume=True, progress=False)


def test_what_is_asked_for_must_be_what_is_stored(experiment, tmp_path):
    copy = tmp_path / "exp"
    shutil.copytree(experiment, copy)
    for asked, message in (
        ({"lr": 0.5}, r"--lr 0\.5 differs from 0\.001"),
        ({"lr": 1e-4}, r"--lr 0\.0001 differs from 0\.001"),  # the default, but asked for
        ({"optimizer": "SGD"}, "--optimizer SGD differs from AdamW"),
        ({"settings": make_settings(data="elsewhere")}, "--data elsewhere differs"),
    ):
        with pytest.raises(UserError, match=message):
            train(**asked, exp_dir=copy, resume=True, progress=False)
    # A setting that is left at its default in whole settings was not asked for; of the machine anything may differ.
    stored = read_config(copy / "config.yaml").settings
    train(make_settings(data=stored.data), exp_dir=copy, resume=True, cache="memory", progress=False)
    assert read_config(copy / "config.yaml").machine.cache == "memory"
    assert read_config(copy / "config.yaml").settings == stored


def test_a_run_of_several_processes_goes_on_in_as_many(experiment, tmp_path, monkeypatch):
    """What is asked of the machine is passed on also where it is the default, and another number is stored."""
    copy, calls = tmp_path / "exp", []
    shutil.copytree(experiment, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        text.replace("processes: 1", "processes: 2").replace("cache: none", "cache: disk")
    )
    monkeypatch.setattr("sgre_lib.training.train.launch", lambda *said: calls.append(said))
    train(exp_dir=copy, resume=True, cache="none", progress=False)
    ((words, processes, _),) = calls
    assert processes == 2
    assert "--resume" in words
    assert words[words.index("--cache") + 1] == "none"
    assert words[words.index("--processes") + 1] == "2"


# --- Weights of another model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("released", [False, True])
def test_a_model_of_this_method_to_start_from(tmp_path, released):
    """All but the classifiers, which belong to its labels: here there are fewer."""
    config = {"arch": "resnet18", "image_size": 64, "pos": True, "embed_type": "minilm"}
    theirs, ours = (build_model(config, False, label_embeddings=torch.randn(count, 384)) for count in (7, 5))
    state = theirs.state_dict()
    if released:
        write_checkpoint(tmp_path / "model.pth", dict(export_released(state, "resnet18")))
    else:
        write_checkpoint(tmp_path / "model.pth", state)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    load_pretrained(ours, str(tmp_path / "model.pth"))
    for name, value in ours.state_dict().items():
        expected = before if name.startswith(CLASSIFIERS) else state
        assert torch.equal(value, expected[name]), name


def test_a_run_that_starts_from_a_model(experiment, small_mini, tmp_path):
    chosen = options(small_mini, embed_type="minilm", epochs=1, lr=1e-12, ema_decay=1.0)
    result = train(**chosen, pretrained_model=str(experiment / LAST), exp_dir=tmp_path / "exp", progress=False)
    theirs, ours = read_checkpoint(experiment / LAST)["average"], read_checkpoint(result.exp_dir / BEST)
    name = "head.inter_modal.project_labels.weight"
    assert torch.equal(theirs[name], ours[name])
    config = tmp_path / "exp" / "config.yaml"  # whoever goes on needs the file no more
    config.write_text(config.read_text().replace(str(experiment / LAST), "gone.pth"))
    train(exp_dir=tmp_path / "exp", resume=True, progress=False)
    with pytest.raises(UserError, match=r"--pretrained-model none\.pth is not a file"):
        train(**options(small_mini), pretrained_model="none.pth", progress=False)
    with pytest.raises(UserError, match="another model wrote it"):
        train(**options(small_mini, model="gap"), pretrained_model=str(experiment / BEST), progress=False)


def test_evaluate_takes_the_threshold_and_k_of_the_experiment(experiment, tmp_path):
    copy = tmp_path / "exp"
    shutil.copytree(experiment, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("threshold: 0.5", "threshold: 0.25").replace("topk: 3", "topk: 2"))
    metrics = evaluate(copy, num_workers=0, progress=False)
    assert (metrics["threshold"], metrics["topk"]) == (0.25, 2)
    assert "top2_CF1" in metrics
    metrics = evaluate(copy, threshold=0.5, topk=1, num_workers=0, progress=False)
    assert (metrics["threshold"], metrics["topk"]) == (0.5, 1)

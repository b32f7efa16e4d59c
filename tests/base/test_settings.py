"""Protects the two kinds of settings: which name belongs where, their checks, config.yaml of today and of before."""

from __future__ import annotations

import pytest
import yaml

from sgre_lib import UserError, make_machine, make_settings
from sgre_lib.base.config import read_config, write_config
from sgre_lib.base.settings import MachineSettings, TrainSettings, read_machine, split_settings


def test_every_name_belongs_to_one_of_the_two():
    assert not set(vars(TrainSettings())) & set(vars(MachineSettings()))
    assert split_settings({"lr": "9e-5", "num_workers": "2"}) == ({"lr": 9e-5}, {"num_workers": 2})
    with pytest.raises(UserError, match="unknown setting 'num_worker': did you mean 'num_workers'"):
        split_settings({"lr": 1, "num_worker": 2})
    with pytest.raises(UserError, match="unknown setting 'device'"):
        make_settings(data="x", device="cpu")
    with pytest.raises(UserError, match="--processes 0 is below 1"):
        make_machine(processes=0)


def test_a_machine_file(tmp_path):
    path = tmp_path / "machine.toml"
    path.write_text('device = "cpu"\nprocesses = 2\ncache = "disk"\n')
    assert read_machine(path) == MachineSettings(device="cpu", processes=2, cache="disk")
    for text, message in (("lr = 1.0", "unknown setting 'lr'"), ("processes = 0", "below 1"), ("x", "is not TOML")):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"machine\.toml.*{message}"):
            read_machine(path)
    with pytest.raises(UserError, match=r"the machine file .*none\.toml cannot be read"):
        read_machine(tmp_path / "none.toml")


def test_config_keeps_both_kinds_apart_and_derived_values(tmp_path):
    settings, machine = make_settings(data="x", lr=3e-5), make_machine(num_workers=3)
    write_config(tmp_path / "config.yaml", settings, machine, grid=[2, 2])
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (content["lr"], content["machine"]["num_workers"], "num_workers" in content) == (3e-5, 3, False)
    assert read_config(tmp_path / "config.yaml") == (settings, machine, {"derived": {"grid": [2, 2]}})


def test_config_of_a_folder_that_names_the_machine_among_the_rest(tmp_path):
    text = "data: x\nlr: 9e-05\nimg_size: 224\nworkers: 4\ndata_root: /raw\nexp_dir: null\nsomething: 1\n"
    (tmp_path / "config.yaml").write_text(text)
    settings, machine, more = read_config(tmp_path / "config.yaml")
    assert (settings.lr, settings.image_size) == (9e-5, 224)
    assert machine == MachineSettings(num_workers=4, data_root="/raw")
    assert more == {"exp_dir": None, "something": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nlr: fast", "--lr 'fast' is not a number"),
        ("data: x\nmachine: {processes: 0}", "--processes 0 is below 1"),
        ("data: x\nlr: [1]", "lr is a list"),
        ("lr: 1", "which data"),
        ("- 1", "not a list of settings"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "config.yaml")

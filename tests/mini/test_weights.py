"""Protects the making of mini's backbone weights: its pictures, and that the shipped file is a state it can make."""

from __future__ import annotations

import numpy as np
import torch

from sgre_lib.mini import COMPANIONS
from sgre_lib.mini.objects import LABELS
from sgre_lib.mini.weights import SIDE, draw_named_object, train_backbone


def test_a_picture_shows_one_label_and_follows_from_its_number():
    picture, label = draw_named_object(7)
    again, _ = draw_named_object(7)
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(picture, again)
    assert {draw_named_object(index)[1] for index in range(80)} == set(range(len(LABELS)))
    assert 0 <= label < len(LABELS)


def test_a_few_steps_make_what_the_shipped_file_holds(capsys):
    backbone, accuracy = train_backbone(pictures=256, tested=32, epochs=1)
    shipped = torch.load(COMPANIONS[1], weights_only=True)
    made = backbone.state_dict()
    assert {name: value.shape for name, value in made.items()} == {k: v.shape for k, v in shipped.items()}
    assert made["bn1.num_batches_tracked"] == 4
    assert 0 <= accuracy <= 1
    assert "unseen pictures" in capsys.readouterr().out

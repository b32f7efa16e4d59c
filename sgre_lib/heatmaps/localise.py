"""Heatmaps measured: does a label look at its object, by the boxes of the test images, against chance and a ceiling.

Two measures of each pair of a test image and a label that it has and has boxes of:

- pointing: the pointing game of Zhang et al. 2016 (Excitation Backprop), 1 where the map's peak is on an object. The
  peak is the centre of the patch with the highest weight (the first of several). There is no tolerance: theirs of 15
  pixels would reach over half of a patch, so chance would rise with it.
- share: how much of the map lies inside the union of the label's boxes, a patch's weight being spread evenly over it.

Chance is what an even map gets: the fraction of patch centres inside, and the area of the union. The ceiling is what the
best map on the same grid gets; an object smaller than a patch may hold no centre.

SGRE's map is the label's alignment. The pooling baseline's is its class activation map, soft-maxed over patches: its
peak is that of the plain map, its share depends on the scale of the logits.
"""

import os
from pathlib import Path

import numpy as np
from torch.utils.data import Subset

from ..base.device import choose_device
from ..base.errors import UserError
from ..base.files import csv_text, write_json, write_text
from ..base.provenance import describe_origin
from ..base.settings import check_limits
from ..datasets.prepared import DATASET_NAMES, PreparedDataset, Split
from ..images.dataloader import PhotoDataset
from ..images.transforms import make_transform
from ..model.experiment import open_experiment
from .maps import check_alignment, run_model
from .pointing_game import Localisation, Pair, gain_over_chance, measure_map, summarise_pairs


def localise(
    exp_dir: str | os.PathLike,
    *,
    limit: int | None = None,
    data: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int = -1,
    progress: bool = True,
) -> dict:
    """Measure the maps of an experiment's best EMA model on the test images with boxes, write and return the numbers.

    limit: the first so many test images only. data: another prepared dataset with the same labels. Every pair of an
    image and a label that its list gives it counts, whatever the label's score, as long as there is a box.
    Writes localisation.json (what is returned), localisation.csv (a line a label) and localisation_pairs.csv (a line a
    pair: what the averages are made of) into exp_dir. In the dictionary, `mean_over_labels` gives each label that has
    pairs one vote, `mean_over_pairs` each pair; `labels` has the averages of each label.
    Raises UserError for a model without maps (`branches: patch`) and for a dataset without boxes.
    """
    check_limits(limit=limit, batch_size=batch_size)
    chosen = choose_device(device)
    model, settings, prepared = open_experiment(exp_dir, data, data_root)
    check_alignment(settings, exp_dir)
    split = prepared.split("test")
    boxes = _read_test_boxes(prepared, split, limit)
    photos = PhotoDataset(split, make_transform(settings, training=False))
    looked_at = Subset(photos, [image for image, of_image in enumerate(boxes) if of_image])
    loading = {"batch_size": batch_size, "num_workers": num_workers, "progress": "localising" if progress else None}
    pairs = []
    for output, _, indices in run_model(model, settings, looked_at, chosen, **loading):
        maps = model.alignment_maps(output)
        for place, image in enumerate(indices.tolist()):
            of_labels = sorted(boxes[image])
            # Few of an image's labels are present: only their maps leave the device.
            kept = maps[place, of_labels].float().cpu().numpy()
            pairs += [
                Pair(image, label, measure_map(one_map, boxes[image][label]))
                for label, one_map in zip(of_labels, kept, strict=True)
            ]
    result = {
        "images": len(boxes),
        "images_with_boxes": len(looked_at),
        "pairs": len(pairs),
        "grid": list(model.head.grid),
        "map": "class activation map" if settings.model == "gap" else "alignment",
        **summarise_pairs(pairs, prepared.labels),
        **describe_origin(prepared.name, prepared.fingerprint(), chosen),
    }
    folder, measures = Path(exp_dir).expanduser(), Localisation._fields
    rows = [[label, row["pairs"], *(row[name] for name in measures)] for label, row in result["labels"].items()]
    write_text(folder / "localisation.csv", csv_text(["label", "pairs", *measures], rows, digits=4))
    rows = [[split.names[pair.image], prepared.labels[pair.label], *pair.found] for pair in pairs]
    write_text(folder / "localisation_pairs.csv", csv_text(["image", "label", *measures], rows, digits=4))
    write_json(folder / "localisation.json", result)  # the last one: it says that the others are whole
    return result


def _read_test_boxes(prepared: PreparedDataset, split: Split, limit: int | None) -> list[dict[int, np.ndarray]]:
    """The boxes of the first `limit` test images, of the labels that their list gives them; UserError for none at all."""
    every = prepared.boxes("test")
    if every is None:
        again = f": sgre prepare --data {prepared.name} writes it" if prepared.name in DATASET_NAMES else ""
        none = "NUS-WIDE has no boxes" if prepared.name == "nuswide" else f"it has no test_boxes.jsonl{again}"
        raise UserError(f"{prepared.folder} cannot measure where labels look: {none}")
    boxes = [
        {label: found for label, found in of_image.items() if present[label]}
        for of_image, present in zip(every[:limit], split.targets, strict=False)
    ]
    if not any(boxes):
        raise UserError(f"none of the {len(boxes)} test images looked at has a box of a label that its list gives it")
    return boxes


def describe_localisation(result: dict) -> list[str]:
    """Lines for a person: the averages in percent, and the labels that gain most and least over chance."""
    order = sorted(result["labels"], key=lambda label: gain_over_chance(result["labels"][label]), reverse=True)
    shown = order if len(order) <= 6 else [*order[:3], *order[-3:]]
    rows = [(f"mean over {what}", result[f"mean_over_{what}"]) for what in ("labels", "pairs")]
    rows += [(f"  {label}"[:22], result["labels"][label]) for label in shown]
    align_columns = "{:22}{:>9}{:>8}{:>9}{:>9}{:>8}{:>9}".format
    lines = [
        f"{result['pairs']:,} pairs of image and label, {result['images_with_boxes']:,} images, "
        f"{len(order)} labels; {result['map']}s on a grid of {result['grid'][0]} x {result['grid'][1]}",
        align_columns("percent", "pointing", "chance", "ceiling", "share", "chance", "ceiling"),
        *(align_columns(name, *(f"{100 * row[field]:.1f}" for field in Localisation._fields)) for name, row in rows),
    ]
    if len(order) > 6:
        lines.append("(labels: the three that point best and the three that point worst, against chance)")
    return lines

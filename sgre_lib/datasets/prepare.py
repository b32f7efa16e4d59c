"""Raw datasets in, prepared folders out."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..base.errors import UserError
from ..base.places import working_root
from ..mini import COMPANIONS
from .coco import read_coco
from .inspection import Inspection, count_deviation, inspect
from .nuswide import read_nuswide
from .prepared import SPLITS, PreparedDataset, RawDataset, choose_data_root, prepared_folder, write_prepared
from .vg500 import read_vg500
from .voc import VOC_LABELS, read_voc


def prepare(
    data: str,
    *,
    data_root: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    skip_missing: bool = False,
    progress: bool = True,
) -> PreparedDataset:
    """Turn a raw dataset into its prepared folder and return it.

    data: one of `READERS`. data_root: the folder of raw datasets (default: SGRE_DATA_ROOT, else `data/raw`); `mini` is
    drawn there first where it is not there yet. out: the prepared folder (default `data/<data>`). skip_missing: leave
    out images that the lists name and the disk does not have, and record them in `prepared.json`, not an error then.
    """
    if data not in READERS:
        raise UserError(f"unknown dataset {data!r}: sgre prepare knows {', '.join(READERS)}")
    root = choose_data_root(data_root)
    folder = Path(out).expanduser() if out is not None else working_root() / "data" / data
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file, not a folder")
    raw = READERS[data](root, progress=progress)
    missing = {name: split.missing for name, split in raw.splits.items() if split.missing}
    counts = " and ".join(f"{len(names)} {split}" for split, names in missing.items())
    if missing and not skip_missing:
        some = ", ".join([name for names in missing.values() for name in names][:3])
        allow = "pass --skip-missing, which lists them all in prepared.json"
        raise UserError(f"{counts} images are missing ({some}, ...): complete the download, or {allow}")
    for name, names in missing.items():
        if not raw.splits[name].names:
            raise UserError(f"every {name} image is missing ({names[0]}, ...)")
    if missing:
        print(f"left out {counts} missing images; prepared.json names them", file=sys.stderr)
    prepared = write_prepared(folder, raw, source=data, data_root=root)
    if deviation := count_deviation(data, len(raw.labels), *(len(split.names) for split in raw.splits.values())):
        print(deviation, file=sys.stderr)
    return prepared


def describe_prepared(prepared: PreparedDataset) -> str:
    """The counts of a prepared folder that a person checks first, and its fingerprint, in lines for reading."""
    summary, lines = prepared.summary(), []
    for split in SPLITS:
        counts = summary[split]
        images = f"{counts['images']} images, {counts['labels_an_image']} labels an image"
        lines.append(f"{split:5}  {images}, {counts['images_without_label']} without a label")
        if counts["labels_never_present"]:
            lines.append(f"       labels never present: {', '.join(counts['labels_never_present'])}")
    fingerprint = summary["fingerprint"][:16]
    return "\n".join([*lines, f"{summary['labels']} labels; fingerprint {fingerprint}; prepared in {prepared.folder}"])


def check(
    data: str,
    *,
    data_root: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> Inspection:
    """Everything that is wrong with a dataset, before training on it; writes nothing.

    data: a dataset's name or a prepared folder (`out`: another one). Where a named dataset is not prepared yet, its raw
    form is read as `prepare` would read it and its photos are checked; a photo that the raw lists have and the disk has
    not is then an error. See `inspection.inspect` for what is found. Raises UserError where there is nothing to check.
    """
    folder = prepared_folder(out if out is not None else data)
    if folder.is_dir() or data not in READERS:
        return inspect(folder, data_root=data_root, progress=progress)
    root = choose_data_root(data_root)
    if data == "mini" and not (root / "mini").is_dir():
        raise UserError(f"neither {folder} nor {root / 'mini'} is there to check: sgre prepare --data mini draws it")
    with tempfile.TemporaryDirectory() as temporary:
        prepared = prepare(data, data_root=root, out=Path(temporary) / data, skip_missing=True, progress=progress)
        return inspect(prepared.folder, data_root=root, missing="error", progress=progress)


def _read_mini(root: Path, *, progress: bool) -> RawDataset:
    from ..mini.annotations import make_mini
    from ..mini.objects import LABELS

    raw = root / "mini"
    if not (raw / "ImageSets" / "Main" / "test.txt").exists():  # the lists are written last: with them it is whole
        make_mini(raw, progress=progress)
    dataset = read_voc(raw, "trainval", "test", list(LABELS), progress=progress)
    dataset.files = {path.name: path.read_bytes() for path in COMPANIONS}
    return dataset


READERS: dict[str, Callable[..., RawDataset]] = {
    "mini": _read_mini,
    "voc2007": lambda root, **more: read_voc(root / "VOC2007", "trainval", "test", VOC_LABELS, **more),
    # The released script trains on trainval and tests on val, so on photos it was trained on. Here train trains.
    "voc2012": lambda root, **more: read_voc(root / "VOC2012", "train", "val", VOC_LABELS, **more),
    "mscoco": read_coco,
    "nuswide": read_nuswide,
    "vg500": read_vg500,
}
"""Dataset name -> what reads its raw form below a data root."""

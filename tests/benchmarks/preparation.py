"""Measure the seconds and the peak memory of preparing MS-COCO 2014, NUS-WIDE and VG500 at their true scale.

    python tests/benchmarks/preparation.py

Made-up trees with the real datasets' counts, layouts and file sizes are written to a temporary folder (about 1.5 GB and
430,000 empty files that stand for the photos), prepared each in a process of its own, and deleted. The numbers go to
the screen and to experiments/benchmarks/preparation.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
if str(PROJECT_ROOT) not in sys.path:
    sys.path.insert(0, str(PROJECT_ROOT))  # so that the command works in a checkout that is not installed

# split: (images, images with an annotation, annotations) of the real files
COCO_SPLITS = {"train": (82_783, 82_081, 604_907), "val": (40_504, 40_137, 291_875)}
# split: (images, images with a label)
NUS_SPLITS = {"Train": (161_789, 125_449), "Test": (107_859, 83_898)}
NUS_CONCEPTS = 81
# list: images; VG has more images than the partition names
VG_LISTS = {"train": 82_904, "test": 10_000}
VG_IMAGES, VG_OBJECTS, VG_NAMES, VG_LABELS = 108_077, 2_516_939, 80_000, 500
FIELDS = ("dataset", "images", "input_mb", "seconds", "peak_memory_mb")


def create_empty(paths: Iterator[Path]) -> None:
    """Make empty files: preparation looks at whether a photo is there, never into it."""
    made = set()
    for path in paths:
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def build_coco(root: Path, fraction: float, rng: random.Random) -> None:
    """Write MSCOCO/: annotation files with polygons of the real files' lengths (about 330 and 160 MB)."""
    raw = root / "MSCOCO"
    (raw / "annotations").mkdir(parents=True)
    categories = [
        {"supercategory": "thing", "id": number + number // 10, "name": f"class {number}"} for number in range(1, 81)
    ]
    category_ids = [category["id"] for category in categories]
    # A polygon of the real files has some 30 corners on average, and a few have hundreds.
    polygons = [
        json.dumps([[round(rng.uniform(0, 640), 2) for _ in range(2 * max(3, int(rng.lognormvariate(2.9, 0.75))))]])
        for _ in range(5_000)
    ]
    for split, counts in COCO_SPLITS.items():
        count, annotated, annotation_count = (int(number * fraction) for number in counts)
        ids = rng.sample(range(1, 600_000), count)
        names = [f"COCO_{split}2014_{image_id:012d}.jpg" for image_id in ids]
        create_empty(raw / f"{split}2014" / name for name in names)
        with open(raw / "annotations" / f"instances_{split}2014.json", "w") as file:
            file.write('{"info": {"description": "made up", "year": 2014}, "images": [')
            for number, (image_id, name) in enumerate(zip(ids, names, strict=True)):
                image = {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{split}2014/{name}",
                    "height": 480,
                    "width": 640,
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
                    "id": image_id,
                }
                file.write(", " * (number > 0) + json.dumps(image))
            file.write('], "licenses": [], "annotations": [')
            for number in range(annotation_count):
                image_id = ids[number if number < annotated else rng.randrange(annotated)]
                file.write(
                    f'{", " * (number > 0)}{{"segmentation": {rng.choice(polygons)}, "area": {rng.random() * 9e4:.4f}, '
                    f'"iscrowd": 0, "image_id": {image_id}, "bbox": [{rng.random() * 600:.2f}, 217.23, 38.99, 57.75], '
                    f'"category_id": {rng.choice(category_ids)}, "id": {number + 1}}}'
                )
            file.write(f'], "categories": {json.dumps(categories)}}}')


def build_nuswide(root: Path, fraction: float, rng: random.Random) -> None:
    """Write NUS-WIDE/: lists with backslashes and CRLF, and 81 label files of 269,648 lines."""
    raw = root / "NUS-WIDE"
    counts = {name: (int(count * fraction), int(labelled * fraction)) for name, (count, labelled) in NUS_SPLITS.items()}
    total = sum(count for count, _ in counts.values())
    names = [f"folder{number % 700:03d}/{number:04d}_{rng.randrange(10**9)}.jpg" for number in range(total)]
    order = rng.sample(range(total), total)
    concepts = [f"concept{number}" for number in range(NUS_CONCEPTS)]
    columns = [bytearray(b"0\r\n" * total) for _ in concepts]
    labelled_rows = []
    (raw / "ImageList").mkdir(parents=True)
    (raw / "Groundtruth" / "AllLabels").mkdir(parents=True)
    for split, (count, labelled) in counts.items():
        rows, order = order[:count], order[count:]
        labelled_rows += rows[:labelled]
        write_image_list(raw / "ImageList" / f"{split}Imagelist.txt", [names[row] for row in sorted(rows)])
    for row in labelled_rows:
        for concept in rng.choices(range(NUS_CONCEPTS), k=rng.randint(1, 4)):
            columns[concept][3 * row] = ord("1")
    write_image_list(raw / "ImageList" / "Imagelist.txt", names)
    for concept, column in zip(concepts, columns, strict=True):
        (raw / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt").write_bytes(column)
    (raw / "Concepts81.txt").write_text("\n".join(concepts) + "\n")
    create_empty(raw / "Flickr" / names[row] for row in labelled_rows)


def write_image_list(path: Path, names: list[str]) -> None:
    path.write_bytes("".join(name.replace("/", "\\") + "\r\n" for name in names).encode())


def build_vg500(root: Path, fraction: float, rng: random.Random) -> None:
    """Write VisualGenome/: objects.json (about 370 MB) with Zipf-distributed names; the 500 commonest are labels."""
    raw = root / "VisualGenome"
    partition = raw / "ssgrl_partition"
    partition.mkdir(parents=True)
    counts = {name: int(count * fraction) for name, count in VG_LISTS.items()}
    # Labels shrink with the tree: each must be on some image.
    name_count, label_count = int(VG_NAMES * fraction), max(1, int(VG_LABELS * fraction))
    image_count = max(int(VG_IMAGES * fraction), sum(counts.values()))
    objects_an_image = VG_OBJECTS / VG_IMAGES
    ids = rng.sample(range(1, 2_500_000), image_count)
    cumulative, total = [], 0.0
    for rank in range(name_count):
        total += 1 / (rank + 3)
        cumulative.append(total)
    files: dict[str, list[int]] = {}
    object_id = 0
    with open(raw / "objects.json", "w") as file:
        file.write("[")
        for number, image_id in enumerate(ids):
            ranks = rng.choices(
                range(name_count), cum_weights=cumulative, k=rng.randint(2, int(2 * objects_an_image) - 1)
            )
            objects = []
            for rank in ranks:
                object_id += 1
                x, y, width, height = (rng.randrange(800) for _ in range(4))
                objects.append(
                    f'{{"synsets": ["thing{rank}.n.01"], "h": {height}, "object_id": {object_id}, '
                    f'"merged_object_ids": [], "names": ["thing {rank}"], "w": {width}, "y": {y}, "x": {x}}}'
                )
            url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{image_id}.jpg"
            file.write(", " * (number > 0))
            file.write(f'{{"image_id": {image_id}, "objects": [{", ".join(objects)}], "image_url": "{url}"}}')
            # The labels do not agree with the objects to the last image: one in thirty is lost.
            files[f"{image_id}.jpg"] = sorted({rank for rank in ranks if rank < label_count and rng.random() > 1 / 30})
        file.write("]")
    names = list(files)
    for split, count in counts.items():
        taken, names = names[:count], names[count:]
        (partition / f"{split}_list_500.txt").write_text("".join(f"{name}\n" for name in taken))
        create_empty(raw / rng.choice(("VG_100K", "VG_100K_2")) / name for name in taken)
    for name in names:
        del files[name]
    (partition / "vg_category_500_labels_index.json").write_text(json.dumps(files))


BUILDERS = {"mscoco": build_coco, "nuswide": build_nuswide, "vg500": build_vg500}


def prepare_once(data: str, root: Path, out: Path) -> dict:
    """Prepare one raw dataset in this process: what `sgre prepare` does. Returns images, seconds and peak memory."""
    from sgre_lib.datasets.prepare import prepare

    start = time.perf_counter()
    prepared = prepare(data, data_root=root, out=out, progress=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = sum(len(prepared.read_list(split)[0]) for split in ("train", "test"))
    # Linux counts kilobytes, macOS bytes.
    return {
        "images": images,
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak // (2**20 if sys.platform == "darwin" else 2**10),
    }


def run_step(step: str, *arguments: object) -> str:
    """Run one step of this file in a fresh process and return what it printed.

    This process itself must stay small: a child's peak memory, as Linux counts it, starts at its parent's.
    """
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(data: str, folder: Path, fraction: float) -> dict:
    """Build one dataset's raw tree under `folder` and prepare it; returns a row of the table."""
    root = folder / data
    print(f"{data}: building the tree ...", file=sys.stderr)
    run_step("build", data, root, fraction)
    size = sum(path.stat().st_size for pattern in ("*.json", "*.txt") for path in root.rglob(pattern))
    print(f"{data}: preparing ...", file=sys.stderr)
    row = json.loads(run_step("prepare", data, root, folder / f"{data}-prepared").splitlines()[-1])
    return {"dataset": data, "input_mb": size // 2**20, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help=f"any of {', '.join(BUILDERS)} (default: all)")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the true scale (default 1.0)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument(
        "--out", type=Path, default=PROJECT_ROOT / "experiments" / "benchmarks" / "preparation.csv", help="the table"
    )
    parser.add_argument("--step", choices=("build", "prepare"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "build":
        data, root, fraction = arguments.data
        BUILDERS[data](Path(root), float(fraction), random.Random(0))
        return
    if arguments.step == "prepare":
        data, root, out = arguments.data
        print(json.dumps(prepare_once(data, Path(root), Path(out))))
        return
    unknown = set(arguments.data) - set(BUILDERS)
    if unknown:
        parser.error(f"unknown dataset {min(unknown)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="sgre_preparation_", dir=arguments.folder) as folder:
        for data in arguments.data or BUILDERS:
            rows.append(measure(data, Path(folder), arguments.fraction))
    print("  ".join(f"{field:>14}" for field in FIELDS))
    for row in rows:
        print("  ".join(f"{row[field]:>14}" for field in FIELDS))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.out, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()

"""What `predict` says of photos, and that as text, JSON or CSV."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import csv_text

FORMATS = ("text", "json", "csv")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one photo.

    image: the path, as it was given or found. labels: (label, score) of each predicted label, highest score first.
    scores: (L,) float32, of every label, in the order of `names`. Where the photo cannot be read scores are NaN, and
    `error` says why.
    """

    image: Path
    labels: list[tuple[str, float]]
    scores: np.ndarray
    names: list[str]
    error: str | None = None


def format_predictions(predictions: Sequence[Prediction], form: str = "text") -> str:
    """Predictions as a text that ends with a newline; scores are fractions.

    `text`: `image<TAB>label score, label score, ...`, a line an image, three decimals. `csv`: the columns
    image,label,score, a row for each predicted label (none for an image without one). `json`: a list of objects with
    `image`, `labels` (the predicted ones, a list of `label` and `score`) and `scores` (label -> score, of every label);
    of an image that cannot be read `image` and `error`. Text and CSV leave such images out. JSON and CSV have all
    digits of the float32 scores.
    Raises UserError for another format.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}: choose from {', '.join(FORMATS)}")
    if form == "json":  # a line an image, which line tools can cut and people can read
        lines = ",\n".join(json.dumps(_as_json(one), ensure_ascii=False, allow_nan=False) for one in predictions)
        return make_encodable(f"[\n{lines}\n]\n")
    readable = [one for one in predictions if one.error is None]
    if form == "csv":
        cells = ([one.image, label, _digits(score)] for one in readable for label, score in one.labels)
        return make_encodable(csv_text(["image", "label", "score"], cells))
    rows = [(one.image, ", ".join(f"{label} {score:.3f}" for label, score in one.labels)) for one in readable]
    return make_encodable("".join(f"{image}\t{labels}\n" for image, labels in rows))


def describe_unreadable(predictions: Sequence[Prediction]) -> str:
    """One line that names the photos that cannot be read (the first ten) with the reasons; empty where there are none."""
    errors = [one.error for one in predictions if one.error is not None]
    if len(errors) < 2:
        return "".join(errors)
    more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
    return f"{len(errors)} of {len(predictions)} images cannot be read: {'; '.join(errors[:10])}{more}"


def make_encodable(text: str) -> str:
    """A text with file names in it, as UTF-8 can say it: bytes of a name that are no UTF-8 are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _as_json(one: Prediction) -> dict:
    if one.error is not None:
        return {"image": str(one.image), "error": one.error}
    labels = [{"label": label, "score": _digits(score)} for label, score in one.labels]
    scores = dict(zip(one.names, map(_digits, one.scores), strict=True))
    return {"image": str(one.image), "labels": labels, "scores": scores}


def _digits(score: float) -> float:
    """A float32 score as the shortest number that says it: 0.9, not 0.8999999761581421."""
    return float(str(np.float32(score)))

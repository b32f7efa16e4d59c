"""Label semantics: the text vector of every label, read from a file, drawn at random, or computed by a text model."""

import os
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import read_array, write_array
from ..base.places import check_out, find_file
from .prepared import PreparedDataset

RANDOM_SIZE = 768
"""T of `random` label embeddings, which are trained."""

SPELLINGS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
"""VOC's run-together class names, written as text before embedding."""


def label_text(label: str) -> str:
    """A label as a text model should read it: underscores are spaces, VOC's compounds are two words."""
    return SPELLINGS.get(label, label.replace("_", " "))


def read_label_embeddings(embed_type: str, prepared: PreparedDataset) -> np.ndarray | None:
    """The (L, T) float32 label embeddings that `embed_type` names for a dataset; None for `random`.

    embed_type: `random`, a name for `<prepared folder>/<name>.npy`, or the path of a `.npy` file.
    Raises UserError where the file is missing, is not a finite 2-D array, or has another number of rows than labels.
    """
    if embed_type == "random":
        return None
    is_path = embed_type.endswith(".npy")
    path = find_file(embed_type) if is_path else prepared.folder / f"{embed_type}.npy"
    if not path.is_file():
        command = f"sgre embed --data {prepared.name} --embed-type {embed_type}"
        made_by = "" if is_path else f" (make it: {command}; or use --embed-type random)"
        raise UserError(f"the label embeddings {path} are missing{made_by}")
    return check_label_embeddings(path, len(prepared.labels))


def check_label_embeddings(path: Path, label_count: int) -> np.ndarray:
    """Read a `.npy` of label embeddings as (L, T) float32, or UserError."""
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(f"{path} has shape {array.shape} of {array.dtype}, not numbers of shape (labels, T)")
    if len(array) != label_count:
        raise UserError(f"{path} has {len(array)} rows, but there are {label_count} labels")
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds a value that is not finite")
    return array.astype(np.float32)


def embed(
    data: str | os.PathLike,
    *,
    embed_type: str = "bert",
    text_model: str | os.PathLike | None = None,
    glove_file: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    seed: int = 0,
) -> Path:
    """Compute the label embeddings of a prepared dataset and write them to `<prepared folder>/<embed_type>.npy`.

    embed_type `bert` or `sentence`: text_model is a local folder (or a hub name, which transformers then downloads) of
    such an encoder, see `encode_texts`. `glove`: glove_file is the text file of GloVe vectors.
    `random`: (L, 768) Kaiming-uniform numbers from `seed` (training draws and trains its own; this writes fixed ones).
    out: another file to write instead. Returns the path written.
    """
    prepared = PreparedDataset(data)
    path = check_out(out if out is not None else prepared.folder / f"{embed_type}.npy")
    texts = [label_text(label) for label in prepared.labels]
    if embed_type in ("bert", "sentence"):
        if text_model is None:
            raise UserError(f"--embed-type {embed_type} needs --text-model: a local folder or a hub name")
        vectors = encode_texts(texts, text_model, embed_type)
    elif embed_type == "glove":
        if glove_file is None:
            raise UserError("--embed-type glove needs --glove-file: the text file of the vectors (840B.300d)")
        vectors = glove_embeddings(texts, glove_file)
    elif embed_type == "random":
        bound = 1 / np.sqrt(RANDOM_SIZE)  # Kaiming-uniform with a = sqrt(5) over T inputs
        vectors = np.random.default_rng(seed).uniform(-bound, bound, (len(texts), RANDOM_SIZE))
    else:
        raise UserError(f"--embed-type {embed_type}: sgre embed makes bert, sentence, glove and random")
    return write_array(path, np.asarray(vectors, dtype=np.float32))


def encode_texts(texts: list[str], text_model: str | os.PathLike, pooling: str) -> np.ndarray:
    """A text model's vector of each text, (L, T), from its last hidden layer.

    text_model: a local folder or a hub name; code that a model may bring is never run.
    pooling `bert` is the release's: the input is `[CLS] text`, without `[SEP]`; a text of one word piece takes that
    piece's vector, a longer one the vector at position 0. `sentence` is that of the MiniLM and MPNet sentence encoders
    (ours, the release has no such embeddings): the mean over all tokens, brought to length 1.
    """
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise UserError("a text model needs the package transformers: pip install transformers") from None
    name, folder = os.fspath(text_model), Path(text_model).expanduser()
    if not folder.is_dir() and name.startswith((".", "~", os.sep)):
        raise UserError(f"--text-model {name} is not a folder")
    source = str(folder) if folder.is_dir() else name
    try:
        tokenizer, encoder = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"--text-model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if pooling == "bert" and tokenizer.cls_token_id is None:
        raise UserError(f"--text-model {name} has no [CLS] token: a BERT-type encoder is needed")
    vectors = []
    with torch.inference_mode():
        for text in texts:
            if pooling == "bert":
                pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
                hidden = encoder(input_ids=torch.tensor([[tokenizer.cls_token_id, *pieces]])).last_hidden_state[0]
                vector = hidden[1 if len(pieces) == 1 else 0].float()
            else:
                mean = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].float().mean(0)
                vector = mean / mean.norm().clamp(min=1e-12)
            vectors.append(vector.numpy())
    return np.stack(vectors)


def glove_embeddings(texts: list[str], glove_file: str | os.PathLike) -> np.ndarray:
    """The GloVe vector of each text, (L, T): the sum of its words' vectors.

    The file is read once, line by line, and only the needed words are kept. Raises UserError naming missing words.
    """
    missing = {word for text in texts for word in text.split()}
    found: dict[str, np.ndarray] = {}
    path = Path(glove_file).expanduser()
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, _, numbers = line.rstrip().partition(" ")
                if word in missing:
                    try:
                        found[word] = np.array(numbers.split(" "), np.float64)
                    except ValueError:
                        raise UserError(f"{path} line {number}: not a word and its numbers") from None
                    missing.remove(word)
                if not missing:
                    break
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--glove-file {path} cannot be read ({error})") from None
    if missing:
        some = ", ".join(sorted(missing)[:5])
        raise UserError(f"{path} has no vector for {some}" + (" ..." if len(missing) > 5 else ""))
    return np.stack([sum(found[word] for word in text.split()) for text in texts])

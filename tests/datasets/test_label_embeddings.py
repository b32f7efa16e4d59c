"""Protects label semantics: the released pooling rules on hand-made encoders, GloVe's sums, and bad embedding files."""

from __future__ import annotations

import numpy as np
import pytest

from sgre_lib import PreparedDataset, UserError, embed
from sgre_lib.datasets.label_embeddings import label_text, read_label_embeddings


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "label.txt").write_text("cat\ndiningtable\ntraffic_light\n")
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("a.jpg\tcat\n")
    return PreparedDataset(tmp_path)


def test_label_text():
    assert [label_text(label) for label in ("tvmonitor", "pottedplant", "hot_dog", "sun")] == [
        "tv monitor", "potted plant", "hot dog", "sun",
    ]  # fmt: skip


def test_glove_sums_words_and_reads_the_file_once(prepared, tmp_path):
    lines = ["the 9 9 9", "table 0 1 0", "cat 1 2 3", "dining 1 0 0", "light 0 0 5", "traffic 0 4 0", "cat 7 7 7"]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = embed(prepared.folder, embed_type="glove", glove_file=tmp_path / "glove.txt")
    assert np.load(path).tolist() == [[1, 2, 3], [1, 1, 0], [0, 4, 5]]
    (tmp_path / "glove.txt").write_text("cat 1 2 3\n")
    with pytest.raises(UserError, match="no vector for dining, light, table, traffic"):
        embed(prepared.folder, embed_type="glove", glove_file=tmp_path / "glove.txt")


def test_bert_pooling_rule(prepared, tmp_path):
    """[CLS] name without [SEP]: one piece takes its own vector, several take the vector at position 0."""
    transformers = pytest.importorskip("transformers")
    import torch

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dining", "table", "traffic", "light"]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    encoder = transformers.BertModel(config).eval()
    folder = tmp_path / "encoder"
    encoder.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    path = embed(prepared.folder, embed_type="bert", text_model=folder)
    with torch.no_grad():
        one = encoder(torch.tensor([[2, 5]])).last_hidden_state[0, 1]
        two = encoder(torch.tensor([[2, 6, 7]])).last_hidden_state[0, 0]
    vectors = np.load(path)
    np.testing.assert_allclose(vectors[0], one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vectors[1], two, rtol=1e-5, atol=1e-6)
    sentence = np.load(embed(prepared.folder, embed_type="sentence", text_model=folder))
    with torch.no_grad():
        whole = encoder(torch.tensor([[2, 6, 7, 3]])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(sentence[1], whole / whole.norm(), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"cannot be loaded|is not a folder"):
        embed(prepared.folder, embed_type="bert", text_model=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4)), "2 rows, but there are 3 labels"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.full((3, 2), np.nan), "not finite"),
        (np.array([["a"] * 2] * 3), "numbers of shape"),
    ],
)
def test_bad_files(prepared, array, message):
    np.save(prepared.folder / "own.npy", array)
    with pytest.raises(UserError, match=message):
        read_label_embeddings("own", prepared)


def test_missing_file_says_how_to_make_it(prepared):
    with pytest.raises(UserError, match="sgre embed --data"):
        read_label_embeddings("bert", prepared)
    assert read_label_embeddings("random", prepared) is None

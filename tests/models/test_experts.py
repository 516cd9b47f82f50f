"""Experts: frozen for good, the same from a folder, fed with whatever images the training has."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from factory.errors import ConfigError, ModelError
from factory.models.config import ExpertSpec
from factory.models.expert_file import NOTES, WEIGHTS, load_expert, save_expert
from factory.models.experts import Expert, build_expert, state_digest

CLASSES = ("debris", "stroma", "tumor")
BACKBONES = ("test_resnet", "test_vit")  # batch norm; fixed input size and no batch norm


def spec(backbone: str = "test_resnet", **changes: object) -> ExpertSpec:
    return ExpertSpec(backbone=backbone, class_names=CLASSES, size_px=32).model_copy(update=changes)


def images(count: int = 4, channels: int = 3, size_px: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, channels, size_px, size_px, generator=generator) * 2 - 1


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("grey", [False, True])
def test_features_are_what_the_classifying_layer_sees(backbone: str, grey: bool) -> None:
    expert = build_expert(spec(backbone, grey=grey), seed=0).eval()
    features = expert.features(images())
    assert features.shape == (4, expert.width)
    logits = expert(images())
    assert logits.shape == (4, 3)
    assert torch.equal(expert.network.get_classifier()(features), logits)


def test_input_is_normalised_as_the_backbone_was_trained() -> None:
    expert = build_expert(spec(), seed=0)
    facts = timm.get_pretrained_cfg("test_resnet")
    seen: list[Tensor] = []
    expert.network.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    expert(torch.ones(2, 3, 32, 32))
    wanted = (1 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    assert torch.allclose(seen[0].mean((0, 2, 3)), wanted)


@pytest.mark.parametrize("size_px", [20, 32, 48])
def test_images_of_any_size_and_both_colour_kinds_are_taken(size_px: int) -> None:
    grey_images = images(channels=1, size_px=size_px)
    for grey in (False, True):
        expert = build_expert(spec(grey=grey), seed=0).eval()
        in_colour = expert.features(grey_images.expand(-1, 3, -1, -1))
        assert torch.allclose(expert.features(grey_images), in_colour, atol=1e-4)


def test_latents_are_no_images() -> None:
    with pytest.raises(ConfigError, match=r"1 or 3 channels, not 4\. Decode"):
        build_expert(spec(), seed=0).features(images(channels=4))


def test_an_unknown_backbone_lists_close_names() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'resnet188'.*resnet18"):
        build_expert(spec("resnet188"), seed=0)


def test_the_seed_decides_the_weights_and_the_global_generator_stays() -> None:
    state = torch.get_rng_state()
    first, again, other = (state_digest(build_expert(spec(), seed=s)) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_expert_cannot_be_trained_from_outside() -> None:
    expert = build_expert(spec(), seed=0).freeze()
    before = state_digest(expert)
    wrapper = nn.ModuleDict({"expert": expert, "other": nn.Linear(2, 2)})
    wrapper.train()
    assert wrapper["other"].training
    assert not any(module.training for module in expert.modules())
    expert.train()
    expert(images())
    assert state_digest(expert) == before
    assert not any(parameter.requires_grad for parameter in expert.parameters())


def test_the_digest_sees_batch_norm_statistics() -> None:
    expert = build_expert(spec(), seed=0).train()
    before = state_digest(expert)
    weights = [p.clone() for p in expert.parameters()]
    expert(images())
    assert all(torch.equal(a, b) for a, b in zip(weights, expert.parameters(), strict=True))
    assert state_digest(expert) != before


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("grey", [False, True])
def test_a_stored_expert_comes_back_frozen_and_the_same(
    backbone: str, grey: bool, tmp_path: Path
) -> None:
    expert = build_expert(spec(backbone, grey=grey), seed=0).freeze()
    written = save_expert(tmp_path / "expert", expert, val_accuracy=0.75, split_digest="s" * 32)
    loaded, notes = load_expert(tmp_path / "expert")
    assert notes == written
    assert (notes.val_accuracy, notes.spec.class_names) == (0.75, CLASSES)
    assert state_digest(loaded) == state_digest(expert)
    assert torch.equal(loaded.train().features(images()), expert.features(images()))


def break_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


def break_notes(folder: Path) -> None:
    (folder / NOTES).write_text((folder / NOTES).read_text().replace('"test_resnet"', '"test_vit"'))


@pytest.mark.parametrize("damage", [break_weights, break_notes])
def test_a_broken_folder_is_refused_by_name(damage: object, tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    save_expert(folder, build_expert(spec(), seed=0), val_accuracy=0.5, split_digest="s")
    damage(folder)
    with pytest.raises(ModelError, match="expert holds no whole expert"):
        load_expert(folder)


def backbone_file(path: Path, **changes: Tensor) -> tuple[Path, dict[str, Tensor]]:
    """Write float16 weights of a 1,000-class colour network, as published ones are."""
    state = {k: v.half() for k, v in timm.create_model("test_resnet").state_dict().items()}
    save_file(state | changes, path)
    return path, state


@pytest.mark.parametrize("grey", [False, True])
def test_a_backbone_comes_from_a_file_and_its_head_does_not(grey: bool, tmp_path: Path) -> None:
    path, state = backbone_file(tmp_path / "backbone.safetensors")
    expert = build_expert(spec(grey=grey), seed=0, weights=path)
    head = build_expert(spec(grey=grey), seed=0).network.get_classifier()
    assert torch.equal(expert.network.get_classifier().weight, head.weight)
    first, *others = [k for k in state if not k.startswith("fc.")]
    stored = state[first].float()
    wanted = stored.sum(1, keepdim=True) if grey else stored
    assert torch.allclose(expert.network.state_dict()[first], wanted, atol=1e-6)
    for name in others:
        assert torch.equal(expert.network.state_dict()[name], state[name].to(torch.float32)), name


def test_weights_that_do_not_fit_are_refused_with_the_first_misfit(tmp_path: Path) -> None:
    path, _ = backbone_file(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"a\.safetensors does not fit test_vit: cls_token needs"):
        build_expert(spec("test_vit"), seed=0, weights=path)
    other, _ = backbone_file(tmp_path / "b.safetensors", **{"conv1.0.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"conv1\.0\.weight needs .* the file has \(2,\)"):
        build_expert(spec(), seed=0, weights=other)


def test_unreadable_weights_and_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.0.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    whole, _ = backbone_file(tmp_path / "whole.safetensors")
    (tmp_path / "part.safetensors").write_bytes(whole.read_bytes()[:999])
    for name in ("weights.pth", "part.safetensors", "absent.safetensors"):
        with pytest.raises(ModelError, match=f"timm's .*{name}|{name} is no safetensors file"):
            build_expert(spec(), seed=0, weights=tmp_path / name)


def test_the_published_weights_make_an_expert(feature_weights: Path) -> None:
    made = build_expert(spec("tf_efficientnet_lite0"), seed=0, weights=feature_weights)
    expert: Expert = made.freeze()
    assert expert.width == 1280
    assert torch.isfinite(expert.features(images())).all()

"""CLIP with a LoRA as a classifier, on a tiny CLIP built from its configuration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from factory.errors import ConfigError, ModelError
from factory.evaluate.classifier import RealPart, TrainingRows, train_classifier
from factory.evaluate.clip import build_clip
from factory.evaluate.config import Classifier, ClipLora
from factory.models.conditioning import MAX_TOKENS, prompt_tokenizer, tokenize

NAMES = ("dark", "light")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clip") / "tiny"
    tokenizer = prompt_tokenizer(["a photo of a", *NAMES])
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = {
        **shared,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shared, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_an_untrained_lora_is_clip_itself(folder: Path) -> None:
    made = build_clip(ClipLora(folder=str(folder)), NAMES, seed=0).eval()
    plain = CLIPModel.from_pretrained(folder).eval()
    tokenizer = prompt_tokenizer(["a photo of a", *NAMES])
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = ((images + 1) / 2 - made.mean) / made.std
    with torch.no_grad():
        expected = plain(
            input_ids=tokenize(tokenizer, [f"a photo of a {name}" for name in NAMES]),
            pixel_values=pixels,
        ).logits_per_image
        torch.testing.assert_close(made(images), expected)
    names = {name for name, p in made.named_parameters() if p.requires_grad}
    assert len(names) == 2 * 2 * 2 * 2  # A and B of q and v in two layers of two towers
    assert all(".lora_" in name for name in names)


def test_it_learns_and_repeats(folder: Path) -> None:
    images = np.zeros((16, 16, 16, 3), np.uint8)
    images[8:] = 230
    labels = np.repeat([0, 1], 8)
    rows = TrainingRows(
        images=torch.from_numpy(images),
        soft_labels=torch.eye(2)[torch.from_numpy(labels)],
        synthetic=torch.zeros(16, dtype=torch.bool),
        weights=torch.ones(16),
        augment=False,
    )
    settings = Classifier(
        clip=ClipLora(folder=str(folder)), steps=40, batch_size=8, learning_rate=1e-2
    )
    val = RealPart(images=images, labels=labels)
    first, fitted = train_classifier(settings, NAMES, rows, val, seed=0)
    assert fitted.curve[-1][1][0] == 1.0
    again, _ = train_classifier(settings, NAMES, rows, val, seed=0)
    probe = torch.zeros(1, 3, 16, 16)
    assert torch.equal(first(probe), again(probe))


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CLIP model at"):
        build_clip(ClipLora(folder=str(tmp_path)), NAMES, seed=0)
    with pytest.raises(ConfigError, match="'grey' is no class"):
        build_clip(ClipLora(folder=str(folder), prompts={"grey": "x"}), NAMES, seed=0)
    with pytest.raises(ConfigError, match="name no layer"):
        build_clip(ClipLora(folder=str(folder), targets=("nothing",)), NAMES, seed=0)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="may run code"):
        build_clip(ClipLora(folder=str(tmp_path)), NAMES, seed=0)

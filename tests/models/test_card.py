"""Cards say what is known of a generator: a licence only where its maker told one."""

import json

import pytest

from factory.config import load_config
from factory.methods.text.config import BaseConfig
from factory.models.card import adapted_licence, base_card
from factory.models.generator import EMBEDDED

MANIFEST = {
    "name": "wbc-base",
    "size_px": 64,
    "class_names": ["a", "b"],
    "steps_trained": 1,
    "images_trained": 2,
    "split_digest": "split-a",
    "dataset_fingerprint": "of my own images",
    "config": {},
}


def test_a_base_of_ones_own_images_claims_no_licence_and_no_data_of_others() -> None:
    made = load_config(BaseConfig, "wbc_base")
    card = base_card({**MANIFEST, "licence": made.licence})
    assert card.startswith("---\nlicense: unknown\n")
    assert "CC" not in card
    assert "Barcelona" not in card
    told = load_config(BaseConfig, "wbc_base", ["licence=MIT"])
    assert base_card({**MANIFEST, "licence": told.licence}).startswith("---\nlicense: mit\n")


def test_a_base_of_the_data_that_wbc_base_learnt_from_names_its_authors() -> None:
    stored = json.loads((EMBEDDED["wbc-base"] / "factory.json").read_text())
    assert "Barcelona" in base_card({**stored, "name": "mine"})


@pytest.mark.parametrize("base", [{"licence": "CC-BY-4.0"}, {"licence": None}, {}])
def test_what_was_adapted_to_images_is_not_under_the_licence_of_its_base_alone(base) -> None:
    told = adapted_licence(base)
    assert told.startswith(f"of the base: {base.get('licence') or 'not stated'};")
    assert told.endswith("of the images it was adapted to: not stated")

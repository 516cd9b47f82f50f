"""The card of a base generator: data, licence, configuration, figures, known weaknesses."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

CREDITS = {
    "968f17cee67a593cf15ff27c6f1f7900": """\
**Data.** Single normal blood cells of the PBC set (CellaVision DM96, May-Gruenwald-Giemsa, Hospital
Clinic of Barcelona, healthy donors): A. Acevedo et al., A dataset of microscopic peripheral blood
cell images for development of automatic recognition systems, Data in Brief 30:105474, 2020.
CC BY 4.0. Attributes: S. Tsutsui, W. Pang, B. Wen, WBCAtt, NeurIPS 2023. MIT. The set has no
patient ids: images of one person can lie in train and val.

**Licence of these weights.** CC BY 4.0; name the data's authors as above.

**Not for diagnosis.** The images show what normal cells of one hospital's stain and microscope look
like at 64 px; rare and pathological cells were never seen.
"""
}
"""By the fingerprint of the real images, whatever a base that learnt from them is called."""


def base_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a base generator's folder: its licence is what its maker says.

    Args:
        manifest: the content of its `factory.json`.
        figures: Markdown of measured figures, e.g. those of `factory judge`.
    """
    name = manifest["name"]
    front = yaml.safe_dump(
        {
            "license": str(manifest["licence"]).lower(),
            "library_name": "diffusers",
            "pipeline_tag": "text-to-image",
            "tags": ["medical", "synthetic-data"],
        },
        sort_keys=False,
    )
    config = yaml.safe_dump(dict(manifest["config"]), sort_keys=False, allow_unicode=True)
    own = "components" in manifest["config"].get("autoencoder", {})  # not one of diffusers' classes
    needs = "import factory.models.patch_autoencoder\n" if own else ""
    return f"""---
{front}---
# {name}

Text-conditioned latent diffusion for images of {manifest["size_px"]} px, classes
{", ".join(manifest["class_names"])}; trained from scratch for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} images (split {manifest["split_digest"]}). EMA weights, float16.

```python
{needs}from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained("<this folder>")
```

{CREDITS.get(manifest["dataset_fingerprint"], "")}
{figures}
## Configuration

```yaml
{config}```
"""


def finetuned_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a fine-tuned generator: base, data, configuration, figures."""
    front = yaml.safe_dump(
        {"library_name": "diffusers", "tags": ["medical", "synthetic-data"]}, sort_keys=False
    )
    config = yaml.safe_dump(dict(manifest["config"]), sort_keys=False, allow_unicode=True)
    return f"""---
{front}---
# {manifest["name"]}

{manifest["base"]} ({manifest["base_model_id"]}) adapted in {manifest["steps_trained"]} steps to
{manifest["images_trained"]} images of {", ".join(manifest["class_names"])}
(dataset {manifest["dataset_fingerprint"]}, split {manifest["split_digest"]}).

**Licence.** {manifest["licence"]}.

**Not for diagnosis.**

{figures}
## Configuration

```yaml
{config}```
"""


def adapted_licence(base: Mapping[str, Any]) -> str:
    """Return the licence of what was adapted from a base: that of the user's images is unknown."""
    told = base.get("licence") or "not stated"
    return f"of the base: {told}; of the images it was adapted to: not stated"


def validation_figures(
    validation: Mapping[str, Mapping[str, float]], pictures: Sequence[str] = ()
) -> str:
    """Return the Markdown of what a training measured and drew when its weights were exported.

    Args:
        validation: target -> 'step' and named figures; a name that is missing was not measured.
        pictures: files beside the card.
    """
    names = sorted({name for figures in validation.values() for name in figures} - {"step"})
    rows = [["target", "step", *names], ["---"] * (2 + len(names))]
    for target, figures in sorted(validation.items()):
        told = [f"{figures[name]:.4g}" if name in figures else "" for name in names]
        rows.append([target, str(int(figures["step"])), *told])
    lines = ["## Validation", "", *(f"| {' | '.join(row)} |" for row in rows)]
    lines += ["", "Losses and distances are to images of the val part, which were not learnt from."]
    for name in pictures:
        lines += ["", f"![Samples of every class, not selected]({name})"]
    return "\n".join(lines) + "\n"


def class_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a class-conditional generator: data, configuration, figures."""
    front = yaml.safe_dump(
        {"library_name": "diffusers", "tags": ["medical", "synthetic-data"]}, sort_keys=False
    )
    config = yaml.safe_dump(dict(manifest["config"]), sort_keys=False, allow_unicode=True)
    return f"""---
{front}---
# {manifest["name"]}

Class-conditional latent diffusion for images of {manifest["size_px"]} px, classes
{", ".join(manifest["class_names"])}; trained from scratch for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} images (dataset {manifest["dataset_fingerprint"]}, split
{manifest["split_digest"]}). `factory generate --set model=<this folder>` draws with it.

**Licence.** That of the images it was trained on; add it here.

**Not for diagnosis.**

{figures}
## Configuration

```yaml
{config}```
"""

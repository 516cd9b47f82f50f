"""The cards of generators: what each is, its data, licence, figures and configuration."""

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
_LIBRARY = {"library_name": "diffusers"}
TASK = "text-to-image"


def base_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a base generator's folder: its licence is what its maker says.

    Args:
        manifest: the content of its `factory.json`.
        figures: Markdown of measured figures, e.g. those of `factory judge`.
    """
    own = "components" in manifest["config"].get("autoencoder", {})  # not one of diffusers' classes
    needs = "import factory.models.patch_autoencoder\n" if own else ""
    what = f"""\
Text-conditioned latent diffusion for images of {manifest["size_px"]} px, classes
{_classes(manifest)}; trained from scratch for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} images (split {manifest["split_digest"]}). EMA weights, float16.

```python
{needs}from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained("<this folder>")
```

{CREDITS.get(manifest["dataset_fingerprint"], "")}"""
    licence = {"license": str(manifest["licence"]).lower()}
    return _card(manifest, what, figures, front={**licence, **_LIBRARY, "pipeline_tag": TASK})


def finetuned_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a fine-tuned generator: base, data, configuration, figures."""
    what = f"""\
{manifest["base"]} ({manifest["base_model_id"]}) adapted in {manifest["steps_trained"]} steps to
{manifest["images_trained"]} images of {_classes(manifest)}
(dataset {manifest["dataset_fingerprint"]}, split {manifest["split_digest"]}).

**Licence.** {manifest["licence"]}.

**Not for diagnosis.**
"""
    return _card(manifest, what, figures)


def distilled_card(manifest: Mapping[str, Any]) -> str:
    """Return the README.md of a distilled generator: teacher, how it is drawn, figures, picture."""
    told, figures = manifest["distilled"], manifest["validation"]["all"]
    teacher = manifest["config"]["teacher"]
    licence = f"""\
**Licence.** {manifest.get("licence") or "That of its teacher"}.

**Not for diagnosis.**
"""
    what = f"""\
Distilled from {teacher["model"]} ({told["teacher"]}) in {figures["step"]} steps on
{teacher["num_images"]} of its drawings, each of {teacher["num_inference_steps"]} steps of
{teacher["scheduler"]} under guidance {teacher["guidance_scale"]:g}. It draws
{_classes(manifest)} at {manifest["size_px"]} px in **{told["num_inference_steps"]} evaluations**,
steps of {told["scheduler"]} without guidance, and by no other settings:
`factory generate --set model=<this folder>` takes them by itself. No real image was seen for it;
what its teacher learnt from stands in `seen.parquet` and `copies.parquet`.

{CREDITS.get(manifest.get("dataset_fingerprint", ""), licence)}"""
    measured = f"""\
## Validation

On ways of the teacher that it did not learn: loss of a step {figures["val_loss"]:.4g}; its own
latents lie {figures["val_distance"]:.3g} of a standard deviation from the teacher's of the same
noise (1: as far as their mean).

![Teacher and student beside each other, from the same noise, not selected](sheet.png)
"""
    return _card(manifest, what, measured)


def class_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a class-conditional generator: data, configuration, figures."""
    what = f"""\
Class-conditional latent diffusion for images of {manifest["size_px"]} px, classes
{_classes(manifest)}; trained from scratch for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} images (dataset {manifest["dataset_fingerprint"]}, split
{manifest["split_digest"]}). `factory generate --set model=<this folder>` draws with it.

**Licence.** That of the images it was trained on; add it here.

**Not for diagnosis.**
"""
    return _card(manifest, what, figures)


def pair_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a generator of pairs: data, form, configuration, what to mind."""
    condition = {"none": "no condition", "class": "a class", "cluster": "a cluster"}
    values = ", ".join(map(str, manifest["mask_values"]))
    base = manifest.get("base_model_id")
    start = f"trained on from base {base}" if base else "trained from scratch"
    what = f"""\
Diffusion of images of {manifest["size_px"]} px together with their masks of
{len(manifest["mask_values"])} classes (stored values {values}),
under {condition[manifest["condition"]]}; {start} for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} pairs (dataset {manifest["dataset_fingerprint"]}, split
{manifest["split_digest"]}). EMA weights.

**Licence.** {manifest["licence"]}.

**Mind.** A generator of few pairs repeats them: look at the nearest real images before publishing.
Not for diagnosis.
"""
    return _card(manifest, what, figures, tags=("segmentation",))


def _card(
    manifest: Mapping[str, Any],
    what: str,
    figures: str,
    *,
    front: Mapping[str, str] = _LIBRARY,
    tags: Sequence[str] = (),
) -> str:
    """Return a page: front matter as the Hub reads it, what it is, figures, configuration."""
    head = {**front, "tags": ["medical", "synthetic-data", *tags]}
    config = yaml.safe_dump(dict(manifest["config"]), sort_keys=False, allow_unicode=True)
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---
# {manifest["name"]}

{what}
{figures}
## Configuration

```yaml
{config}```
"""


def _classes(manifest: Mapping[str, Any]) -> str:
    return ", ".join(manifest["class_names"])


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

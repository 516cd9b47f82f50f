"""The card of a generator of pairs: data, form, configuration, what to mind."""

from collections.abc import Mapping
from typing import Any

import yaml


def pair_card(manifest: Mapping[str, Any], figures: str = "") -> str:
    """Return the README.md of a generator folder.

    Args:
        manifest: the content of its `factory.json`.
        figures: Markdown of measured figures.
    """
    front = yaml.safe_dump(
        {"library_name": "diffusers", "tags": ["medical", "synthetic-data", "segmentation"]},
        sort_keys=False,
    )
    config = yaml.safe_dump(dict(manifest["config"]), sort_keys=False, allow_unicode=True)
    classes = len(manifest["mask_values"])
    condition = {"none": "no condition", "class": "a class", "cluster": "a cluster"}
    base = manifest.get("base_model_id")
    start = f"trained on from base {base}" if base else "trained from scratch"
    return f"""---
{front}---
# {manifest["name"]}

Diffusion of images of {manifest["size_px"]} px together with their masks of {classes} classes
(stored values {", ".join(map(str, manifest["mask_values"]))}), under
{condition[manifest["condition"]]}; {start} for {manifest["steps_trained"]} steps on
{manifest["images_trained"]} pairs (dataset {manifest["dataset_fingerprint"]}, split
{manifest["split_digest"]}). EMA weights.

**Licence.** {manifest["licence"]}.

**Mind.** A generator of few pairs repeats them: look at the nearest real images before publishing.
Not for diagnosis.

{figures}
## Configuration

```yaml
{config}```
"""

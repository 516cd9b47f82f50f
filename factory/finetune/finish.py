"""The end of a fine-tuning: the weights of its targets become a generator folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file

from factory.atomic import write_bytes
from factory.finetune.material import load_material
from factory.finetune.plan import Plan
from factory.finetune.pretrain import TextConditioned
from factory.measure.sheets import below_each_other
from factory.models.adapters import write_adapters
from factory.models.card import adapted_licence, finetuned_card, validation_figures
from factory.models.export import write_generator
from factory.models.generator import EVERY_CLASS, Generator, find_generator, open_generator
from factory.models.lora import open_lora
from factory.models.pipeline import load_pipeline
from factory.models.windowed import set_attention_window

WEIGHTS, RESULT, SHEET = "weights.safetensors", "result.json", "samples.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Which step of a target is exported, its figures, and its grid of samples if one was drawn."""

    step: int
    metrics: Mapping[str, float]
    grid: Path | None = None

    def save(self, folder: Path) -> None:
        """Write `folder/result.json`."""
        write_bytes(folder / RESULT, _RESULT.dump_json(self, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """Return what `save` wrote."""
        return _RESULT.validate_json((folder / RESULT).read_bytes())


_RESULT = TypeAdapter(Result)


def export(plan: Plan) -> Generator:
    """Write `output/generator` from the finished targets and return it.

    Its card shows the samples that were drawn with the weights it has, and their figures.
    """
    results = {target: Result.load(plan.folder_of(target)) for target in plan.targets}
    base = find_generator(plan.config.base, revision=plan.config.revision)
    made_here = base.folder.parent == plan.output  # by `with_adapted_autoencoder`
    folder, material = plan.output / "generator", load_material(plan.material)
    manifest: dict[str, Any] = {
        "name": plan.config.name,
        "method": "text",
        "size_px": plan.config.size_px or base.size_px,
        "class_names": sorted(set(material.labels)),
        "prompts": {name: plan.config.prompt_of(name) for name in sorted(set(material.labels))},
        "split_digest": material.split_digest,
        "dataset_fingerprint": material.dataset_fingerprint,
        "base": base.manifest.get("name", plan.config.base) if made_here else plan.config.base,
        "base_revision": plan.config.revision,
        "base_model_id": base.model_id,
        "lora_scale": 1.0,
        "licence": adapted_licence(base.manifest),
        "config": plan.config.model_dump(mode="json"),
        "images_trained": len(material.ids),
        "gates": plan.gates.model_dump(mode="json"),
        "field": plan.field.model_dump(mode="json"),
        "steps_trained": max(result.step for result in results.values()),
        "validation": {
            target: {"step": result.step, **result.metrics} for target, result in results.items()
        },
    }
    grids = [result.grid for result in results.values() if result.grid]
    pictures = {SHEET: below_each_other(grids)} if grids else {}
    card = finetuned_card(manifest, validation_figures(manifest["validation"], [*pictures]))
    if plan.config.train == "full":
        return _export_full(plan, manifest, card, pictures)
    loras = {target: open_lora(plan.folder_of(target)) for target in plan.targets}
    write_adapters(
        folder,
        {name: (lora.tensors, lora.notes) for name, lora in loras.items()},
        manifest=manifest,
        card=card,
        pictures=pictures,
        base=base.folder if made_here else None,
    )
    return open_generator(folder)


def _export_full(
    plan: Plan, manifest: Mapping[str, Any], card: str, pictures: Mapping[str, bytes]
) -> Generator:
    """Write base, tokenizer and schedule with the trained U-Net and text encoder."""
    base = find_generator(plan.config.base, revision=plan.config.revision)
    pipeline = load_pipeline(base)
    if plan.config.attention_window is not None:
        set_attention_window(pipeline.unet, plan.config.attention_window)
    trained = load_file(plan.folder_of(EVERY_CLASS) / WEIGHTS)
    TextConditioned(pipeline.unet, pipeline.text_encoder).load_state_dict(trained)
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    return write_generator(
        plan.output / "generator",
        parts={name: getattr(pipeline, name) for name in parts},
        manifest=manifest,
        card=card,
        pictures=pictures,
    )

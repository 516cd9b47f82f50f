"""What a generation would draw, and the command that draws it: planned as `factory generate` plans.

Nothing is drawn or written. Names lead to no file: generators are those that whoever started the
server allows, configurations the presets that come with the factory, and keys that name places of
this machine (`data`, `lora`, `table`, banks of gates) cannot be given.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from catalog.progress import run_counts
from catalog.query import quoted
from catalog.tombstones import forgotten
from factory.agent.desk import Answer, Desk
from factory.config import parse_config, preset_names, read_config
from factory.errors import ConfigError
from factory.gate.registry import sections
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.session import check_used
from factory.terminal import duration

if TYPE_CHECKING:
    from factory.sample.prepare import Run

SETTINGS = (
    *("guidance_scale", "num_inference_steps", "scheduler", "size_px", "negative_prompt"),
    *("batch_size", "max_tries"),
)
"""Keys that an assistant may set beside model, classes, seed and number."""
_CLASSES_SHOWN = 50


def plan(desk: Desk, *, preset: str, asked: Mapping[str, Any]) -> Answer:
    """Return what a run of `asked` on top of a preset would be.

    Raises:
        ConfigError: a preset or a generator that is not there, or see `prepare`.
        CatalogError, ModelError: see `prepare`.
    """
    names = [name.removesuffix(".yaml") for name in preset_names()]
    if preset not in names:
        raise ConfigError(f"there is no preset {preset!r}", remedy=f"Choose of {', '.join(names)}")
    stored = read_config(preset) | dict(asked)
    model = stored.get("model", "wbc-base")
    if model not in desk.generators:
        raise ConfigError(
            f"generator {model!r} is not among those of this server",
            remedy=f"Choose of {', '.join(desk.generators)}; others are allowed where it is"
            " started: `factory agent --model NAME`",
        )
    run = prepare(parse_config(GenerateConfig, stored, where=preset), desk.place)
    check_used(run.config, run.generator)
    words = _words(run, preset, asked)
    return Answer(
        data={
            "run_id": run.run_id,
            **_drawn(run),
            "settings": {key: getattr(run.config, key) for key in (*SETTINGS, "seed", "dtype")},
            "gates": {
                gate.key: told
                for gate in sections(run.config)
                if (told := gate.model_dump(mode="json", exclude_none=True))
            },
            "generator": {"name": run.generator.name, "model_id": run.generator.model_id},
            "said": [*run.said, *_said(desk, run)],
            **_done(desk, run),
            "look_first": desk.command("generate", *words, "--preview"),
            "next": desk.command("generate", *words),
        }
    )


def _drawn(run: "Run") -> dict[str, Any]:
    classes: dict[str, dict[str, Any]] = {}
    for quota in run.plan.quotas:
        known = classes.setdefault(quota.recipe.class_name, {"images": 0, "prompts": []})
        known["images"] += quota.count
        known["prompts"].append(quota.recipe.prompt)
    shown = {name: classes[name] for name in [*classes][:_CLASSES_SHOWN]}
    return {
        "images": run.plan.num_images,
        "batches": run.plan.num_batches,
        "classes": shown,
        **({"more_classes": len(classes) - len(shown)} if len(shown) < len(classes) else {}),
    }


def _said(desk: Desk, run: "Run") -> list[str]:
    said = ["refused images are drawn anew, as far as max_tries goes"]
    if run.generator.model_id in forgotten(desk.place).models:
        said.append(
            f"{run.generator.name} learnt from a real image that was forgotten since: it draws no"
            " more until it was trained again"
        )
    return said


def _done(desk: Desk, run: "Run") -> dict[str, Any]:
    """Return what is published of the run, and how long the rest takes by the latest such run."""
    counts = run_counts(desk.view(), run.run_id)
    done = counts.accepted + counts.rejected
    found = desk.rows(
        "SELECT images_per_second AS rate FROM runs WHERE images_per_second > 0 AND run_id IN"
        f" (SELECT run_id FROM samples WHERE model_id = {quoted(run.generator.model_id)})"
        " ORDER BY updated_at DESC LIMIT 1"
    )
    left = max(0, run.plan.num_images - done)
    time = (
        f"{duration(left / found[0]['rate'])}, as fast as the latest run of this generator"
        if found
        else "not known: --preview measures it"
    )
    return {"published": done, "left": left, "time": time}


def _words(run: "Run", preset: str, asked: Mapping[str, Any]) -> list[str]:
    """Return the words after `generate` that make this very run."""
    keys = {key: value for key, value in asked.items() if key != "num_images"}
    keys["seed"] = run.config.seed
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={_yaml(value)}")]
    number = ["--num-images", str(asked["num_images"])] if "num_images" in asked else []
    return ["--config", preset, *sets, *number]


def _yaml(value: Any) -> str:
    """Return a value as --set takes it."""
    if isinstance(value, str):
        try:
            if yaml.safe_load(value) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value, ensure_ascii=False)

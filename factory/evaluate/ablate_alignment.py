"""The ablation of an alignment: train under every weight and seed, draw, measure, report."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from factory.atomic import write_text
from factory.errors import ConfigError
from factory.evaluate.alignment_bench import Bench, SetFigures, judged_real, open_bench
from factory.evaluate.alignment_report import AblationReport, compare, to_markdown
from factory.evaluate.drawing import Order, Settings, draw
from factory.finetune.ablation import Arm, arms_of, train_arms
from factory.finetune.config import FinetuneConfig
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace, Images
from factory.measure.sheets import beside, write_sheet
from factory.models.expert_file import load_expert
from factory.models.generator import Generator, find_generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.engine import Engine

SHOWN = 8
"""Images of each kind in a row of a sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What is compared.

    `space`: of the distances. `judge_space`: of the independent judge. `base`: what the trainings
    are held against; None: the base of the configuration.
    """

    weights: tuple[float, ...] = (0.0, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    per_class: int = 24
    drawing: Settings
    dtype: str = "float32"
    space: FeatureSpace
    judge_space: FeatureSpace
    base: str | None = None


def ablate(
    ablation: Ablation,
    config: FinetuneConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    tell: Callable[[str], object],
) -> AblationReport:
    """Train what is not trained yet, draw, measure, and write report and sheets into `output`.

    What was trained, drawn or computed before is kept in `output`, so a killed ablation goes on.
    Sheets: weight-*.png, real tiles beside drawn ones of the first seed, class by class. They show
    real images: `output` stays where the data is.

    Raises:
        ConfigError: no expert, or see `train_arms`.
        DataError: see `prepare` and `open_bench`.
        ModelError: unreadable weights.
    """
    arms = arms_of(ablation.weights, ablation.seeds)
    before = find_generator(ablation.base or config.base, revision=config.revision)
    trained = train_arms(config, dataset, split, arms, output, tell=tell)
    expert, notes = load_expert(_expert_of(config))
    bench = open_bench(
        dataset,
        split,
        expert,
        size_px=next(iter(trained.values())).size_px,
        space=ablation.space,
        judge_space=ablation.judge_space,
        cache=ArrayCache(folder=output / "cache"),
    )
    found: dict[Arm, SetFigures] = {}
    for arm, generator in trained.items():
        images, labels = draw_set(ablation, generator, bench.cache)
        tell(f"{arm.name}: {len(images)} images drawn")
        found[arm] = bench.measure(arm.name, images, labels)
        if arm.seed == ablation.seeds[0]:
            _write_sheet(output / f"weight-{arm.weight:g}.png", bench, images, labels)
    report = AblationReport(
        arms=[(arm, trained[arm].model_id, own) for arm, own in found.items()],
        comparisons=compare(found),
        base=bench.measure(before.name, draw_set(ablation, before, bench.cache)[0], None),
        floor=bench.floor(min(ablation.per_class, bench.test.smallest_class)),
        ceiling=judged_real(bench),
        settings=ablation.drawing,
        features=bench.space.name,
        judge_features=bench.judge_space.name,
        expert_val_accuracy=notes.val_accuracy,
        split_digest=split.digest,
        per_class=ablation.per_class,
    )
    write_text(output / "report.json", json.dumps(_plain(asdict(report)), indent=1) + "\n")
    write_text(output / "report.md", to_markdown(report))
    return report


def draw_set(
    ablation: Ablation, generator: Generator, cache: ArrayCache
) -> tuple[Images, list[str]]:
    """Return `per_class` images of each of the generator's classes, and what was asked for."""
    orders = [
        Order(class_name=name, prompt=generator.prompts[name], count=ablation.per_class)
        for name in generator.class_names
    ]
    engine = Engine(generator, dtype=ablation.dtype)
    images = np.concatenate(draw(engine, orders, ablation.drawing, cache=cache))
    return images, [order.class_name for order in orders for _ in range(order.count)]


def _expert_of(config: FinetuneConfig) -> Path:
    if config.expert is None:
        raise ConfigError("an ablation of the alignment needs an expert", remedy="Set expert")
    return config.expert


def _write_sheet(path: Path, bench: Bench, images: Images, labels: list[str]) -> None:
    rows = {}
    for name in sorted(set(labels)):
        ids = [i for i, own in zip(bench.test.ids, bench.test.labels, strict=True) if own == name]
        real = bench.dataset.array(bench.size_px, ids[:SHOWN])
        drawn = images[[own == name for own in labels]][:SHOWN]
        rows[f"{name}: real | drawn"] = beside(real, drawn)
    write_sheet(path, rows)


def _plain(value: object) -> object:
    """Return `value` with text for the keys that JSON does not take."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

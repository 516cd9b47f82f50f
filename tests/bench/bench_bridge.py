"""The bridge against the original's passes: the same network, steps and depths for both.

    python -m tests.bench.bench_bridge --data DATA --split split.json [--model wbc-base]

The original takes one source at a time: a pass for the feature, a pass for the inversion, then a
denoising for every depth. Bar: 2.
"""

import json
import statistics
import time
from dataclasses import replace

import click
import torch

from factory.config import load_config
from factory.methods.bridge.depths import MEASURES
from factory.methods.bridge.draw import predictor_of
from factory.methods.bridge.inversion import denoise_from, invert
from factory.models.generator import find_generator
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.levels import even_levels
from factory.sample.plan import Plan
from factory.sample.prepare import make_plan, with_classes, with_seed
from factory.sample.references import References, open_references
from tests.bench.timing import alternate, told
from tests.fakes.bridge import Counted


@click.command()
@click.option("--model", default="wbc-base")
@click.option("--data", required=True)
@click.option("--split", required=True)
@click.option("--pair", nargs=2, default=("lymphocyte", "monocyte"))
@click.option("--sources", default=4)
@click.option("--steps", default=50)
@click.option("--policy", default="uniform")
@click.option("--their-batch", default=1, help="Sources that the original takes at once.")
@click.option("--rounds", default=5)
def main(
    model: str, data: str, split: str, pair: tuple[str, str], sources: int, steps: int,
    policy: str, their_batch: int, rounds: int,
) -> None:  # fmt: skip
    """Print seconds a source of both, their network evaluations, and the ratio of the medians."""
    generator, references = find_generator(model), open_references(data, split)
    changes = [
        f"model={model}",
        f"num_images={10 * sources}",
        f"num_inference_steps={steps}",
        f"options.policy={policy}",
        f"options.pairs=[[{pair[0]}, {pair[1]}]]",
        f"batch_size={10 * sources}",
    ]
    config = with_classes(load_config(GenerateConfig, "adbd", changes), generator)
    plan = make_plan(with_seed(config), generator, references)
    engine = Engine(generator, references=references)
    depths: list[list[int]] = []

    def ours() -> float:
        begun = time.perf_counter()
        for batch in plan.batches():
            found = engine.draw(batch)
            depths[:] = _depths(found.columns["guidance_terms"])
        return (time.perf_counter() - begun) / sources

    ours()  # warm, and tells the depths that both go to
    their_evaluations = _their_passes(engine, plan, references, depths, their_batch)

    def theirs() -> float:
        begun = time.perf_counter()
        _their_passes(engine, plan, references, depths, their_batch)
        return (time.perf_counter() - begun) / sources

    fast, slow = alternate(ours, theirs, rounds=rounds)
    our_evaluations = steps + sum(map(sum, depths)) / sources
    print(told("bridge", fast, "s/source"), f"{our_evaluations:.0f} evaluations")
    print(told("original's passes", slow, "s/source"), f"{their_evaluations:.0f} evaluations")
    ratio = statistics.median(slow) / statistics.median(fast)
    print(f"ratio of medians: {ratio:.2f}, bar 2")


def _depths(told_facts: list[str]) -> list[list[int]]:
    """Return the depths of every source, of rows that stand source by source."""
    every = [int(json.loads(text)["depth"]) for text in told_facts]
    return [every[start : start + 10] for start in range(0, len(every), 10)]


@torch.inference_mode()
def _their_passes(
    engine: Engine, plan: Plan, references: References, depths: list[list[int]], batch: int
) -> float:
    """Do what the original does, and return its evaluations for one source."""
    recipes = [quota.recipe for quota in plan.quotas]
    evaluations = 0
    for start in range(0, len(recipes), batch):
        group = recipes[start : start + batch]
        recipe, size = group[0], len(group)
        options = _told_source(recipe.options)
        source = engine.guided(options["source"])
        asked = replace(recipe, prompt=options["source_prompt"], guidance_scale=1.0)
        levels = even_levels(source.training_config, recipe.num_inference_steps)
        shown = [references.get(str(r.reference_id), r.height_px, masks=False).image for r in group]
        pixels = torch.stack([torch.tensor(each) for each in shown]).permute(0, 3, 1, 2)
        latents = source.encode(pixels.float() / 127.5 - 1)
        climb = Counted(predictor_of(source, asked, size))
        for at in invert(climb, levels, latents):  # the pass for the feature
            MEASURES["centre_row"](at)
        states = [at.state for at in invert(climb, levels, latents)]
        target = engine.guided(recipe.class_name)
        descend = Counted(predictor_of(target, recipe, size))
        for number in range(10):
            own = [depths[start + row][number] for row in range(size)]
            begun = torch.stack([states[depth][row] for row, depth in enumerate(own)])
            target.decode(denoise_from(descend, levels, begun, own, slots=size))
        evaluations += climb.evaluations + descend.evaluations
    return evaluations / len(recipes)


def _told_source(text: str | None) -> dict[str, str]:
    """Return source and its prompt as a bridge's recipe records them."""
    options = json.loads(str(text))
    return {"source": options["pairs"][0][0], "source_prompt": options["source_prompt"]}


if __name__ == "__main__":
    main()

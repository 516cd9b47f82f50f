"""From configuration to run: every recipe, its counts, and the run's name; nothing is drawn."""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from catalog.place import Place, Where, place_of
from catalog.table import Catalog
from factory.config import parse_config
from factory.digest import digest
from factory.errors import ConfigError
from factory.gate.calibration import calibration_of, gates_for
from factory.gate.pixel import PixelGates
from factory.gate.registry import sections
from factory.models.families import GENERIC, is_guided, learnt_flow
from factory.models.foreign import find_drawn
from factory.models.generator import DISTILLED, Generator
from factory.models.prompts import open_reader
from factory.sample.config import GenerateConfig
from factory.sample.method import check_method, draws_masks, options_text, parse_options
from factory.sample.plan import Plan
from factory.sample.quotas import Planning
from factory.sample.recipe import Recipe
from factory.sample.references import References, check_generator, open_references
from factory.sample.row_prompts import RowPrompts, prompts_of, with_table
from factory.sample.rows import RunFacts
from factory.sample.schedulers import OWN, check_fits
from factory.sample.table import Table

SURELY_READ = 40
"""Letters of a prompt that are read by every tokenizer here: a token each, of 48 or 77."""
_PLAIN = re.compile(r"[A-Za-z0-9 ,.-]*")
"""Letters that every tokenizer here knows."""
CALIBRATED_TRIES = 3
"""Of a generator whose gates know its real images: foreign ones may refuse a class altogether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that can start: everything resolved, nothing drawn."""

    run_id: str
    config: GenerateConfig
    generator: Generator
    plan: Plan
    place: Place
    """Its catalog."""
    references: References | None = None
    said: tuple[str, ...] = ()
    """What a person should know before anything is drawn."""
    facts: RunFacts | None = None
    """What its rows share, once it has begun."""


def prepare(config: GenerateConfig, place: Where, *, begun: bool = False) -> Run:
    """Resolve a configuration: find the generator, fix seed and thresholds, plan, name the run.

    `begun`: its thresholds were resolved when the run began, and stay.

    Raises:
        ConfigError, ModelError, DataError: see `make_plan`, `find_generator`, `open_references`,
            `check_bank`, `with_table`.
    """
    generator = drawn_by(config)
    config, table = with_table(with_seed(config), generator)
    config = with_defaults(with_classes(config, generator), generator)
    config = config if begun else with_gates(config, generator)
    said = check_prompts(config, generator, begun=begun, table=table)
    references = None if config.data is None else open_references(config.data, config.split)
    if references is not None:
        check_generator(references, generator)
    masked = draws_masks(config.method or generator.method, config.options)
    for gate in sections(config):
        known = gate.of(generator.folder)
        if known and (masked or not gate.of_masks):  # `check_used` refuses the others
            known.check(generator.manifest.get("split_digest"))
    plan = make_plan(config, generator, references, table=table)
    return Run(
        run_id=run_id_of(plan, config),
        config=config,
        generator=generator,
        plan=plan,
        place=place_of(place),
        references=_travelling(references, plan),
        said=tuple(said),
    )


def _travelling(references: References | None, plan: Plan) -> References | None:
    """Return those references that the plan shows."""
    recipes = [quota.recipe for quota in plan.quotas]
    shown = [name for recipe in recipes for name in (recipe.reference_id, recipe.target_id)]
    ids = [image_id for image_id in shown if image_id is not None]
    return references.only(ids) if references is not None and ids else None


def prepare_resume(run_id: str, place: Where) -> Run:
    """Read a run's configuration back from the catalog.

    Raises:
        CatalogError: no such run.
        ConfigError: the generator's files are not those that the run began with.
    """
    row = Catalog(place).run(run_id)
    stored = parse_config(GenerateConfig, json.loads(str(row["config"])), where=f"run {run_id}")
    run = prepare(stored, place, begun=True)
    if run.run_id != run_id:
        before = with_first_prompts(stored)
        run = prepare(before, place, begun=True)
    if run.run_id != run_id:
        raise ConfigError(
            f"run {run_id} cannot go on: generator {stored.model!r} has other files now"
            f" (model_id {run.generator.model_id})"
            + (f", or the real images at {stored.data!r} other pixels" if stored.data else ""),
            remedy="Restore the generator's files, or start a new run",
        )
    return run


def drawn_by(config: GenerateConfig) -> Generator:
    """Return the generator that a configuration names, with the LoRA that it names.

    Raises:
        ConfigError, ModelError: see `find_drawn`.
    """
    return find_drawn(
        config.model, revision=config.revision, lora=config.lora, lora_scale=config.lora_scale
    )


def with_seed(config: GenerateConfig) -> GenerateConfig:
    """Return `config` with a seed: its own, or a fresh one if it has none."""
    if config.seed is not None:
        return config
    return config.model_copy(update={"seed": secrets.randbits(53)})  # 53: exact in any JSON reader


def with_classes(config: GenerateConfig, generator: Generator) -> GenerateConfig:
    """Return `config` with classes and prompts: its own, or all of the generator's.

    Those of a table's rows are their own, see `sample.row_prompts`.

    Raises:
        ConfigError: neither names a class.
    """
    if config.table is not None or (config.classes and isinstance(config.classes, Mapping)):
        return config
    if not generator.prompts:
        raise ConfigError(
            f"generator {generator.name!r} names no classes",
            remedy="Set classes: {name: prompt, ...}",
        )
    names = tuple(config.classes) or tuple(generator.prompts)
    if unknown := [name for name in names if name not in generator.prompts]:
        raise ConfigError(
            f"classes: {unknown[0]!r} is unknown to generator {generator.name!r}",
            remedy=f"Choose from {', '.join(generator.prompts)}, or write {{name: prompt, ...}}",
        )
    return config.model_copy(update={"classes": {name: generator.prompts[name] for name in names}})


def with_defaults(config: GenerateConfig, generator: Generator) -> GenerateConfig:
    """Return `config` with a scheduler and other settings that suit the generator.

    The default scheduler, where none is named, is for models of diffusion alone; one that learnt a
    flow, or is of no known family, has its own. What is settled for the generator is as it must be,
    whatever a preset for another one says.
    """
    suited: dict[str, object] = {}
    own = generator.family is GENERIC or learnt_flow(generator.weights)
    if own and "scheduler" not in config.model_fields_set:
        suited["scheduler"] = OWN
    return config.model_copy(update={**suited, **generator.settled})


def with_gates(config: GenerateConfig, generator: Generator) -> GenerateConfig:
    """Return `config` with the thresholds that count, all named, and its tries.

    See `gates_for`: the generator's own, where it was measured on real images. A gate that is on by
    default and cannot judge is off: the generator brings no bank, or images that start from real
    ones resemble these.
    """
    measured = calibration_of(generator)
    idle = {
        gate.key: None
        for gate in sections(config)
        if gate.heavy
        and gate == gate.default()
        and (config.data or gate.of(generator.folder) is None)
    }
    tries = config.max_tries or (CALIBRATED_TRIES if measured else None)
    return config.model_copy(
        update={**idle, "gates": gates_for(config.gates, measured), "max_tries": tries}
    )


def check_prompts(
    config: GenerateConfig, generator: Generator, *, begun: bool, table: Table | None = None
) -> list[str]:
    """Return what is to be said of prompts of which the generator does not read every word.

    A prompt of the job that would be cut is refused: images would be drawn, and named, under words
    that nobody read. Those that the generator was trained under, and of a run that has begun, stay.

    Raises:
        ConfigError: with the words that would be cut.
        DataError: a row of the table without what its prompt asks for.
    """
    own, said = set(generator.prompts.values()), about_settings(generator)
    asked = [("negative_prompt", config.negative_prompt)] + [
        (name, prompt)
        for name, prompts in config.prompts.items()
        for prompt in ((prompts,) if isinstance(prompts, str) else prompts)
        if table is None
    ]
    if table is not None:
        of_rows = RowPrompts(config, generator)
        asked += prompts_of(table, of_rows)
        said += table.said
        if unused := of_rows.unused(table):
            said.append(f"in no prompt, and only kept with the images: {', '.join(unused)}")
    doubtful = [
        (name, prompt)
        for name, prompt in asked
        if len(prompt) > SURELY_READ or not (prompt in own or _PLAIN.fullmatch(prompt))
    ]
    if not doubtful:
        return said
    if (reader := open_reader(generator.weights, generator.family.tokens)) is None:
        return said
    for name, prompt in doubtful:
        found = reader.read(prompt)
        if found.cut and not begun and prompt not in own:
            raise ConfigError(
                f"the prompt of {name!r} has {found.tokens} tokens, and generator"
                f" {generator.name!r} reads {found.most}: {found.cut!r} would be cut off",
                remedy="Shorten it, the most important words first",
            )
        if found.cut:
            said.append(f"{name}: of the prompt {found.cut!r} is cut off and not read")
        elif found.unknown and prompt not in own:
            said.append(f"{name}: the letters {found.unknown!r} of the prompt are not known")
    return said


def about_settings(generator: Generator) -> list[str]:
    """Return what is to be said where some settings change nothing."""
    if DISTILLED in generator.manifest:
        told = ", ".join(f"{key} {value}" for key, value in sorted(generator.settled.items()))
        return [f"{generator.name} was distilled, and is drawn by no other settings: {told}"]
    if not generator.conditional:
        return [f"guidance_scale is not used: {generator.name} was trained without a condition"]
    if not is_guided(generator.family, generator.weights):
        return [f"guidance_scale is not used: {generator.name} does not ask for it"]
    return []


def with_first_prompts(config: GenerateConfig) -> GenerateConfig:
    """Return `config` with one prompt per class, under which older runs showed all references."""
    first = {n: p if isinstance(p, str) else p[0] for n, p in config.prompts.items()}
    return config.model_copy(update={"classes": first})


def make_plan(
    config: GenerateConfig,
    generator: Generator,
    references: References | None = None,
    *,
    table: Table | None = None,
) -> Plan:
    """Return the plan of a seeded configuration: images shared evenly by classes, then prompts.

    A method that shows references gets a recipe for each of them instead; see `Method.quotas`. A
    table, as `with_table` reads it, has a recipe for each row.

    Raises:
        ConfigError: a class that the generator does not know, no seed, a prompt twice, options
            that the method does not have, guidance without a condition, no data where references
            are to be shown, or a table where they are, or where its rows were not read.
        ModelError: a style term whose extractor has no weights at hand.
        DataError: a reference outside the train part, or without the mask that it needs; a row
            without what its prompt asks for.
    """
    config = with_classes(config, generator)
    base = _base_recipe(config, generator)
    method = check_method(base.method, generator)
    check_fits(
        config.scheduler,
        flow=learnt_flow(generator.weights),
        num_inference_steps=config.num_inference_steps,
    )
    options = method.resolved(parse_options(base.method, config.options), generator)
    if config.table is not None:
        _check_table(config, table, shown=options is not None and options.shows_references)
    planning = Planning(
        config=config,
        generator=generator,
        base=replace(base, options=options_text(options)),
        references=references,
        table=table,
    )
    plan = Plan(quotas=tuple(method.quotas(planning, options)))
    _check_settled(plan, generator)
    return plan


def _check_settled(plan: Plan, generator: Generator) -> None:
    """Refuse settings under which a generator was never trained.

    Raises:
        ConfigError: a scale other than 1, and no condition; others than a student's own.
    """
    for key, value in generator.settled.items():
        others = {getattr(quota.recipe, key) for quota in plan.quotas} - {value}
        if others:
            why = (
                "was distilled for others"
                if DISTILLED in generator.manifest
                else "was trained without a condition, and there is nothing to follow"
            )
            raise ConfigError(
                f"{key} {min(others)}: generator {generator.name!r} {why}",
                remedy=f"Set {key}: {value:g}" if key != "scheduler" else f"Set {key}: {value}",
            )


def _check_table(config: GenerateConfig, table: Table | None, *, shown: bool) -> None:
    """Refuse a table that would be left unread.

    Raises:
        ConfigError: its rows are not there, or the method draws from real images.
    """
    if table is None:
        raise ConfigError(
            f"the rows of table {str(config.table)!r} were not read",
            remedy="Draw it with `factory generate --set table=FILE`",
        )
    if shown:
        raise ConfigError(
            f"table is {str(config.table)!r}, and as it is set this method draws from real images",
            remedy="Leave table out, or the options that show real images",
        )


def _base_recipe(config: GenerateConfig, generator: Generator) -> Recipe:
    """Return what all recipes of a run share; class and prompt are still to be set."""
    if config.seed is None:
        raise ConfigError("the configuration has no seed", remedy="Call with_seed() first")
    size = config.size_px or generator.size_px
    return Recipe(
        model_id=generator.model_id,
        method=config.method or generator.method,
        class_name="",
        class_id=0,
        prompt="",
        negative_prompt=config.negative_prompt,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        scheduler=config.scheduler,
        height_px=size,
        width_px=size,
        seed=config.seed,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


def run_id_of(plan: Plan, config: GenerateConfig) -> str:
    """Return the run's name: equal plans with equal gates are one run, wherever submitted.

    So a resubmitted run resumes, and never draws an image twice.
    """
    judged: list[object] = [plan.digest, gates_for(config.gates, None).model_dump(mode="json")]
    for gate in sections(config):  # older runs know none of these, and keep their names
        if not isinstance(gate, PixelGates) and gate != gate.default():
            judged.append({gate.key: gate.model_dump(mode="json")})
    return "run-" + digest(judged)[:12]


def lineage(generator: Generator) -> Mapping[str, str | float | None]:
    """Return the columns of provenance and field that a generator's manifest fills."""
    columns = ("base_model_id", "split_digest", "dataset_fingerprint")
    told = {name: generator.manifest.get(name) for name in columns}
    return told | {"pixel_size_um": generator.field.pixel_size_um, "crop": generator.field.crop}

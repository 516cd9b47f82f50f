"""Redraw published images, or some of a release, from their rows; say how the pixels compare."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.boundary import file_names, json_object
from catalog.export.png_text import as_synthetic
from catalog.place import Where
from catalog.releases import audited, find_release
from catalog.table import Catalog
from factory.arrays import Pixels
from factory.atomic import write_bytes, writing
from factory.digest import digest
from factory.errors import CatalogError, ConfigError, ModelError
from factory.models.foreign import find_drawn
from factory.models.generator import EMBEDDED, Generator
from factory.real.pixels import pixel_sha256, psnr_db, published_pixels
from factory.real.sources import open_dataset
from factory.sample.fingerprint import differing, recorded_threads
from factory.sample.plan import Batch
from factory.sample.recipe import Request, recipe_from
from factory.sample.references import References
from factory.sample.rows import encode_png

if TYPE_CHECKING:  # torch waits until the images and the generator are found
    from factory.sample.engine import Engine

EQUAL_DB = 40.0
"""PSNR from which two images count as perceptually equal (tier T2)."""
EQUAL_MASK = 0.999
"""Share of equal pixels from which their masks do."""

TIERS = ("identical", "equal", "different")
"""What `Outcome.tier` 0, 1 and 2 are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a redrawn image compares: tier 0 identical, 1 equal within `psnr_db`, 2 differs."""

    image_id: str
    tier: int
    psnr_db: float
    because: str = ""

    def __str__(self) -> str:
        if self.tier == 0:
            return "identical"
        if self.tier == 1:
            return f"equal within {self.psnr_db:.1f} dB ({self.because})"
        return f"differs, because {self.because} (PSNR {self.psnr_db:.1f} dB)"


def regenerate_images(
    place: Where,
    *,
    image_ids: Sequence[str] = (),
    sample: str | None = None,
    seed: int = 0,
    model: str | None = None,
    data: str | None = None,
    out: Path | None = None,
    tell: Callable[[str], object] = lambda _line: None,
) -> Iterator[Outcome]:
    """Yield an outcome per image, redrawing batch by batch, see `_redraw`.

    Args:
        image_ids: which images; or
        sample: '25' or '1%': that many, chosen by `seed` from the accepted ones.
        model: name or folder of the generator; default: the one recorded in `models`.
        data: the real images that were shown; default: those that the run names.
        out: folder for the redrawn PNGs, and masks; an id that is no plain file name gets one.
        tell: gets a line ahead of whatever takes its time.

    Raises:
        CatalogError: unknown ids, or neither ids nor a sample asked for.
        ConfigError: both asked for, or a sample that is no such number.
        OutputError: `out` cannot be written.
        ModelError: the generator is not at hand, or has other files than the one recorded.
        DataError: the real images are not at hand, or have other pixels than those shown.
    """
    if image_ids and sample:
        raise ConfigError(
            f"{len(image_ids)} image ids and --sample {sample} were given",
            remedy="Give one of them",
        )
    catalog = Catalog(place)
    wanted = list(image_ids) or _sample(catalog, sample, seed)
    rows = catalog.rows(wanted).to_pylist()
    places: dict[str, Path] = {}
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        places = {image_id: out / name for image_id, name in file_names(wanted).items()}
    engines: dict[tuple[str, ...], Engine] = {}
    finished = 0
    for group in _by_settings(rows):
        first = recipe_from(group[0]["recipe"])
        run = _recorded(catalog, group[0]["run_id"])
        shown = (data or run.get("data")) if first.reference_id else None
        key = (first.model_id, first.dtype, str(shown))
        if key not in engines:
            names = [model] if model else [str(run["model"]), *EMBEDDED]
            generator = _generator(first.model_id, names, run)
            tell(f"loading generator {generator.name} ...")
            references = None if shown is None else References(dataset=open_dataset(shown))
            engines[key] = _engine(generator, first.dtype, references)
        for start in range(0, len(group), first.batch_size):
            chunk = group[start : start + first.batch_size]
            tell(f"drawing {len(chunk)} of {len(rows) - finished} images ...")
            yield from _redraw(engines[key], chunk, first.batch_size, places)
            finished += len(chunk)


def redraw_release(
    place: Where,
    name: str,
    count: int,
    *,
    seed: int = 0,
    model: str | None = None,
    data: str | None = None,
) -> Iterator[Outcome]:
    """Yield an outcome for each of `count` images of a release (or all), chosen by `seed`.

    Args:
        place: the catalog.
        name: the release; a base name means its latest.
        count: how many images; fewer where the release has fewer.
        seed: decides which, together with the ids alone.
        model, data: see `regenerate_images`.

    Raises:
        ConfigError: count < 1.
        CatalogError, ModelError, DataError: see `find_release` and `regenerate_images`.
    """
    if count < 1:
        raise ConfigError(f"{count} images cannot be redrawn", remedy="Ask for 1 or more")
    release = find_release(place, name)
    ids = audited(place, release).image_ids
    chosen = heapq.nsmallest(count, ids, key=lambda image_id: digest(["redraw", seed, image_id]))
    yield from regenerate_images(place, image_ids=chosen, model=model, data=data)


def _engine(generator: Generator, dtype: str, references: References | None) -> "Engine":
    from factory.sample.engine import Engine

    return Engine(generator, dtype=dtype, references=references)


def _redraw(
    engine: "Engine", rows: Sequence[dict[str, Any]], size: int, places: Mapping[str, Path]
) -> Iterator[Outcome]:
    """Yield the outcomes of rows of one batch shape, drawn in a smaller one where that will do.

    Bits depend on the shape, and on some processors on the threads, but most images of 8 bits a
    channel come out equal at any: 1 of 32 costs a thirtieth. What is identical is so however it was
    drawn; only the recorded shape, in the recorded threads, says that an image is not.
    """
    if engine.device != "cpu":
        yield from _redraw_in_place(engine, rows, size, places)
        return
    recorded = json_object(rows[0]["engine"], f"engine of image {rows[0]['image_id']!r}")
    same = not differing(recorded, engine.fingerprint)
    left, found = list(rows), dict[str, Outcome]()
    tries = [(shape, 1) for shape in shapes(len(rows), size)] if same else []
    for shape, threads in (*tries, (size, recorded_threads(recorded))):
        batch = Batch(index=0, size=shape, requests=tuple(map(_request, left)))
        with in_threads(threads):
            drawn = engine.draw(batch)
        again = []
        for number, row in enumerate(left):
            image, mask = drawn.images[number], drawn.mask(number)
            if shape < size and pixel_sha256(image, mask) != row["pixel_sha256"]:
                again.append(row)
                continue
            if places:
                _write(places[row["image_id"]], row["image_id"], image, mask)
            found[row["image_id"]] = compare(row, image, engine.fingerprint, mask=mask)
        left = again
        if not left:
            break
    yield from (found[row["image_id"]] for row in rows)


def _redraw_in_place(
    engine: "Engine", rows: Sequence[dict[str, Any]], size: int, places: Mapping[str, Path]
) -> Iterator[Outcome]:
    """Yield the outcomes of rows, each drawn in the slot of its batch that it was drawn in.

    On a GPU the bits of a row of a product may depend on where it lies: kernels cut a batch into
    tiles, and sum what is left over in another order.
    """
    found: dict[str, Outcome] = {}
    for seated in seats(rows, size):
        filled = [seated.get(slot, next(iter(seated.values()))) for slot in range(size)]
        drawn = engine.draw(Batch(index=0, size=size, requests=tuple(map(_request, filled))))
        for slot, row in seated.items():
            image, mask = drawn.images[slot], drawn.mask(slot)
            if places:
                _write(places[row["image_id"]], row["image_id"], image, mask)
            found[row["image_id"]] = compare(row, image, engine.fingerprint, mask=mask)
    yield from (found[row["image_id"]] for row in rows)


def seats(rows: Sequence[dict[str, Any]], size: int) -> list[dict[int, dict[str, Any]]]:
    """Return batches as slot -> row, every row in its own slot and as few batches as that takes."""
    batches: list[dict[int, dict[str, Any]]] = []
    for row in rows:
        slot = int(row["batch_slot"]) % size
        free = next((batch for batch in batches if slot not in batch), None)
        if free is None:
            batches.append(free := {})
        free[slot] = row
    return batches


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """Compute in so many threads: their number may change bits, and many wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shapes(count: int, size: int) -> list[int]:
    """Return the batch sizes to try for `count` images before the recorded `size`.

    One is worth its while up to a quarter of the recorded one.
    """
    return [shape for shape in (count, 4 * count) if 4 * shape <= size]


def _request(row: Mapping[str, Any]) -> Request:
    return Request(recipe=recipe_from(row["recipe"]), index=row["recipe_index"])


def _write(place: Path, image_id: str, image: Pixels, mask: Pixels | None) -> None:
    with writing(place.parent):
        write_bytes(place.with_name(f"{place.name}.png"), as_synthetic(encode_png(image), image_id))
        if mask is not None:
            write_bytes(place.with_name(f"{place.name}.mask.png"), encode_png(mask))


def compare(
    row: Mapping[str, Any],
    image: Pixels,
    engine: Mapping[str, str],
    *,
    mask: Pixels | None = None,
) -> Outcome:
    """Return how a redrawn `image` (H, W, 3) and `mask` (H, W) compare with the published row."""
    image_id = row["image_id"]
    if pixel_sha256(image, mask) == row["pixel_sha256"]:
        return Outcome(image_id=image_id, tier=0, psnr_db=float("inf"))
    try:
        published, published_mask = published_pixels(row)
    except OSError as error:
        because = f"the published image cannot be decoded ({error})"
        return Outcome(image_id=image_id, tier=2, psnr_db=float("nan"), because=because)
    if pixel_sha256(published, published_mask) != row["pixel_sha256"]:
        because = "the published image was changed after it was drawn: its pixels break the hash"
        return Outcome(image_id=image_id, tier=2, psnr_db=float("nan"), because=because)
    changes = differing(json_object(row["engine"], f"engine of image {image_id!r}"), engine)
    because = "; ".join(changes) or "this engine does not repeat itself: report this as a bug"
    psnr = psnr_db(published, image) if published.shape == image.shape else 0.0
    agreeing = _agreement(published_mask, mask)
    if agreeing < 1:
        because += f"; {agreeing:.2%} of the mask agree"
    tier = 1 if psnr >= EQUAL_DB and agreeing >= EQUAL_MASK else 2
    return Outcome(image_id=image_id, tier=tier, psnr_db=psnr, because=because)


def _agreement(published: Pixels | None, mask: Pixels | None) -> float:
    """Return the share of equal mask pixels, 0..1: 1 without masks, 0 if only one has any."""
    if published is None or mask is None:
        return float(published is mask)
    return float((published == mask).mean()) if published.shape == mask.shape else 0.0


def _by_settings(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group rows that may share a batch, drawn by one engine; a run says where its parts lie."""
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        settings = recipe_from(row["recipe"]).settings
        groups[(row["run_id"], settings, row["engine"])].append(row)
    return list(groups.values())


def _sample(catalog: Catalog, sample: str | None, seed: int) -> list[str]:
    if not sample:
        raise CatalogError(
            "no images to redraw", remedy="Give image ids, or --sample 1% or --sample 64"
        )
    percent = sample.endswith("%")
    try:
        number = float(sample[:-1]) / 100 if percent else int(sample)
    except ValueError:
        number = -1
    if not (0 < number <= 1 if percent else number >= 1):
        raise ConfigError(
            f"--sample {sample!r} is neither a number of images nor a percentage of them",
            remedy="Write --sample 64 or --sample 1%",
        )
    if percent:
        return catalog.sample_ids(fraction=number, seed=seed)
    return catalog.sample_ids(count=int(number), seed=seed)


def _recorded(catalog: Catalog, run_id: str) -> dict[str, Any]:
    """Return the run's configuration: where its generator and its real images lay."""
    config = str(catalog.run(run_id)["config"])
    return json_object(config, f"the configuration of run {run_id!r}")


def _generator(model_id: str, names: Sequence[str], run: Mapping[str, Any]) -> Generator:
    """Return the generator with exactly this `model_id`, found under one of `names`.

    With the LoRA file of its run, if there was one.
    """
    lora = Path(run["lora"]) if run.get("lora") else None
    found = ""
    for name in names:
        try:
            generator = find_drawn(name, lora=lora, lora_scale=run.get("lora_scale"))
        except (ModelError, ConfigError) as error:
            found = str(error)
            continue
        if generator.model_id == model_id:
            return generator
        found = f"{name!r} has model_id {generator.model_id} now"
    raise ModelError(
        f"generator {model_id} is not at hand ({found})",
        remedy="Give its folder with --model; its files must be those that drew the images",
    )

"""`factory real`: look at real images, split them once, or draw a demo set."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from factory.command_line import tell_next
from factory.errors import DataError
from factory.real.options import (
    FILE,
    column_options,
    given_again,
    like_masks_text,
    not_read_text,
    opened,
)
from factory.terminal import say

if TYPE_CHECKING:  # numpy, Pillow and pyarrow wait until a command runs
    from factory.real.dataset import RealDataset
    from factory.real.describe import Description
    from factory.real.splits import Split

SHOWN_IDS = 5
"""Ids printed of one set of near-duplicates; --json gives all."""
SHOWN_FAULTS = 200
"""Lines printed of what is broken or wrong; --json gives all."""
FEW_PAIRS = 200
"""Of a train part: of fewer, components of patches are learnt in a short time."""


@click.group()
def real() -> None:
    """Real images: describe, split, verify, draw.

    A URI is a folder (class folders; images/ with masks/ and metadata.csv), a .csv or .parquet
    table, a folder of Parquet parts, a MedMNIST .npz, medmnist:bloodmnist?size=64 or
    smear:300?seed=1.
    """


def _source(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and options by which every command opens its dataset."""
    return click.argument("uri")(column_options(command))


@real.command("describe")
@_source
@click.option("--sheet", type=FILE, help="Write a contact sheet (PNG) here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe_command(uri: str, sheet: Path | None, as_json: bool, **options: Any) -> None:
    """Print counts, sizes, class balance, what masks hold, near-duplicates and all that is wrong.

    It ends with an error where something is: other commands would refuse the same images.

    Example: factory real describe data/wbc --group patient --sheet sheet.png
    """
    from dataclasses import asdict

    from factory.real.describe import contact_sheet, describe

    dataset = opened(uri, options, tell=False, keep_faults=True)
    found = describe(dataset)
    if sheet is not None:
        contact_sheet(dataset, sheet)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
    else:
        _print(found)
        if sheet is not None:
            say(f"sheet        {sheet}")
    wrong = [*([] if options["skip_broken"] else found.broken), *found.faults]
    if wrong:
        first = shorten(wrong[0], 160, placeholder=" ...")
        raise DataError(
            f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong with {uri},"
            f" listed above, first: {first}",
            remedy="Mend them" + (", or pass --skip-broken" if found.broken else ""),
        )
    if not as_json:
        rule = ("--masks", "object") if found.masks_number_objects else ()
        tell_next("real", "split", uri, *given_again(options), *rule, "--out", "split.json")


@real.command()
@_source
@click.option("--out", type=FILE, required=True, help="JSON file; folds get .0, .1, ... inserted.")
@click.option("--fractions", default="train=0.8,val=0.1,test=0.1", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--folds", type=click.IntRange(3), help="Write k splits for cross-validation.")
def split(
    uri: str, out: Path, fractions: str, seed: int, folds: int | None, **options: Any
) -> None:
    """Divide images into train, val and test; groups and near-duplicates stay together.

    Example: factory real split data/wbc --group patient --out split.json
    """
    from factory.real.describe import about_folders, about_masks, split_warnings
    from factory.real.duplicates import grouped
    from factory.real.splits import Split, make_folds, make_split

    shares = _fractions(fractions)
    dataset = opened(uri, options)
    groups = grouped(dataset)
    make = partial(make_split, fractions=shares) if folds is None else partial(make_folds, k=folds)
    made = make(
        dataset=dataset.fingerprint,
        ids=dataset.ids,
        labels=dataset.labels,
        groups=groups,
        seed=seed,
    )
    parts = {out: made} if isinstance(made, Split) else _fold_paths(out, made)
    for path, part in parts.items():
        part.save(path)
        sizes = f"train {len(part.train)}, val {len(part.val)}, test {len(part.test)}"
        say(f"{path}  {part.digest}  {sizes}")
    _print_groups(dataset, groups)
    _print_parts(dataset, list(parts.values()))
    warnings = split_warnings(dataset, list(parts.values()), groups)
    for warning in [*about_masks(dataset), *about_folders(dataset), *warnings]:
        say(f"warning: {warning}", err=True)
    path, first = next(iter(parts.items()))
    tell_next(*_training(dataset, first, ("--data", uri, *given_again(options), "--split", path)))


@real.command()
@click.argument("split_file", metavar="SPLIT", type=FILE)
@_source
def verify(split_file: Path, uri: str, **options: Any) -> None:
    """Check that SPLIT holds exactly the images of URI and divides no group.

    Example: factory real verify split.json data/wbc --group patient
    """
    from factory.real.duplicates import grouped
    from factory.real.splits import load_split, verify_split

    made = load_split(split_file)
    dataset = opened(uri, options)
    verify_split(made, dataset=dataset.fingerprint, ids=dataset.ids, groups=grouped(dataset))
    say(f"{split_file} holds for {uri}: {len(dataset)} images, digest {made.digest}")


@real.command()
@click.argument("split_file", metavar="SPLIT", type=FILE)
@_source
@click.option("-n", "--shots", "number", type=click.IntRange(1), required=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=FILE, help="Write JSON here instead of printing it.")
def shots(
    split_file: Path, uri: str, number: int, seed: int, out: Path | None, **options: Any
) -> None:
    """Draw n training images per class: ids by class, from the train part only.

    Example: factory real shots split.json data/wbc -n 10
    """
    from factory.atomic import write_text, writing
    from factory.real.splits import check_dataset, load_split, n_shot

    made = load_split(split_file)
    dataset = opened(uri, options)
    check_dataset(made, dataset.fingerprint)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    text = json.dumps(n_shot(made, labels=labels, shots=number, seed=seed), indent=1)
    if out is None:
        click.echo(text)
    else:
        with writing(out):
            write_text(out, text + "\n")
        say(f"{out}  {number} shots of {len(dataset.class_names)} classes")


@real.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("-n", "--num-images", type=click.IntRange(1), default=300, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--size-px", type=click.IntRange(16, 1024), default=64, show_default=True)
@click.option("--stain-hue", default=0.0, show_default=True, help="-1 bluer .. 1 redder.")
@click.option("--zoom", default=1.0, show_default=True, help="0.5 .. 1.6")
@click.option("--background", default=0.0, show_default=True, help="0 warm .. 1 cool.")
@click.option("--red-cells", default=1.0, show_default=True, help="Crowding, 0 .. 3.")
def smear(out: Path, num_images: int, seed: int, size_px: int, **style: float) -> None:
    """Draw a demo set of blood cells with exact masks, by code.

    Example: factory real smear --out demo -n 100 --stain-hue 0.5
    """
    from factory.real.smear import SmearStyle, write_smear

    write_smear(out, num_images, seed=seed, size_px=size_px, style=SmearStyle(**style))
    say(f"{out}  {num_images} images of {size_px} px, seed {seed}")


def _fold_paths(out: Path, folds: "list[Split]") -> "dict[Path, Split]":
    """Name fold n of split.json split.n.json."""
    return {out.with_suffix(f".{n}{out.suffix}"): fold for n, fold in enumerate(folds)}


def _training(
    dataset: "RealDataset", split: "Split", data: "Sequence[object]"
) -> "Iterator[object]":
    """Yield the training that fits: pairs where all have masks, else classes that no part lacks."""
    from factory.real.describe import missing_classes
    from factory.real.mask_values import number_objects

    masks = [content.mask_values for content in dataset.contents]
    pairs = all(masks) and not number_objects(masks)
    yield "finetune"
    if pairs:
        small = len(split.train) < FEW_PAIRS
        yield from ("--config", "pairs_small" if small else "polyp_pairs_train")
    yield from data
    absent = missing_classes(dataset, split)
    if pairs:  # masks are judged, not classes: all but the train part may lack some
        absent = {part: names for part, names in absent.items() if part == "train"}
    missing = {name for names in absent.values() for name in names}
    if len(set(dataset.class_names) - missing) > 1:
        for name in sorted(missing):
            yield from ("--without", name)
    yield from ("--output", "runs/mine")


def _fractions(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        shares = {part.strip(): float(share) for part, _, share in pairs}
    except ValueError as error:
        raise DataError(
            f"fractions {text!r} cannot be read", remedy="Write train=0.8,val=0.1,test=0.1"
        ) from error
    if len(shares) < len(pairs):
        raise DataError(f"fractions {text!r} name a part twice", remedy="Name every part once")
    return shares


def _print_groups(dataset: "RealDataset", groups: "Sequence[str]") -> None:
    """Print which column became the group, and how many of them were divided."""
    from factory.real.describe import grouped_by

    by = grouped_by(dataset)
    alone = "none given (--group COLUMN), images like each other stay together"
    what = f"by {', '.join(by)}" if by else alone
    say(f"groups       {what}; {len(set(groups))} to divide")


def _print_parts(dataset: "RealDataset", splits: "Sequence[Split]") -> None:
    """Print images per class and part, of folds per class and test part."""
    from factory.real.describe import part_counts

    counts = [part_counts(dataset, split) for split in splits]
    if len(counts) == 1:
        _print_table(counts[0])
        return
    names = {f"test {n}": count for n, count in enumerate(counts)}
    _print_table({name: {fold: c[name]["test"] for fold, c in names.items()} for name in counts[0]})


def _print_table(rows: "dict[str, dict[str, int]]") -> None:
    width = max(24, *map(len, rows))
    columns = list(next(iter(rows.values())))
    say(f"  {'class':<{width}} {' '.join(f'{column:>7}' for column in columns)}")
    for name, row in rows.items():
        say(f"  {name:<{width}} {' '.join(f'{row[column]:>7}' for column in columns)}")


def _print(found: "Description") -> None:
    """Print a description for people: the figures, then what needs attention."""
    sizes = ", ".join(f"{size} ({n})" for size, n in list(found.sizes_px.items())[:3])
    more = f", {len(found.sizes_px)} sizes in all" if len(found.sizes_px) > 3 else ""
    say(f"fingerprint  {found.fingerprint}")
    say(f"images       {found.num_images}, {found.num_masks} with masks")
    for how, count in found.read_as.items():
        say(f"read as      {how}: {count}")
    if found.mask_shares:
        say(f"masks        {_masks(found)}")
    say(f"sizes        {sizes}{more}")
    if "crop" in found.reading:
        say(f"crop         {found.reading['crop']}: the central part of each; sizes are of that")
    if found.fields_um:
        fields = ", ".join(f"{field} µm ({n})" for field, n in list(found.fields_um.items())[:3])
        say(f"fields       {fields}{', ...' if len(found.fields_um) > 3 else ''}")
    by = f" by {', '.join(found.grouped_by)}" if found.grouped_by else ""
    say(f"groups       {found.num_groups}{by}, to split by: {found.num_split_groups}")
    say(f"balance      majority rate {found.majority_rate:.3f}, imbalance {found.imbalance:.1f}")
    _print_classes(found)
    for name, values in found.attributes.items():
        frequent = ", ".join(f"{value} {n}" for value, n in list(values.items())[:4])
        say(f"attribute    {name}: {frequent}{', ...' if len(values) > 4 else ''}")
    _print_findings(found)


def _print_findings(found: "Description") -> None:
    """Print what needs attention: pictures twice, what is not read, what is wrong or thin."""
    say(f"near-duplicates  {len(found.duplicates)} sets")
    for ids in found.duplicates[:10]:
        more = f" = ... ({len(ids)} in all)" if len(ids) > SHOWN_IDS else ""
        say(f"  {' = '.join(ids[:SHOWN_IDS])}{more}")
    if found.conflicts:
        say(f"conflicts    {len(found.conflicts)} of these sets are of several classes")
        for ids in found.conflicts[:10]:
            say(f"  {' = '.join(ids[:SHOWN_IDS])}")
    if found.not_read:
        say(not_read_text(found.not_read))
    _print_lines(f"broken       {len(found.broken)}", found.broken)
    if found.faults:
        _print_lines(f"faults       {len(found.faults)}", found.faults)
    if found.like_masks:
        say(f"warning: {like_masks_text(found.like_masks)}")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _print_lines(head: str, lines: "Sequence[str]") -> None:
    """Print what is wrong, one line each, up to a number that can be read."""
    say(head)
    for line in lines[:SHOWN_FAULTS]:
        say(f"  {line}")
    if len(lines) > SHOWN_FAULTS:
        say(f"  ... and {len(lines) - SHOWN_FAULTS} more (--json gives all)")


def _print_classes(found: "Description") -> None:
    """Print images and share per class, and where a split by default puts them."""
    parts = list(next(iter(found.parts.values()), {}))
    width = max(24, *map(len, found.classes))
    heads = "".join(f" {part:>6}" for part in parts)
    say(f"  {'class':<{width}} {'images':>7} {'share':>7}{heads}")
    for name, count in found.classes.items():
        row = "".join(f" {found.parts[name][part]:>6}" for part in parts)
        say(f"  {name:<{width}} {count:>7}  {count / found.num_images:>6.1%}{row}")


def _masks(found: "Description") -> str:
    """Return 'values 0 (71 %), 255 (29 %)', by which rule, and how many are of several files."""
    from factory.real.mask_values import shares_text

    rule = f", read by the rule {found.reading['masks']}" if "masks" in found.reading else ""
    joined = found.num_joined_masks
    files = f", {joined} joined of several files" if joined else ""
    return f"{shares_text(found.mask_shares)}{rule}{files}"

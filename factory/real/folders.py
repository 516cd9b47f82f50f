"""Folders of images: what lies in them, by class or flat, with masks and metadata beside."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from factory.errors import DataError
from factory.real.columns import (
    Asked,
    Names,
    Roles,
    find_roles,
    ids_as_paths,
    image_of_row,
    only,
    other_case,
    required,
)
from factory.real.dataset import FEW_COLOURS, Found, NotRead, composed
from factory.real.images import SUFFIXES, decode
from factory.real.layout import Layout, layout_of, parts_among
from factory.real.stored import FileBytes, JoinedMasks, Stored
from factory.real.tables import METADATA, Table, read_table

UNLABELLED = "unlabelled"
"""The class of images in a flat folder whose metadata name none."""
LOOKED_AT = 3
"""Pictures of a folder whose colours are counted to tell masks from images."""
SYSTEM = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir",
                    "__pycache__", "$recycle.bin", "system volume information",
                    "lost+found"})  # fmt: skip
"""Names that operating systems and archives leave behind; what begins with a dot is hidden too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The visible files below a folder, sorted, as paths below `root`; what else lies there.

    `not_read` holds hidden files and folders; `faults` links that lead out, and names that are no
    text.
    """

    root: Path
    files: tuple[Path, ...]
    not_read: tuple[NotRead, ...] = ()
    faults: tuple[DataError, ...] = ()

    @property
    def pictures(self) -> list[Path]:
        """The files whose names claim to hold a picture."""
        return [path for path in self.files if path.suffix.lower() in SUFFIXES]


def listing(root: Path, *, follow_links: bool = False) -> Listing:
    """List what lies below `root`, with links followed that stay below it, or all when asked.

    A link that leads nowhere counts as a file, so that reading it names it.

    Raises:
        DataError: a folder that cannot be read.
    """
    found: tuple[list[Path], list[NotRead], list[DataError]] = ([], [], [])
    try:
        _walk(root, root, (), follow_links, found)
    except OSError as error:
        raise DataError(
            f"folder {error.filename} cannot be read ({error.strerror})",
            remedy="Correct its permissions, or take it out",
        ) from error
    files, not_read, faults = found
    return Listing(
        root=root, files=tuple(sorted(files)), not_read=tuple(not_read), faults=tuple(faults)
    )


def _walk(
    folder: Path,
    root: Path,
    above: tuple[Path, ...],
    follow_links: bool,
    found: tuple[list[Path], list[NotRead], list[DataError]],
) -> None:
    files, not_read, faults = found
    here = folder.resolve()
    if here in above:  # a link leads back to a folder that it lies in
        return
    for path in sorted(folder.iterdir()):
        below = path.relative_to(root)
        name = printable(below)
        if path.name.startswith(".") or path.name.casefold() in SYSTEM:
            not_read.append(NotRead(kind="hidden", name=name))
        elif name != str(below) and (path.is_dir() or path.suffix.lower() in SUFFIXES):
            faults.append(unnamed(name))
        elif path.is_symlink() and not follow_links and leads_out(path, root):
            faults.append(
                DataError(
                    f"{path} is a link to {path.resolve()}, out of {root}",
                    remedy="Take it out, or pass --follow-links (follow_links=True)",
                )
            )
        elif path.is_dir():
            _walk(path, root, (*above, here), follow_links, found)
        elif path.is_file() or path.is_symlink():
            files.append(below)


def leads_out(path: Path, root: Path) -> bool:
    """Return whether something is there at `path` which does not lie below `root`."""
    return path.exists() and not path.resolve().is_relative_to(root.resolve())


def printable(path: str | PurePath) -> str:
    """Return a path as text that can be printed; bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unnamed(name: str) -> DataError:
    """Return the error about a file name that is no UTF-8, given as `printable` writes it."""
    return DataError(
        f"the name of {name} is not UTF-8, and could not be an id or a class",
        remedy="Rename it, for example with: convmv -f latin1 -t utf8 -r --notest FOLDER",
    )


def folder_items(found: Listing, asked: Asked) -> Iterator[Found]:
    """Yield the images of a folder, and what is none.

    Layouts: `root/<class>/*.png`, `root/images/<class>/*.png`, or flat `root/images/*.png`. Masks
    are told by their folder or by their name, see `layout_of`. A table of `METADATA` adds groups
    and attributes, masks where it has a column of them (and labels, when `asked` names a column or
    the folder is flat); its image column holds paths relative to `root` or to `root/images`.

    Raises:
        DataError: no images, parts instead of classes, or two kinds of masks. A mask or a row
            without image, and images beside class folders, are yielded as errors.
    """
    root = found.root
    table, roles = _metadata(root, asked)
    masks_of, without = _masks_of_rows(table, roles, found)
    by_table = set(masks_of.values())
    layout = layout_of([path for path in found.pictures if path not in by_table])
    if not layout.images and not found.faults:
        masks = [f", only masks of no image ({path}, ...)" for path in layout.orphans[:1]]
        raise DataError(
            f"{root} holds no images{masks[0] if masks else _kinds(found)}",
            remedy="Give a folder with .png, .jpg, .tif or other picture files"
            + (", their masks beside them" if masks else ""),
        )
    _check_layout(root, layout)
    rows, wrong = _rows_by_image(table, roles, layout, root)
    yield from (*found.not_read, *table.not_read)
    yield from (*found.faults, *table.faults, *wrong, *without, *_faults(root, layout))
    loose = _loose(layout)
    for path, key in layout.images.items():
        if path in loose:
            continue
        row, values = rows.get(path, (f"{root / path}", {}))
        if says := _another_class(key, values, roles, asked):
            yield NotRead(kind=f"column {says} of other classes than the folders", name=row)
        files = [masks_of[row]] if row in masks_of else layout.masks.get(key, ())
        try:
            item: Found = image_of_row(
                values,
                roles,
                row=row,
                default_id=key,
                label=None if asked.label else _class_of(key, values, roles),
                image=FileBytes(path=root / path),
                mask=_mask(root, files),
            )
        except DataError as error:  # no label
            item = error
        yield item
    yield from _unread(found, layout, {*by_table, Path(table.name)})


def _mask(root: Path, paths: Sequence[PurePath]) -> Stored | None:
    files = tuple(FileBytes(path=root / path) for path in sorted(paths))
    if len(files) > 1:
        return JoinedMasks(parts=files)
    return files[0] if files else None


def _check_layout(root: Path, layout: Layout) -> None:
    tops = {key.split("/")[0] for key in layout.images.values() if "/" in key}
    for level, names in enumerate((tops, *_wrapped(layout, tops))):
        parts = parts_among(names)
        rest = sorted(names - set(parts))
        if parts and rest:
            raise DataError(
                f"{root} holds {', '.join(parts)}, called like parts of a set, beside the classes"
                f" {', '.join(rest[:3])}",
                remedy="Take the parts out, or rename a folder that is a class",
            )
        if parts:
            place = _folder_of(layout, parts, level)
            masks = [*layout.orphans, *(path for paths in layout.masks.values() for path in paths)]
            one = (
                f"Give one part ({root / place})"
                if not masks or any(path.is_relative_to(place) for path in masks)
                else "Move the images and masks of one part into a folder of their own"
            )
            raise DataError(
                f"the folders of {root} are parts ({', '.join(parts)}), not classes",
                remedy=f"{one}, or merge them: the factory makes its own split",
            )
    if layout.rivals:
        raise DataError(
            f"{root} holds two masks of the same images, in {layout.rivals[0]} and"
            f" {layout.rivals[1]}",
            remedy="Keep the folder that is meant",
        )


def _wrapped(layout: Layout, tops: set[str]) -> list[set[str]]:
    """Return the folders in the only folder that holds all images."""
    keys = [key.split("/") for key in layout.images.values()]
    return [{key[1] for key in keys}] if len(tops) == 1 and min(map(len, keys)) > 2 else []


def _folder_of(layout: Layout, parts: Sequence[str], level: int) -> PurePath:
    """Return the folder of the images of one part, that of train if there is one."""
    name = next((part for part in parts if "train" in part.casefold()), parts[0])
    path = next(p for p, key in layout.images.items() if key.split("/")[level] == name)
    return PurePath(*path.parts[: path.parts.index(name) + 1])


def _loose(layout: Layout) -> set[PurePath]:
    """Return the images that lie beside class folders."""
    flat = {path for path, key in layout.images.items() if "/" not in key}
    return flat if len(flat) < len(layout.images) else set()


def _faults(root: Path, layout: Layout) -> Iterator[DataError]:
    tops = sorted({key.split("/")[0] for key in layout.images.values() if "/" in key})
    for path in sorted(_loose(layout)):
        yield DataError(
            f"{root / path} lies beside class folders ({', '.join(tops[:3])})",
            remedy="Move it into the folder of its class",
        )
    for path in layout.orphans:
        yield DataError(
            f"{root / path} is the mask of no image",
            remedy="Give mask and image the same name below masks/ and images/, or NAME.png and"
            " NAME_mask.png; rename it if it is an image",
        )
    for path, base in layout.extended.items():
        if colours := _few_colours(root / path):
            yield DataError(
                f"{root / path} is called like {base.name}, and holds {colours} colours as a mask"
                " does",
                remedy=f"Call it {base.stem}_mask{path.suffix}, move it into masks/ as"
                f" {base.stem}{path.suffix}, or take it out",
            )
    if twin := _masks_as_class(root, layout):
        yield DataError(
            f"the pictures of {twin[0]}/ are called like those of {twin[1]}/, and hold as few"
            " colours as masks do",
            remedy="Call the two folders masks and images, or take the first one out",
        )
    for path in layout.seconds:
        yield DataError(
            f"{root / path} is a second mask of its image", remedy="Keep the one that is meant"
        )


def _masks_as_class(root: Path, layout: Layout) -> tuple[str, str] | None:
    """Return a class folder that holds the masks of another one, by names and colours."""
    names: defaultdict[str, dict[str, PurePath]] = defaultdict(dict)
    for path, key in layout.images.items():
        top, _, rest = key.partition("/")
        if rest:
            names[top][rest] = path
    for top, below in names.items():
        for other, theirs in names.items():
            if other != top and below.keys() <= theirs.keys():
                some = list(below)[:LOOKED_AT]
                ours = [_few_colours(root / below[name]) for name in some]
                drawn = all(ours) and sum(colours > 1 for colours in ours) > 1
                if drawn and not _few_colours(root / theirs[some[0]]):
                    return top, other
    return None


def _few_colours(path: Path) -> int:
    """Return how many colours a picture holds, 0 for more than a mask does."""
    try:
        picture = decode(path.read_bytes(), name=str(path))
    except (OSError, DataError):  # named when it is read
        return 0
    return len(picture.getcolors(FEW_COLOURS) or ())


def _unread(found: Listing, layout: Layout, by_table: set[Path]) -> Iterator[NotRead]:
    masks = {path for paths in layout.masks.values() for path in paths}
    used = {*layout.images, *masks, *layout.orphans, *by_table}
    for path in found.files:
        if path not in used:
            reason = layout.passed.get(path)
            suffix = suffix_of(path)
            yield NotRead(kind=f"{suffix} {reason}" if reason else suffix, name=printable(path))


def suffix_of(path: PurePath) -> str:
    """Return what files that are not read are counted by."""
    *_, before, last = "", "", *path.suffixes
    packed = last.lower() in (".gz", ".bz2", ".xz", ".zip") and not before[1:].isdigit()
    return printable((before + last if packed else last).lower()) or "without suffix"


def _kinds(found: Listing) -> str:
    kinds = sorted({path.suffix.lower() or "files without suffix" for path in found.files})
    return f", only {', '.join(kinds[:5])}" if kinds else ""


def _metadata(root: Path, asked: Asked) -> tuple[Table, Roles]:
    """Return the table that lies in the folder, empty without one, and the roles of its columns."""
    path = next((root / name for name in METADATA if (root / name).is_file()), None)
    if path is None:
        empty = Table(name="", columns=(), rows=())
        return empty, find_roles([], asked, table=f"{root} (no {' or '.join(METADATA)})")
    table = read_table(path)
    hints = {"image": other_case(table.columns).get("image", "")}  # classes are folders
    roles = ids_as_paths(find_roles(table.columns, asked, table=str(path), hints=hints))
    required(roles, "image", table.columns, table=str(path))
    return table, roles


def _rows_by_image(
    table: Table, roles: Roles, layout: Layout, root: Path
) -> tuple[dict[PurePath, tuple[str, dict[str, str]]], list[DataError]]:
    """Return the row of each image that has one, and what is wrong with rows."""
    names, keys = Names(layout.images), {key: path for path, key in layout.images.items()}
    found: dict[PurePath, tuple[str, dict[str, str]]] = {}
    faults = []
    for row, values in table.rows:
        cell = values[roles.image or ""]
        called = names.called(cell) or ([keys[cell]] if cell in keys else [])
        try:
            if not called:
                raise DataError(
                    f"{row} names {cell!r}, which is no image below {root}",
                    remedy="Restore the image or drop the row",
                )
            path = only(called, cell=cell, row=row)
            if path in found:
                raise DataError(
                    f"{row} names {cell!r} again, after {found[path][0]}",
                    remedy="Keep one of the rows",
                )
            found[path] = (row, values)
        except DataError as error:
            faults.append(error)
    return found, faults


def _masks_of_rows(
    table: Table, roles: Roles, found: Listing
) -> tuple[dict[str, Path], list[DataError]]:
    """Return the masks that rows name in a column of their own, by row, and those not there."""
    cells = [(row, values.get(roles.mask or "", "").strip()) for row, values in table.rows]
    files = set(found.files)
    named = {row: cell for row, cell in cells if cell}
    there = {
        row: path
        for row, cell in named.items()
        for path in (Path(cell), Path(cell.replace("\\", "/")))
        if path in files
    }
    gone = [
        DataError(
            f"{row} names the mask {cell}, which is no file below {found.root}",
            remedy="Restore the mask, or empty the cell",
        )
        for row, cell in named.items()
        if row not in there
    ]
    return there, gone


def _another_class(key: str, values: Mapping[str, str], roles: Roles, asked: Asked) -> str:
    """Return the column of classes that is passed over for the folder's name, or ''."""
    told = composed(values.get(roles.label or "", "").strip())
    folder, below, _ = key.partition("/")
    passed_over = below and not asked.label and told and told != composed(folder)
    return roles.label or "" if passed_over else ""


def _class_of(key: str, values: Mapping[str, str], roles: Roles) -> str:
    """Return the class by folder; in a flat folder by the metadata's label column."""
    if "/" in key:
        return key.split("/")[0]
    return (values.get(roles.label) if roles.label else None) or UNLABELLED

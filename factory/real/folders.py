"""Folders of images: what lies in them, by class or flat, with masks and metadata beside."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from factory.errors import DataError
from factory.real.columns import (
    Asked,
    Names,
    Roles,
    find_roles,
    image_of_row,
    only,
    other_case,
    required,
)
from factory.real.dataset import Found, NotRead
from factory.real.images import SUFFIXES
from factory.real.layout import Layout, layout_of, parts_among
from factory.real.stored import FileBytes, JoinedMasks, Stored
from factory.real.tables import METADATA, Table, read_table

UNLABELLED = "unlabelled"
"""The class of images in a flat folder whose metadata name none."""
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
    layout = layout_of([path for path in found.pictures if path not in masks_of.values()])
    if not layout.images and not found.faults:
        raise DataError(
            f"{root} holds no images{_kinds(found)}",
            remedy="Give a folder with .png, .jpg, .tif or other picture files",
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
        masks = [masks_of[row]] if row in masks_of else layout.masks.get(key, ())
        try:
            item: Found = image_of_row(
                values,
                roles,
                row=row,
                default_id=key,
                label=None if asked.label else _class_of(key, values, roles),
                image=FileBytes(path=root / path),
                mask=_mask(root, masks),
            )
        except DataError as error:  # no label
            item = error
        yield item
    yield from _unread(found, layout, {*masks_of.values(), Path(table.name)})


def _mask(root: Path, paths: Sequence[PurePath]) -> Stored | None:
    files = tuple(FileBytes(path=root / path) for path in sorted(paths))
    if len(files) > 1:
        return JoinedMasks(parts=files)
    return files[0] if files else None


def _check_layout(root: Path, layout: Layout) -> None:
    tops = {key.split("/")[0] for key in layout.images.values() if "/" in key}
    for place, names in ((root, tops), *_wrapped(root, layout, tops)):
        parts = parts_among(names)
        rest = sorted(names - set(parts))
        if parts and rest:
            raise DataError(
                f"{place} holds {', '.join(parts)}, called like parts of a set, beside the classes"
                f" {', '.join(rest[:3])}",
                remedy="Take the parts out, or rename a folder that is a class",
            )
        if parts:
            train = next((name for name in parts if "train" in name.casefold()), parts[0])
            raise DataError(
                f"the folders of {place} are parts ({', '.join(parts)}), not classes",
                remedy=f"Give one part ({place / train}), or merge them: the factory makes its"
                " own split",
            )
    if layout.rivals:
        raise DataError(
            f"{root} holds two masks of the same images, in {layout.rivals[0]} and"
            f" {layout.rivals[1]}",
            remedy="Keep the folder that is meant",
        )


def _wrapped(root: Path, layout: Layout, tops: set[str]) -> list[tuple[Path, set[str]]]:
    """Return the folders in the only folder that holds all images."""
    keys = [key.split("/") for key in layout.images.values()]
    if len(tops) != 1 or any(len(key) < 3 for key in keys):
        return []
    return [(root / next(iter(tops)), {key[1] for key in keys})]


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
    for path in layout.seconds:
        yield DataError(
            f"{root / path} is a second mask of its image", remedy="Keep the one that is meant"
        )


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
    return printable(path.suffix.lower()) or "without suffix"


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
    roles = find_roles(table.columns, asked, table=str(path), hints=hints)
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


def _class_of(key: str, values: Mapping[str, str], roles: Roles) -> str:
    """Return the class by folder; in a flat folder by the metadata's label column."""
    if "/" in key:
        return key.split("/")[0]
    return (values.get(roles.label) if roles.label else None) or UNLABELLED

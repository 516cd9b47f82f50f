"""Folders of images: one folder per class, or one flat folder, with masks and metadata beside."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from factory.errors import DataError
from factory.real.columns import Asked, Roles, find_roles, id_of_path, image_of_row, required
from factory.real.dataset import RealImage
from factory.real.images import SUFFIXES
from factory.real.stored import FileBytes
from factory.real.tables import read_csv
from factory.tree import files_below

UNLABELLED = "unlabelled"
"""The class of images in a flat folder whose metadata name none."""
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def folder_items(root: Path, asked: Asked) -> Iterator[RealImage]:
    """Yield the images below `root`.

    Layouts: `root/<class>/*.png`, `root/images/<class>/*.png`, or flat `root/images/*.png`. Masks
    lie in `root/masks` under the same relative name with any image suffix. A `root/metadata.csv`
    adds groups and attributes (and labels, when `asked` names a column or the folder is flat); its
    image column holds paths relative to `root` or to `root/images`. Links are followed; hidden
    files and files that no picture suffix claims are ignored.

    Raises:
        DataError: no images, images beside class folders, parts instead of classes, a mask or a
            metadata row without image.
    """
    images = _listed(root / "images" if (root / "images").is_dir() else root, root)
    if not images:
        raise DataError(
            f"{root} holds no images",
            remedy="Give a folder with .png, .jpg, .tif or other picture files",
        )
    _check_layout(root, images)
    masks = _masks(root, images)
    roles, rows = _metadata(root, asked)
    orphans = sorted(set(rows) - {id_of_path(path) for path in images})
    if orphans:
        raise DataError(
            f"{rows[orphans[0]][0]} names {orphans[0]!r}, which is no image below {root}",
            remedy="Restore the image or drop the row",
        )
    for path in images:
        key = id_of_path(path)
        row, values = rows.get(key, (f"{root / path}", {}))
        yield image_of_row(
            values,
            roles,
            row=row,
            default_id=key,
            label=None if asked.label else _class_of(key, values, roles),
            image=FileBytes(path=root / path),
            mask=FileBytes(path=root / masks[key]) if key in masks else None,
        )


def _listed(folder: Path, root: Path) -> list[Path]:
    """Return image files below `folder`, sorted, relative to `root`; masks are no images.

    A link that leads nowhere counts, so that reading it names it.
    """
    try:
        found = [path.relative_to(root) for path in files_below(folder)]
    except OSError as error:
        raise DataError(
            f"folder {error.filename} cannot be read ({error.strerror})",
            remedy="Correct its permissions, or take it out",
        ) from error
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.parts)
        and (folder != root or path.parts[0] != "masks")
    )


def _check_layout(root: Path, images: list[Path]) -> None:
    keys = [id_of_path(path) for path in images]
    tops = {key.split("/")[0] for key in keys if "/" in key}
    flat = [path for path, key in zip(images, keys, strict=True) if "/" not in key]
    if tops and flat:
        raise DataError(
            f"{root / flat[0]} lies beside class folders ({', '.join(sorted(tops)[:3])})",
            remedy="Move it into the folder of its class",
        )
    if tops and {top.lower() for top in tops} <= PARTS:
        raise DataError(
            f"the folders of {root} are parts ({', '.join(sorted(tops))}), not classes",
            remedy="Give one part (root/train), or merge them: the factory makes its own split",
        )


def _masks(root: Path, images: list[Path]) -> dict[str, Path]:
    """Return mask paths relative to `root` by image key; every mask must belong to an image."""
    folder = root / "masks"
    if not folder.is_dir():
        return {}
    keys = {id_of_path(path) for path in images}
    masks: dict[str, Path] = {}
    for path in _listed(folder, folder):
        key = path.with_suffix("").as_posix()
        if key not in keys or key in masks:
            what = "a second mask of its image" if key in masks else "the mask of no image"
            raise DataError(
                f"{folder / path} is {what}",
                remedy="Give mask and image the same name below masks/ and images/",
            )
        masks[key] = Path("masks") / path
    return masks


def _metadata(root: Path, asked: Asked) -> tuple[Roles, Mapping[str, tuple[str, dict[str, str]]]]:
    """Return the roles and rows of `root/metadata.csv` by image key, empty without such a file."""
    path = root / "metadata.csv"
    if not path.is_file():
        return find_roles([], asked, table=f"{root} (no metadata.csv)"), {}
    columns, rows = read_csv(path)
    roles = find_roles(columns, asked, table=str(path))
    image = required(roles, "image", columns, table=str(path))
    keyed: dict[str, tuple[str, dict[str, str]]] = {}
    for name, values in rows:
        key = id_of_path(Path(values[image]))
        if key in keyed:
            raise DataError(
                f"{name} names {key!r} again, after {keyed[key][0]}", remedy="Keep one of the rows"
            )
        keyed[key] = (name, values)
    return roles, keyed


def _class_of(key: str, values: Mapping[str, str], roles: Roles) -> str:
    """Return the class by folder; in a flat folder by the metadata's label column."""
    if "/" in key:
        return key.split("/")[0]
    return (values.get(roles.label) if roles.label else None) or UNLABELLED

"""Who is who among the pictures of a folder: images, masks, parts and classes, by their names."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words for the parts of a set, by part."""
FILLERS = frozenset({"set", "sets", "data", "dataset", "split", "part", "fold"})
"""Words that add nothing to one for a part: Training_set, test-data."""
SHORT_PARTS = {"tr": "train", "ts": "test"}
"""Words for parts beside one for images or masks only: imagesTr."""
IMAGES = frozenset({
    "image", "images", "img", "imgs", "original", "originals", "orig", "jpegimages", "input",
    "inputs", "picture", "pictures", "photo", "photos", "raw",
})  # fmt: skip
"""Words for a folder of images."""
SURE_MASKS = frozenset({
    "mask", "masks", "groundtruth", "groundtruths", "annotation", "annotations", "anno", "annos",
    "annot", "annots", "segmentation", "segmentations", "segmentationclass", "segmentationobject",
})  # fmt: skip
"""Words for masks by which nobody calls a class ..."""
MASKS = SURE_MASKS | {"gt", "seg", "segs", "label", "labels", "manual", "contour", "contours"}
"""... and all words for masks: the others need an image of the same name to count ..."""
OF_CLASSES = frozenset({"seg", "segs", "manual", "contour", "contours"})
"""... and these, which speak of neutrophils too, are the whole name, or that of an image's twin."""
COMPANIONS = ("superpixels?", "overlays?", "heatmaps?", "annotated", "thumbs?", "thumbnails?")
"""Words for pictures that explain another one."""

_WORD = (
    "masks?|ground[ _-]?truths?|annotations?|annos?|annots?|segmentations?|segs?|gt|labels?"
    "|labell?ed|manual|contours?"
)
_BEHIND = re.compile(rf"(.+?)[ _.-]+({_WORD})([ _.-]*\(?\d*\)?)", re.IGNORECASE)
_BEFORE = re.compile(rf"({_WORD})[ _.-]+(?:of )?(.+)", re.IGNORECASE)
_CAMEL = re.compile(r"(.+[a-z0-9)])(Mask|Segmentation|Seg|GT)(\d*)")
_OF_IMAGE = re.compile(
    r"^(img|image)s?[ _.-]+|[ _.-]+(img|image|orig|original|raw|0000)$", re.IGNORECASE
)
_COMPANION = re.compile(rf"(.+?)[ _.-]+({'|'.join(COMPANIONS)})", re.IGNORECASE)
_A_WORD_MORE = re.compile(r"[ _.-]+[^\W\d_]+$")
_LONGER = re.compile(r"(.+)[ _.-]+[^\W\d_]*\d?[^\W\d_]+\d*")
_BORDER = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")

Folder = tuple[str, ...]
"""A folder as the names that lead to it from the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Pictures by role; a key is what an image is called: its path without suffix and `images/`.

    Attributes:
        images: key of each image.
        masks: mask files by key; several where an image has its objects in files of their own.
        orphans: what looks like a mask, but of no image.
        seconds: masks beside one of the very same name in another format.
        rivals: two folders of masks for the same images.
        passed: pictures that are none of the set, with the reason.
        extended: images called like another one of their folder and more: "x_1stHO" of "x".
    """

    images: Mapping[PurePath, str]
    masks: Mapping[str, Sequence[PurePath]]
    orphans: Sequence[PurePath]
    seconds: Sequence[PurePath]
    rivals: tuple[str, str] | None
    passed: Mapping[PurePath, str]
    extended: Mapping[PurePath, PurePath]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roles:
    """What folders hold: `masks` of which folder's images, and which are left out of keys."""

    masks: Mapping[Folder, Folder]
    left_out: frozenset[Folder]

    def of_masks(self, path: PurePath) -> Folder | None:
        """Return the folder of masks that a picture lies in."""
        return next((folder for folder in _folders_of(path) if folder in self.masks), None)

    def home(self, path: PurePath) -> Folder:
        """Return the folder part of a picture's key: for a mask that of its image."""
        home: Folder = ()
        for folder in _folders_of(path):
            if folder in self.masks:
                home += self.masks[folder]
            elif folder not in self.left_out:
                home += folder[-1:]
        return home


def layout_of(pictures: Sequence[PurePath], *, classes: frozenset[Folder] = frozenset()) -> Layout:
    """Return the roles of pictures, given by their paths below a root.

    A folder holds masks when its name says so and a folder beside or above it holds images of the
    same names: images/ and masks/, "Original" and "Ground Truth", x and x_masks, at the root or in
    each class. Elsewhere a picture is a mask when it is called like another one of its folder with
    a word for masks: "x_mask", "x_mask_2", "x_anno", "gt_x" of "x" or "x_image".

    Args:
        classes: folders that hold images whatever their names say.
    """
    roles = _roles(pictures, classes)
    in_folders = [path for path in pictures if roles.of_masks(path)]
    others = [path for path in pictures if not roles.of_masks(path)]
    within = {path for path in others if _folders_of(path)[:1] == [("images",)]}
    passed = {path: "beside images/" for path in others if within and path not in within}
    others = [path for path in others if path not in passed]
    named, orphans = _named_masks(_Index(others, roles))
    passed |= dict.fromkeys(_companions(_Index(others, roles)), "explains an image")
    no_images = {*named, *passed, *orphans}
    images = [path for path in others if path not in no_images]
    index = _Index(images, roles)
    owners = {path: index.owner(path) for path in in_folders}
    if unsure := _without_images(owners, roles):
        return layout_of(pictures, classes=classes | unsure)
    masks: defaultdict[str, list[PurePath]] = defaultdict(list)
    for path, owner in {**owners, **named}.items():
        if owner is not None:
            masks[_key(owner, roles)].append(path)
    return Layout(
        images={path: _key(path, roles) for path in images},
        masks=masks,
        orphans=sorted([*orphans, *(path for path, owner in owners.items() if owner is None)]),
        seconds=[path for paths in masks.values() for path in _same_name(paths)],
        rivals=_rivals(masks.values(), roles),
        passed=passed,
        extended={path: base for path in images if (base := index.extended(path))},
    )


def part_and_rest(name: str) -> tuple[str, Folder]:
    """Return the part that a folder's name speaks of ("train", "val", "test" or "") and the rest.

    'Training_set' and 'train2017' are ("train", ()), 'Test_positive' is ("test", ("positive",)).
    """
    spoken = _words(name)
    known = PARTS | (SHORT_PARTS if set(spoken) & (IMAGES | MASKS) else {})
    words = [word for word in spoken if word not in FILLERS | IMAGES | MASKS]
    parts = {known[word] for word in words if word in known}
    rest = tuple(word for word in words if word not in known)
    if len(parts) != 1:
        return "", tuple(words)
    # a number or a single letter beside the word counts parts: testA, val2017
    return parts.pop(), tuple(word for word in rest if not (word.isdigit() or len(word) == 1))


def parts_among(names: Iterable[str]) -> list[str]:
    """Return those of the folder names that speak of parts of a set, not of classes.

    Either a name says nothing else, or two names differ in nothing but their part. "valid" alone
    may be a class, beside "invalid".
    """
    spoken = {name: part_and_rest(name) for name in sorted(names)}
    if len({part for part, _ in spoken.values() if part}) == 1:
        spoken = {name: said for name, said in spoken.items() if name.casefold() != "valid"}
    parts_of: defaultdict[Folder, set[str]] = defaultdict(set)
    for part, rest in spoken.values():
        if part:
            parts_of[rest].add(part)
    return [
        name
        for name, (part, rest) in spoken.items()
        if part and (not rest or len(parts_of[rest]) > 1)
    ]


def _roles(pictures: Sequence[PurePath], classes: frozenset[Folder]) -> _Roles:
    beneath: defaultdict[Folder, set[str]] = defaultdict(set)
    for path in pictures:
        for folder in _folders_of(path):
            beneath[folder[:-1]].add(folder[-1])
    masks: dict[Folder, Folder] = {}
    left_out: set[Folder] = {("images",)}
    for parent, names in sorted(beneath.items()):
        twins = _twins({name for name in names if (*parent, name) not in classes})
        for name, of in twins.items():
            plain = {(*parent, other) for other in of if not set(_words(other)) - IMAGES}
            left_out |= plain
            masks[*parent, name] = () if plain or not of else of[:1]
    roles = _Roles(masks=masks, left_out=frozenset(left_out))
    tops = {path.parts[:-1][:1] for path in pictures if not roles.of_masks(path)}
    if len(tops) == 1 and (top := tops.pop()) and _is_wrapper(top, masks):
        masks = {folder: of if of != top else () for folder, of in masks.items()}
        return _Roles(masks=masks, left_out=roles.left_out | {top})
    return roles


def _twins(names: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the folders of masks among sibling folders, each with those that hold its images.

    A name that says masks and nothing else needs no sibling: its images lie above it. One that
    says more needs a sibling that says the rest, or is one of two.
    """
    words = {name: set(_words(name)) for name in sorted(names)}
    plain = {name: said - IMAGES for name, said in words.items() if not said & MASKS}
    found: dict[str, tuple[str, ...]] = {}
    for name, said in words.items():
        rest = said - MASKS
        like = tuple(other for other, left in plain.items() if left == rest)
        of_images = tuple(other for other in like if words[other] & IMAGES)
        if said & MASKS and not rest:
            found[name] = like
        elif said & MASKS and of_images:
            found[name] = of_images
        elif said & (MASKS - OF_CLASSES) and like:
            found[name] = like
        elif said & SURE_MASKS and (of_any := _images_beside(words, plain)):
            found[name] = of_any
    return found


def _images_beside(words: Mapping[str, set[str]], plain: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return what folders of masks belong to that say more: images/, or the only other folder."""
    of_images = tuple(name for name, left in plain.items() if not left)
    return of_images or (tuple(plain) if len(words) == 2 else ())


def _is_wrapper(top: Folder, masks: Mapping[Folder, Folder]) -> bool:
    """Return whether the only folder of images is no class: images/, or Training_Input."""
    words = set(_words(top[0]))
    of_part = bool(words & (IMAGES | PARTS.keys()))
    return words <= IMAGES or (top in masks.values() and of_part)


class _Index:
    """Images by folder and name: finds the image that a mask belongs to."""

    def __init__(self, images: Sequence[PurePath], roles: _Roles) -> None:
        self.images = images
        self.roles = roles
        self._by_name: dict[tuple[Folder, str], PurePath] = {}
        self._by_stem: dict[tuple[Folder, str], PurePath] = {}
        self._in_home: defaultdict[Folder, list[PurePath]] = defaultdict(list)
        for path in images:
            home = roles.home(path)
            self._in_home[home].append(path)
            self._by_name.setdefault((home, path.stem), path)
            self._by_stem.setdefault((home, _OF_IMAGE.sub("", path.stem)), path)

    def owner(self, mask: PurePath) -> PurePath | None:
        """Return the image of a mask that lies in a folder of masks."""
        home = self.roles.home(mask)
        stems = [mask.stem, *_bases(mask.stem)]
        found = next((found for stem in stems if (found := self._at(home, stem))), None)
        alone = self._in_home.get(home, []) if home else []  # a folder per image, its objects in it
        return found or (alone[0] if len(alone) == 1 else None)

    def partner(self, path: PurePath) -> PurePath | None:
        """Return the image of whose name `path`'s is an extension by a word for masks."""
        home = self.roles.home(path)
        found = (self._at(home, base) for base in _bases(path.stem))
        return next((image for image in found if image not in (None, path)), None)

    def extended(self, path: PurePath) -> PurePath | None:
        """Return the image whose name begins `path`'s, which goes on with a word."""
        match = _LONGER.fullmatch(path.stem)
        found = self._by_name.get((self.roles.home(path), match[1])) if match else None
        return found if found != path else None

    def explained(self, path: PurePath) -> PurePath | None:
        """Return the image that `path` explains, by its name."""
        match = _COMPANION.fullmatch(path.stem)
        return self._at(self.roles.home(path), match[1]) if match else None

    def _at(self, home: Folder, stem: str) -> PurePath | None:
        return self._by_name.get((home, stem)) or self._by_stem.get((home, stem))


def _named_masks(index: _Index) -> tuple[dict[PurePath, PurePath], set[PurePath]]:
    """Return image by mask for masks among images, and what is called a mask of no image."""
    partners = {path: image for path in index.images if (image := index.partner(path))}
    named = {}
    for path, image in partners.items():
        while image in partners and image != path:  # x_seg_mask of x_seg of x
            image = partners[image]
        named[path] = image
    sure = {path for path in index.images if path not in named and _surely_mask(path.stem)}
    return named, sure


def _companions(index: _Index) -> list[PurePath]:
    return [path for path in index.images if index.explained(path)]


def _bases(stem: str) -> list[str]:
    """Return what the image may be called whose mask is called `stem`, likeliest first."""
    if match := _BEHIND.fullmatch(stem) or _CAMEL.fullmatch(stem):
        base = match[1]
        shorter = _A_WORD_MORE.sub("", base)  # of a tool or a kind: x_cp_masks, x_lesion_mask
        return [*([base + match[3]] if match[3] else []), base, *([shorter] if shorter else [])]
    match = _BEFORE.fullmatch(stem)
    return [match[2]] if match else []


def _surely_mask(stem: str) -> bool:
    match = _BEHIND.fullmatch(stem)
    word = match[2] if match else (m[1] if (m := _BEFORE.fullmatch(stem)) else "")
    return "".join(_words(word)) in SURE_MASKS


def _without_images(owners: Mapping[PurePath, PurePath | None], roles: _Roles) -> frozenset[Folder]:
    """Return folders that are called like masks by a word that may mean a class, of no image."""
    found: defaultdict[Folder, bool] = defaultdict(bool)
    for path, owner in owners.items():
        found[roles.of_masks(path) or ()] |= owner is not None
    return frozenset(
        folder
        for folder, paired in found.items()
        if not paired and not (set(_words(folder[-1])) <= SURE_MASKS or _of_images(folder, roles))
    )


def _of_images(folder: Folder, roles: _Roles) -> bool:
    """Return whether a folder of masks stands beside one whose name says images."""
    return any(set(_words(name)) & IMAGES for name in roles.masks[folder]) or any(
        other[:-1] == folder[:-1] and other != ("images",) for other in roles.left_out
    )


def _same_name(paths: Sequence[PurePath]) -> list[PurePath]:
    seen: set[PurePath] = set()
    again = []
    for path in paths:
        bare = path.with_suffix("")
        again += [path] if bare in seen else []
        seen.add(bare)
    return again


def _rivals(masks: Iterable[Sequence[PurePath]], roles: _Roles) -> tuple[str, str] | None:
    for paths in masks:
        folders = sorted({"/".join(roles.of_masks(path) or path.parts[:-1]) for path in paths})
        if len(folders) > 1:
            return folders[0], folders[1]
    return None


def _key(path: PurePath, roles: _Roles) -> str:
    return "/".join((*roles.home(path), path.stem))


def _folders_of(path: PurePath) -> list[Folder]:
    parts = path.parts[:-1]
    return [parts[: n + 1] for n in range(len(parts))]


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: 'GroundTruth_2' gives groundtruth, 2."""
    whole = re.sub(r"[\W_]+", "", name).casefold()
    if whole in MASKS | IMAGES:
        return [whole]
    words = [word.casefold() for word in _BORDER.split(name) if word]
    text = " ".join(words).replace("ground truth", "groundtruth")
    return text.split()

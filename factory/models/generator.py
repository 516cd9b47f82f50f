"""A generator on disk: a diffusers folder with a `factory.json`, found, checked and named."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.digest import digest, digest_files
from factory.errors import ConfigError, ModelError
from factory.models.families import STABLE_DIFFUSION, Family, family_of, side_px
from factory.models.folder import (
    INDEX,
    check_folder,
    deciding_files,
    read_manifest,
)
from factory.real.field import Look, Shown
from factory.real.scale import views

if TYPE_CHECKING:  # numpy and Arrow wait until images are compared
    import numpy as np
    from numpy.typing import NDArray

    from factory.real.duplicates import Digests

EMBEDDED = {
    "wbc-base": Path(__file__).parent / "wbc_base",
    "wbc-base-fast": Path(__file__).parent / "wbc_base_fast",
}
"""Generators that ship inside the package, by name."""

LORA_FOLDER, LORA_FILE = "lora", "pytorch_lora_weights.safetensors"
"""Where the LoRAs of a generator lie: <folder>/lora/<class>/<the file that diffusers looks for>."""
BASE_FOLDER = "base"
"""Where a base that was made for its LoRAs alone lies: it goes wherever they go."""
BASE_LORA = "base_lora.safetensors"
"""File of the LoRA of somebody else that lay under the base when its LoRAs were trained."""
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")
EVERY_CLASS = "all"
"""Name of the one LoRA that serves every class."""
CLUSTERS = "clusters.safetensors"
"""File of the clusters that a generator of pairs was trained by, see `factory.real.clusters`."""
SEEN = "seen.parquet"
"""File of digests of a generator's training images, for whoever has images like them."""
RINGS_FILE = "copies.parquet"
"""File of ring spectra of the images that a generator learnt from, which give none away: its gate
for copies opens it."""
DISTILLED, TEACHER = "distilled", "teacher"
"""Key of the manifest of a student, and within it the id of its teacher, see `factory.distill`."""
DOMAINS = "domains"
"""Key of the manifest under which a generator binds others, see `factory.models.domains`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A LoRA file of any trainer, see `factory.models.foreign`."""

    path: Path
    digest: str
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A checked generator folder. `model_id` is a digest of every file that decides pixels."""

    name: str
    folder: Path
    model_id: str
    manifest: Mapping[str, Any]
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Class (or 'all') -> digest of its LoRA, where this is a base with LoRAs."""
    lora: LoraFile | None = None
    """A file that is folded into the weights when they are loaded."""

    @property
    def size_px(self) -> int:
        """Side length of the images it was trained on.

        Raises:
            ModelError: neither factory.json nor the denoiser's configuration says.
        """
        if size_px := self.manifest.get("size_px"):
            return int(size_px)
        return side_px(self.folder)

    @property
    def weights(self) -> Path:
        """The folder of its pipeline: its own, or that of the base that its LoRAs change.

        Raises:
            ModelError: the base is missing, see `base`.
        """
        return self.base().folder if self.adapters else self.folder

    @property
    def family(self) -> Family:
        """What its pipeline needs to be drawn with and trained; our methods' are drawn by parts.

        Raises:
            ModelError: it draws no images from text alone, or its base is missing.
        """
        return family_of(self.weights) if self.method == "text" else STABLE_DIFFUSION

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names it knows, in the order of `class_id`; empty for a general base."""
        return tuple(self.manifest.get("class_names", ()))

    @property
    def prompts(self) -> Mapping[str, str]:
        """Class -> the prompt it is drawn with when a job names none."""
        return self.manifest.get("prompts") or {
            name: f"a {name.replace('_', ' ')}" for name in self.class_names
        }

    @property
    def conditional(self) -> bool:
        """Whether it was told what it draws: a network of one class and its masks needs not be."""
        return self.manifest.get("condition") != "none"

    @property
    def settled(self) -> Mapping[str, str | int | float]:
        """Keys of a generation run that mean something at one value alone, and that value.

        Guidance 1 without a condition to follow; those of its training for a distilled generator.
        """
        if told := self.manifest.get(DISTILLED):
            return {key: value for key, value in told.items() if key != TEACHER}
        return {} if self.conditional else {"guidance_scale": 1.0}

    @property
    def seen(self) -> "Digests | None":
        """Digests of its training images, if its folder has some.

        Raises:
            ModelError: the file is damaged.
        """
        from factory.real.duplicates import Digests

        path = self.folder / SEEN
        return Digests.load(path) if path.is_file() else None

    @property
    def method(self) -> str:
        """How it is sampled; folders without a manifest are Stable Diffusion pipelines."""
        return str(self.manifest.get("method", "text"))

    @property
    def field(self) -> Shown:
        """What the images show that it learnt: pixel size, part of the frame, scale of objects."""
        return Shown.model_validate(self.manifest.get("field") or {})

    def learnt(self) -> Look:
        """Return what it learnt as a side of a comparison of scales."""
        name = self.manifest.get("name") or self.name
        return self.field.look(f"what {name} learnt", self.size_px)

    def drawn(self, images: "NDArray[np.uint8]", labels: Sequence[str]) -> Look:
        """Return images (N, S, S, 3) that it drew of these classes as a side of a comparison."""
        return self.field.look("drawn images", images.shape[1], views(images, labels))

    def adapter_of(self, class_name: str) -> str | None:
        """Return the digest of the LoRA that draws a class; None: no LoRA does.

        Raises:
            ModelError: there are LoRAs, and none for this class.
        """
        found = self.adapters.get(class_name, self.adapters.get(EVERY_CLASS))
        if self.adapters and found is None:
            raise ModelError(
                f"generator {self.name!r} has no LoRA for class {class_name!r}",
                remedy=f"Draw one of {', '.join(sorted(self.adapters))}, or train it",
            )
        return found

    def base(self) -> "Generator":
        """Return the generator whose weights the LoRAs change.

        Raises:
            ModelError: it is missing, or not the one they were trained on.
        """
        wanted, told = self.manifest.get("base_model_id"), ""
        name, revision = str(self.manifest.get("base")), self.manifest.get("base_revision")
        for place in self._places_of_base(name):
            try:
                base = find_generator(place, revision=revision if place == name else None)
            except ModelError as error:
                told = error.what if place == name else told
                continue
            if (under := self.folder / BASE_LORA).is_file():
                from factory.models.foreign import with_lora

                base = with_lora(base, under, float(self.manifest.get("base_lora_scale", 1.0)))
            if base.model_id == wanted:
                return base
            told = f"{name!r} is {base.model_id}" if place == name else told
        raise ModelError(
            f"{self.folder} was trained on base {wanted}, and it is not there ({told})",
            remedy=f"Put that base into {self.folder / BASE_FOLDER} or beside {self.folder.name},"
            " or train again",
        )

    def _places_of_base(self, name: str) -> Iterator[str]:
        """Yield where the base may lie: with the LoRAs, where it was, or beside; its id decides.

        A folder can so be moved: the path in its manifest is a hint, not more.
        """
        within, here = self.folder / BASE_FOLDER, self.folder.resolve()
        if within.is_dir():
            yield str(within)
        yield name
        beside = [here.parent / Path(name).name, *sorted(here.parent.iterdir())]
        for folder in dict.fromkeys(beside):
            if folder not in (here, Path(name)) and (folder / INDEX).is_file():
                yield str(folder)
        yield from (embedded for embedded in EMBEDDED if embedded != name)


def check_revision(name: str, revision: str | None) -> None:
    """Refuse a revision of what has none: it would be ignored, and the user thinks it counts.

    Raises:
        ConfigError: `name` is embedded, or a folder here.
    """
    if revision is None or (name not in EMBEDDED and not Path(os.path.expanduser(name)).is_dir()):
        return
    what = "ships with the factory" if name in EMBEDDED else "is a folder here"
    raise ConfigError(
        f"revision {revision!r} is asked for, and {name!r} {what}: it has no revisions",
        remedy="Leave revision out; it is the commit of a hub model ('owner/name')",
    )


def find_generator(name: str, *, revision: str | None = None) -> Generator:
    """Return the generator called `name`: an embedded one, a local folder, or a hub id.

    A hub id ('owner/name') needs `revision`, a full commit hash, so that a recipe means the same
    weights tomorrow; only safetensors and configuration files are downloaded.

    Raises:
        ModelError: not found, no diffusers folder, see `check_folder` and `read_manifest`.
    """
    folder = EMBEDDED.get(name, Path(os.path.expanduser(name)))
    if not folder.is_dir() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        folder = _download(name, revision)
    if folder.is_file():
        raise ModelError(
            f"{name!r} is a file, and a generator is a folder",
            remedy="Of a checkpoint in a single file make one with diffusers' from_single_file and"
            " save_pretrained, as docs/families.md shows",
        )
    if not folder.is_dir():
        raise ModelError(
            f"no generator at {name!r}",
            remedy=f"Give a diffusers folder, 'owner/name' with a revision, or one of "
            f"{sorted(EMBEDDED)}",
        )
    return open_generator(folder, name=name)


def open_generator(folder: Path, *, name: str | None = None) -> Generator:
    """Check the folder and return its generator.

    Raises:
        ModelError: see `find_generator`.
    """
    adapters = _adapters(folder)
    index = folder / INDEX
    manifest = read_manifest(folder)
    domains = manifest.get(DOMAINS)
    if not index.is_file() and not adapters and not domains:
        raise ModelError(
            f"{folder} is not a generator: model_index.json is missing",
            remedy="Point to the folder that `save_pretrained` of a diffusers pipeline wrote",
        )
    check_folder(folder)
    names = deciding_files(folder)
    if adapters:  # its base is named by an id of its own
        names = [name for name in names if not name.startswith(f"{BASE_FOLDER}/")]
    model_id = digest_files(folder, names)
    if adapters:
        model_id = digest([model_id, manifest.get("base_model_id"), manifest.get("lora_scale")])
    if domains:
        bound = {name: [told["model_id"], told["class_name"]] for name, told in domains.items()}
        model_id = digest([model_id, bound])
    return Generator(
        name=name or manifest.get("name", folder.name),
        folder=folder,
        model_id=model_id,
        manifest=manifest,
        adapters=adapters,
    )


def _adapters(folder: Path) -> dict[str, str]:
    """Return name -> digest of the LoRAs of a folder without a pipeline of its own."""
    found = sorted(folder.glob(f"{LORA_FOLDER}/*/{LORA_FILE}"))
    return {path.parent.name: digest_files(path.parent, [LORA_FILE]) for path in found}


def _download(name: str, revision: str | None) -> Path:
    """Fetch a pinned hub revision into the local cache; the only place that uses a network.

    Of families beside the first each part once: no second precision where there is a first, and no
    whole model in one file beside them.
    """
    from huggingface_hub import snapshot_download

    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        raise ModelError(
            f"hub model {name!r} has no pinned revision ({revision!r})",
            remedy="Add `revision:` with the full 40-character commit hash",
        )
    fetch = partial(snapshot_download, name, revision=revision)
    try:
        folder = Path(fetch(allow_patterns=[*_BESIDE_WEIGHTS, SEEN, RINGS_FILE]))
        if not any((folder / part).is_dir() for part in ("transformer", "text_encoder_2")):
            return Path(fetch(allow_patterns=["*.safetensors"]))  # all: they name older generators
        fetch(allow_patterns=["*/*.safetensors"], ignore_patterns=["*.fp16*", "*.bf16*"])
        parts = [path.parent for path in folder.glob("*/config.json")]
        if lacking := [p.name for p in parts if not any(p.glob("*.safetensors"))]:
            fetch(allow_patterns=[f"{name}/*.safetensors" for name in lacking])
        return folder
    except (OSError, ValueError) as error:
        raise ModelError(
            f"hub model {name!r} could not be fetched ({error})",
            remedy="Check the name and the connection, or download it once and give the folder",
        ) from error

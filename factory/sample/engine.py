"""The engine: a generator in memory that draws batches, the same bits for the same request."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from factory.device import own_device
from factory.errors import ClusterError, ConfigError, DataError, ModelError
from factory.method import METHODS, invertible_methods
from factory.models.adapters import Adapted
from factory.models.domains import Domain, domains_of, members_of
from factory.models.foreign import fold_in
from factory.models.generator import Generator
from factory.models.pipeline import DTYPES, load_pipeline
from factory.sample.drawn import Drawn
from factory.sample.fingerprint import engine_fingerprint, threads_of
from factory.sample.guidance import GuidedMethod
from factory.sample.method import Drawer, Loaded, Side, check_method, method_of, options_from
from factory.sample.plan import Batch
from factory.sample.recipe import Request
from factory.sample.references import Reference, References


class Engine:
    """Loads a generator once and draws many batches."""

    def __init__(
        self,
        generator: Generator,
        *,
        dtype: str = "float32",
        device: str | None = None,
        references: References | None = None,
        offload: bool = False,
    ) -> None:
        """Load onto `device` (default: see `own_device`).

        `references` are the real images that recipes may name. With `offload` a GPU holds the part
        of the pipeline that computes and the host the others: the same kernels, so the same bits.

        Raises:
            ConfigError: unknown dtype, or a pipeline that cannot be offloaded.
            ModelError: the folder does not hold a text-to-image pipeline.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype {dtype!r}", remedy=f"Choose one of {list(DTYPES)}")
        self.generator, self._references = generator, references
        self.device = device or own_device()
        _make_deterministic(self.device)
        self._fingerprint = engine_fingerprint(self.device, dtype)
        self._drawers: dict[str, Drawer] = {}
        self._bound = {
            bound.model_id: Engine(bound, dtype=dtype, device=self.device, offload=offload)
            for bound in members_of(generator)
        }
        self._pipeline: Any = None
        if self._bound:
            return
        if generator.method not in METHODS:
            raise ConfigError(
                f"generator {generator.name!r} has the unknown method {generator.method!r}",
                remedy=f"Choose one of {', '.join(METHODS)}; a newer factory may know others",
            )
        base = generator.base() if generator.adapters else generator
        self._pipeline = pipeline = load_pipeline(base, dtype=dtype)
        _place(pipeline, self.device, offload=offload, name=generator.name)
        for network in (getattr(pipeline, name, None) for name in ("unet", "vae")):
            if network is not None:  # 1.1 to 1.4 times faster on a CPU
                network.to(memory_format=torch.channels_last)
        if generator.adapters and generator.lora is not None:
            fold_in(pipeline, generator.lora)
        self._adapted = Adapted(pipeline, generator, base_model_id=base.model_id)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What changes bits at equal recipe, see `engine_fingerprint`, and the threads of now."""
        return self._fingerprint | threads_of(self.device)

    @property
    def pipeline(self) -> Any:
        """The pipeline in memory, with the LoRA of what was drawn last; None of a bridge."""
        return self._pipeline

    def show(self, references: References | None) -> None:
        """Let recipes name these real images from now on: those of another run."""
        self._references = references

    def draw(self, batch: Batch) -> Drawn:
        """Return the batch's images, a row per request.

        The shape is filled up to `batch.size` with the last request, so that an image's bits
        never depend on how many neighbours it has.

        Raises:
            ClusterError: the memory of the GPU is too small.
            ConfigError: a recipe of another model or method, or references where there are none.
            DataError: a reference that is not to be shown, or other pixels than the recipe's.
        """
        recipe = batch.requests[0].recipe
        if recipe.model_id != self.generator.model_id:
            raise ConfigError(
                f"the recipe was made for model {recipe.model_id},"
                f" {self.generator.name} is {self.generator.model_id}",
                remedy="Load the generator that drew it",
            )
        check_method(recipe.method, self.generator)
        padded = [*batch.requests, *[batch.requests[-1]] * (batch.size - len(batch.requests))]
        shown = _shown(self._references, batch.requests)
        shown += shown[-1:] * (batch.size - len(shown))
        drawer = self._drawer(recipe.method, recipe.adapter_id)
        try:
            return drawer.drawn(padded, shown).first(len(batch.requests))
        except torch.OutOfMemoryError as error:
            raise ClusterError(
                f"the memory of the GPU ran out ({self.device}, {batch.size} images of"
                f" {recipe.height_px} px at once)",
                remedy="Set stream.offload: true, which changes no image, or a smaller batch_size,"
                " which is another run",
            ) from error

    def guided(self, class_name: str) -> GuidedMethod:
        """Return the generator's own method, ready for a class: its LoRA, if any, is folded in.

        Raises:
            ModelError: the generator's method is no guided one, or has no LoRA for the class.
        """
        drawer = self._drawer(self.generator.method, self.generator.adapter_of(class_name))
        if not isinstance(drawer, GuidedMethod):
            raise ModelError(
                f"generator {self.generator.name!r} of method {self.generator.method!r} has no"
                " latents to invert",
                remedy=f"Use one of {' or '.join(invertible_methods())}",
            )
        return drawer

    def _drawer(self, method: str, adapter_id: str | None) -> Drawer:
        """Return what draws by a method, with a LoRA folded in; sides fold theirs themselves."""
        own = not method_of(method).by_sides
        if own and adapter_id is not None and self._adapted.use(adapter_id):
            # the others keep embeddings of the adapter before
            self._drawers = {n: d for n, d in self._drawers.items() if method_of(n).by_sides}
        if method not in self._drawers:
            sides = {} if own else {n: self._side(d) for n, d in domains_of(self.generator).items()}
            loaded = Loaded(pipeline=self._pipeline, device=self.device, sides=sides)
            self._drawers[method] = method_of(method).open(loaded)
        return self._drawers[method]

    def _side(self, domain: Domain) -> Side:
        """Return a domain of this engine, or of one that it binds."""
        engine = self._bound.get(domain.generator.model_id, self)
        return Side(class_name=domain.class_name, open=partial(engine.guided, domain.class_name))


def _place(pipeline: Any, device: str, *, offload: bool, name: str) -> None:
    """Move a pipeline to a device: whole, or part by part as they are called, by accelerate.

    Raises:
        ConfigError: diffusers names no order for its parts.
    """
    if not offload or device == "cpu":
        pipeline.to(device)
        return
    if pipeline.model_cpu_offload_seq is None:
        raise ConfigError(
            f"stream.offload: generator {name!r} is a {type(pipeline).__name__}, whose parts have"
            " no order",
            remedy="Set stream.offload: false",
        )
    pipeline.enable_model_cpu_offload(device=device)


def _shown(references: References | None, requests: Sequence[Request]) -> list[Reference]:
    """Return the reference of every request, held to its recipe's hash; none where none is named.

    Raises:
        ConfigError: references are named and none are at hand.
        DataError: one is not to be shown, or its pixels are others now.
    """
    first = requests[0].recipe
    if first.reference_id is None:
        return []
    if references is None:
        raise ConfigError(
            f"the recipe shows the real image {first.reference_id!r}, and no data is at hand",
            remedy="Give the real images (data: in a job, --data when redrawing)",
        )
    options = options_from(first.method, first.options)
    masks = options is not None and options.reads_masks
    found: dict[tuple[str | None, bool], Reference] = {}

    def same(name: str | None, sha256: str | None, *, masks: bool) -> Reference | None:
        if name is None:
            return None
        if (name, masks) not in found:
            found[name, masks] = references.get(name, first.height_px, masks=masks)
        if found[name, masks].sha256 != sha256:
            raise DataError(
                f"the real image {name!r} has other pixels than the recipe was made for",
                remedy="Give the data as it was when the run began",
            )
        return found[name, masks]

    shown = []
    for recipe in (request.recipe for request in requests):
        own = same(recipe.reference_id, recipe.reference_sha256, masks=masks)
        target = same(recipe.target_id, recipe.target_sha256, masks=False)
        shown += [] if own is None else [replace(own, target=target)]
    return shown


def _make_deterministic(device: str) -> None:
    """Choose kernels that give the same bits on every run of this device; CPUs have no others.

    float32 is float32: TF32, eight times faster on tensor cores, keeps 10 bits of 23. Of the fused
    attentions cuDNN's is left out: it chooses its kernels by trying them.
    """
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)  # where they exist
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # it costs, and nobody reads it

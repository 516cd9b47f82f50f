"""Configuration of a generation run: what to draw, how, and what to let through."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from factory.config import Count, Frozen, LocalPath
from factory.digest import digest
from factory.gate.pixel import PixelGates
from factory.gate.registry import GATES
from factory.method import METHODS
from factory.sample.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from factory.gate.agreement import AgreementGate
    from factory.gate.brightness import BrightnessGate
    from factory.gate.confidence import ConfidenceGate
    from factory.gate.copies import CopyGate
    from factory.gate.masks import MaskGates

Prompt = Annotated[str, Field(max_length=4096)]
Steps = Annotated[int, Field(ge=1, le=1000)]
BatchSize = Annotated[int, Field(ge=1, le=2**15 - 1)]
_LATER_UNSAID = {"max_tries", "lora", "lora_scale", "table", "table_digest"}
_FIRST_GATES = {"gates", "mask_gates", "agreement", "copies"}
Prompts = Prompt | Annotated[tuple[Prompt, ...], Field(min_length=1)]


class StreamConfig(Frozen):
    """How the work is spread and how often it is published. Never changes a pixel."""

    actors: Count | tuple[Count, Count] | None = None
    """Sampling actors: a number, or (least, most) of a pool that grows and shrinks with its work;
    null: as many as the cluster has GPUs, or cores where there is no GPU, or could start."""
    commit_batches: int = Field(32, ge=1)
    """Publish at the latest after this many batches ..."""
    commit_seconds: float = Field(30.0, gt=0)
    """... or this long after the last publication."""
    gpus_per_actor: float | None = Field(None, ge=0)
    """0: none, 1, or a share: of 0.25 four actors use one GPU, which small networks leave idle
    alone. null: 1 where the cluster has GPUs or node types with some, else 0."""

    offload: bool = False
    """On a GPU that holds the largest part of a model and not all of it (FLUX.1's encoders beside
    its transformer): each part waits in the host's memory for its turn. On a CPU: nothing."""

    @model_validator(mode="after")
    def _can_be_had(self) -> "StreamConfig":
        share = self.gpus_per_actor or 0
        if share > 1 and share != int(share):
            raise ValueError(f"gpus_per_actor {share:g}: several GPUs come whole")
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError(f"actors: the least, {self.actors[0]}, is above {self.actors[1]}")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: it renames no older configuration."""
        dumped: dict[str, Any] = handler(self)
        silent = {"gpus_per_actor": None, "offload": False}
        return {k: v for k, v in dumped.items() if k not in silent or v != silent[k]}


class Drawing(Frozen):
    """What to draw and how: a run's configuration without its gates."""

    model: str = "wbc-base"
    revision: str | None = None
    method: str | None = None
    """null: that of the generator."""
    lora: LocalPath | None = None
    """A LoRA file on top of `model`: .safetensors, of diffusers, kohya-ss or civitai."""
    lora_scale: float | None = Field(None, ge=0, le=10)
    """By how much of `lora`, or of the generator's own LoRAs; null: as they were trained."""
    num_images: int = Field(gt=0, le=10**9)
    classes: Mapping[str, Prompts] | tuple[str, ...] = Field(default_factory=dict)
    """Class -> prompt, or several prompts that share the class's images evenly; or names alone, for
    the generator's own prompts. Empty: every class that the generator knows."""
    negative_prompt: Prompt = ""
    guidance_scale: float = Field(2.0, ge=0)
    num_inference_steps: Steps = 20
    scheduler: str = "dpmpp_2m"
    size_px: int | None = Field(None, ge=8, le=8192, multiple_of=8)
    """Side of the images; null: what the generator was trained on."""
    batch_size: BatchSize = 32
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int | None = Field(None, ge=0, lt=2**63)
    """null: a fresh one for every run, recorded in it."""
    data: str | None = None
    """Real images to show to methods that start from some: a URI as `factory real` takes it ..."""
    split: str | None = None
    """... and its split file: only images of the train part are shown."""
    references: tuple[str, ...] = ()
    """Ids of the images to show; empty: all of the train part that belong to `classes`."""
    images_per_reference: int = Field(1, ge=1)
    """How many images each reference serves before the next is taken."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the method itself."""
    max_tries: int | None = Field(None, ge=1, le=1000)
    """Images drawn for one that the gates accept, at most: what they refuse is replaced as long as
    a class lacks some of its number. 1: `num_images` are drawn, whatever the gates say. null: 3 for
    a generator that brings thresholds of its own, else 1."""
    table: LocalPath | None = None
    """A CSV, JSON lines or Parquet file with a row for each image, or for its `count`: class_name,
    prompt, guidance_scale, seed and, for prompts, attributes. Then it says how many are drawn."""
    table_digest: str | None = None
    """... and the digest of its rows; filled in by the plan."""
    stream: StreamConfig = StreamConfig()

    @property
    def prompts(self) -> Mapping[str, Prompts]:
        """Class -> its prompts, once `sample.prepare.with_classes` has resolved `classes`."""
        return self.classes if isinstance(self.classes, Mapping) else {}

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str | None) -> str | None:
        if name is not None and name not in METHODS:
            raise ValueError(f"choose one of {', '.join(METHODS)}")
        return name

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, name: str) -> str:
        if name not in SCHEDULERS:
            raise ValueError(f"choose one of {', '.join(SCHEDULERS)}")
        return name

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave them out while they say nothing: older searches hold this section whole."""
        dumped: dict[str, Any] = handler(self)
        kept = Drawing.model_fields.keys() - _LATER_UNSAID | _FIRST_GATES
        return {k: v for k, v in dumped.items() if k in kept or v is not None}

    @property
    def digest(self) -> str:
        """Names the configuration."""
        unused = {name for name, value in _LATER.items() if getattr(self, name) in (value, None)}
        return digest(self.model_dump(mode="json", exclude=unused))


if TYPE_CHECKING:

    class GenerateConfig(Drawing):
        """What the checker of types has to know of the sections that are read by name."""

        gates: PixelGates | None = PixelGates()
        mask_gates: MaskGates = MaskGates()
        agreement: AgreementGate | None = None
        copies: CopyGate | None = CopyGate()
        brightness: BrightnessGate | None = None
        confidence: ConfidenceGate | None = None

else:
    GenerateConfig = create_model(
        "GenerateConfig",
        __base__=Drawing,
        __doc__="One generation run: what to draw, how, and, a section for each gate, what passes.",
        __module__=__name__,
        **{g.key: (g if g.needed else g | None, g.default()) for g in GATES},
    )

_LATER: Mapping[str, Any] = {
    "data": None,
    "split": None,
    "references": (),
    "images_per_reference": 1,
    "options": {},
    **{gate.key: gate.default() for gate in GATES if gate is not PixelGates},
    "max_tries": None,
    "lora": None,
    "lora_scale": None,
    "table": None,
    "table_digest": None,
}
"""Keys that jobs learnt later, and their defaults: unused, they rename no older configuration."""

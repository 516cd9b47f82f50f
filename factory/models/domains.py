"""Domains bound into one generator: the places between which a bridge carries images.

    folder/factory.json     domains: {name: {model, model_id, class_name}}, method 'bridge', ...

Weights stay where they are; the folder names them by digest. A generator that knows several classes
(or has a LoRA for each) needs no such folder: its classes are its domains.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factory.atomic import new_folder
from factory.digest import digest, digest_bytes
from factory.errors import ConfigError, ModelError
from factory.method import invertible_methods
from factory.models.families import STABLE_DIFFUSION
from factory.models.folder import MANIFEST, read_json
from factory.models.generator import (
    DISTILLED,
    DOMAINS,
    EMBEDDED,
    Generator,
    find_generator,
    open_generator,
)

if TYPE_CHECKING:  # torch waits until the domains are known to exist
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One side of a bridge: a class as a generator draws it."""

    name: str
    generator: Generator
    class_name: str

    @property
    def prompt(self) -> str:
        """The prompt that its generator draws the class with; empty if it reads none."""
        return self.generator.prompts.get(self.class_name, "")

    @property
    def weights(self) -> Path:
        """The folder that holds its U-Net and autoencoder."""
        return self.generator.weights


def domains_of(generator: Generator) -> dict[str, Domain]:
    """Return the domains of a generator by name: those it binds, else its classes.

    Raises:
        ModelError: a bound generator is missing, or has other files than when it was bound.
    """
    bound: Mapping[str, Mapping[str, str]] = generator.manifest.get(DOMAINS) or {}
    if not bound:
        return {
            name: Domain(name=name, generator=generator, class_name=name)
            for name in generator.class_names
        }
    return {name: _member(generator, name, bound[name]) for name in generator.class_names}


def members_of(generator: Generator) -> list[Generator]:
    """Return the generators that this one binds, each once; none where it draws by itself.

    Raises:
        ModelError: see `domains_of`.
    """
    if not generator.manifest.get(DOMAINS):
        return []
    bound = (domain.generator for domain in domains_of(generator).values())
    return list({member.model_id: member for member in bound}.values())


def parse_domains(texts: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return what `write_domains` takes of texts 'name=model' or 'name=model:class'.

    Raises:
        ConfigError: no such text, or a domain twice.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        model, _, class_name = rest.partition(":")
        if not (name and equals and model) or name in found:
            raise ConfigError(
                f"domain {text!r} is {'there twice' if name in found else 'no NAME=MODEL[:CLASS]'}",
                remedy="Write --domain healthy=runs/healthy/generator, each name once",
            )
        found[name] = (model, class_name or None)
    return found


def write_domains(folder: Path, chosen: Mapping[str, tuple[str, str | None]]) -> Generator:
    """Bind domains into `folder` and return its generator.

    Args:
        folder: written atomically.
        chosen: domain -> name or folder of its generator, and the class that it is there; None
            where the generator knows just one.

    Raises:
        ConfigError: fewer than two domains, or a class that a generator does not know.
        ModelError: a generator is missing, or they do not fit each other.
    """
    if len(chosen) < 2:
        raise ConfigError(
            f"a bridge of {len(chosen)} domains", remedy="Name two or more, each with a generator"
        )
    domains = {name: _chosen(name, *told) for name, told in chosen.items()}
    check_fit(list(domains.values()))
    places = {name: _place(told[0], folder) for name, told in chosen.items()}
    first = next(iter(domains.values())).generator
    manifest = {
        "name": Path(folder).name,
        "method": "bridge",
        "size_px": first.size_px,
        "class_names": list(domains),
        "prompts": {name: domain.prompt for name, domain in domains.items()},
        "licence": "; ".join(sorted({_licence(domain) for domain in domains.values()})),
        DOMAINS: {
            name: {
                "model": places[name],
                "model_id": domain.generator.model_id,
                "class_name": domain.class_name,
            }
            for name, domain in domains.items()
        },
    }
    with new_folder(Path(folder)) as work:
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return open_generator(Path(folder))


def check_fit(domains: list[Domain]) -> None:
    """Refuse domains between which noisy latents mean different things.

    Raises:
        ModelError: another method, size, latent space, noise schedule or attention layout.
    """
    for told in (_size, _insides):  # what needs no torch comes first
        first, wanted = domains[0], told(domains[0])
        for domain in domains[1:]:
            for what, value in told(domain).items():
                if value != wanted[what]:
                    raise ModelError(
                        f"domains {first.name!r} and {domain.name!r} differ in {what}:"
                        f" {wanted[what]} and {value}",
                        remedy="Bridge generators that were fine-tuned from one base",
                    )


def check_invertible(domain: Domain) -> None:
    """Refuse a domain whose images cannot be carried back to noise.

    Raises:
        ModelError: of another method, or of a family that is drawn as a whole.
    """
    known = invertible_methods()
    if domain.generator.method not in known:
        raise ModelError(
            f"domain {domain.name!r} is drawn by method {domain.generator.method!r}",
            remedy=f"Bridge generators of {' or '.join(known)}",
        )
    if DISTILLED in domain.generator.manifest:
        raise ModelError(
            f"domain {domain.name!r} is a distilled generator, which knows"
            f" {domain.generator.settled['num_inference_steps']} noise levels: too few to carry an"
            " image back to its noise",
            remedy="Bridge its teacher",
        )
    if (family := domain.generator.family) is not STABLE_DIFFUSION:
        raise ModelError(
            f"domain {domain.name!r} is a generator of family {family.name}, whose images are not"
            " carried back to noise here",
            remedy=f"Bridge generators of {STABLE_DIFFUSION.name}, or trained here from scratch",
        )


def latent_space(folder: Path) -> str:
    """Return a digest of a generator's autoencoder: equal weights, however precisely stored."""
    from safetensors.torch import load_file

    config = read_json(folder / "vae" / "config.json")
    tensors: dict[str, Tensor] = {}
    for path in sorted((folder / "vae").glob("*.safetensors")):
        tensors |= load_file(path)
    scale = [config.get("scaling_factor"), config.get("shift_factor")]
    return digest([scale, {name: _digest(value) for name, value in tensors.items()}])


def _size(domain: Domain) -> dict[str, str]:
    check_invertible(domain)
    return {"size": f"{domain.generator.size_px} px"}


def _insides(domain: Domain) -> dict[str, str]:
    from factory.models.attention_layout import layout_of, unet_file

    return {
        "latent space": latent_space(domain.weights),
        "noise schedule": _schedule(domain.weights),
        "attention layout": layout_of(unet_file(domain.weights)),
    }


def _schedule(folder: Path) -> str:
    from diffusers import DDPMScheduler

    config = read_json(folder / "scheduler" / "scheduler_config.json")
    return _digest(DDPMScheduler.from_config(config).alphas_cumprod)


def _digest(value: "Tensor") -> str:
    import torch

    plain = value.detach().to(torch.float32).contiguous().reshape(-1).view(torch.uint8)
    return digest_bytes(str(tuple(value.shape)).encode(), plain.numpy().tobytes())


def _member(generator: Generator, name: str, told: Mapping[str, str]) -> Domain:
    beside = generator.folder / told["model"]
    found = find_generator(str(beside) if beside.is_dir() else told["model"])
    if found.model_id != told["model_id"]:
        raise ModelError(
            f"domain {name!r} of {generator.folder} is generator {told['model_id']},"
            f" {told['model']!r} is {found.model_id} now",
            remedy="Put that generator back, or bind the domains again",
        )
    return Domain(name=name, generator=found, class_name=told["class_name"])


def _chosen(name: str, model: str, class_name: str | None) -> Domain:
    generator = find_generator(model)
    known = generator.class_names
    chosen = class_name or (name if name in known else known[0] if len(known) == 1 else None)
    if chosen is None or chosen not in known:
        raise ConfigError(
            f"domain {name!r}: generator {generator.name!r} has no class {chosen or name!r}",
            remedy=f"Choose one of its classes: {', '.join(known) or 'it names none'}",
        )
    generator.adapter_of(chosen)
    return Domain(name=name, generator=generator, class_name=chosen)


def _place(model: str, folder: Path) -> str:
    """Return where a generator lies, seen from `folder`, so that both can be moved together."""
    path = Path(os.path.expanduser(model))
    return model if model in EMBEDDED or not path.is_dir() else os.path.relpath(path, folder)


def _licence(domain: Domain) -> str:
    return str(domain.generator.manifest.get("licence") or "not stated")

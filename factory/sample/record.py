"""What a run leaves in the catalog beside its images: its events, and the model it drew with."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from catalog.progress import run_counts
from catalog.sink import record_model, record_run
from catalog.table import Catalog
from catalog.tombstones import forgotten
from factory.code_version import code_version
from factory.errors import CatalogError
from factory.gate.calibration import gates_for
from factory.gate.gate import Gate
from factory.gate.registry import sections
from factory.models.domains import members_of
from factory.models.generator import Generator
from factory.sample.config import GenerateConfig
from factory.sample.fingerprint import software
from factory.sample.prepare import Run, lineage
from factory.sample.quotas import class_names
from factory.sample.rows import RunFacts


def light_gates(config: GenerateConfig) -> tuple[Gate, ...]:
    """Return the gates that judge where images are encoded, of pixels first."""
    light = [g for g in sections(config) if not g.heavy and g is not config.gates]
    return (gates_for(config.gates, None), *light)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Writes the events of one run: started, then complete or failed."""

    run: Run
    num_requested: int
    now: Callable[[], datetime]

    def started(self) -> RunFacts:
        """Record the model and the event 'started'; return what every row of the run shares.

        A resumed run keeps its first start, so that its rows stay equal byte for byte.

        Raises:
            CatalogError: the generator learnt from a real image that was forgotten since.
        """
        self._record_models()
        self._refuse_forgotten()
        self._record_event("started", {})
        first, run = self._events()[0], self.run
        return RunFacts(
            run_id=run.run_id,
            started_at=first["started_at"],
            code_version=code_version(),
            class_names=class_names(run.config, run.generator),
            gates=light_gates(run.config),
            lineage=lineage(run.generator),
        )

    def completed(self, figures: Mapping[str, float]) -> None:
        """Record that every image is published."""
        self._record_event("complete", {**figures, **self._counts()})

    def failed(self, figures: Mapping[str, float], error: BaseException) -> None:
        """Record the failure if the catalog can still be written; the error itself goes on."""
        message = f"{type(error).__name__}: {error}"[:500]
        with suppress(CatalogError):
            self._record_event("failed", {**figures, **self._counts(), "message": message})

    def _refuse_forgotten(self) -> None:
        marked = forgotten(self.run.place)
        generator = self.run.generator
        if generator.model_id in marked.models:
            raise CatalogError(
                f"generator {generator.name} ({generator.model_id}) learnt from a real"
                " image that was forgotten since",
                remedy="Train it again without that image, and draw with the new one",
            )

    def _events(self) -> list[dict[str, Any]]:
        runs = self._catalog().dataset("runs")
        events = runs.to_table(filter=pc.field("run_id") == self.run.run_id).sort_by("event")
        rows: list[dict[str, Any]] = events.to_pylist()
        return rows

    def _counts(self) -> dict[str, Any]:
        counts = run_counts(self._catalog(), self.run.run_id)
        return {
            "num_accepted": counts.accepted,
            "num_rejected": counts.rejected,
            "rejected_by_gate": json.dumps(counts.rejected_by_gate, sort_keys=True),
        }

    def _record_event(self, status: str, figures: dict[str, Any]) -> None:
        events = self._events()
        now = self.now()
        row = {
            "run_id": self.run.run_id,
            "event": len(events),
            "status": status,
            "config": self.run.config.model_dump_json(),
            "config_digest": self.run.config.digest,
            "catalog_version_before": self._catalog().version,
            "num_requested": self.num_requested,
            "num_accepted": 0,
            "num_rejected": 0,
            "rejected_by_gate": "{}",
            "environment": json.dumps(software(), sort_keys=True),
            "code_version": code_version(),
            "started_at": events[0]["started_at"] if events else now,
            "updated_at": now,
            **figures,
        }
        record_run(self.run.place, row)

    def _record_models(self) -> None:
        """Register the generator, and what it binds or builds on: lineage goes through them."""
        members = members_of(self.run.generator)
        self._record_model(self.run.generator, members)
        for generator in members:
            self._record_model(generator)
        for generator in (self.run.generator, *members):
            if generator.adapters:
                self._record_model(generator.base())

    def _record_model(self, generator: Generator, members: Sequence[Generator] = ()) -> None:
        manifest, card = generator.manifest, generator.folder / "README.md"
        trained = manifest.get("images_trained")
        row = {
            "model_id": generator.model_id,
            "name": manifest.get("name") or generator.name,
            "method": generator.method,
            "base_model_id": manifest.get("base_model_id"),
            "split_digest": manifest.get("split_digest"),
            "dataset_fingerprint": manifest.get("dataset_fingerprint"),
            "config": json.dumps(manifest.get("config") or {}, sort_keys=True),
            "licence": manifest.get("licence") or "not stated",
            "card": card.read_text(errors="replace") if card.is_file() else "",
            "added_at": self.now(),
            "member_ids": sorted(member.model_id for member in members),
            "field": generator.field.model_dump_json(exclude_none=True),
            "images_trained": trained if type(trained) is int else None,
        }
        record_model(self.run.place, row)

    def _catalog(self) -> Catalog:
        return Catalog(self.run.place)

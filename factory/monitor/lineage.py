"""OpenLineage events of a run, for lineage servers such as Marquez: start, complete, fail.

Sent only where OPENLINEAGE_URL is set; the package's own variables (OPENLINEAGE_API_KEY, ...) hold.
An event names the generator and the real data that went in, and the samples that came out.
Specification: https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalog.place import local_path
from catalog.schema import SAMPLES
from catalog.sink import BatchFile
from factory import __version__
from factory.errors import ConfigError
from factory.monitor.recorder import Recorder, RunInfo

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

PRODUCER = f"medimage-factory/{__version__}"
NAMESPACE = "medimage-factory"
"""Namespace of the job; OPENLINEAGE_NAMESPACE chooses another."""
_log = logging.getLogger("factory.lineage")


def lineage_recorder(environ: Mapping[str, str]) -> Recorder:
    """Return a recorder that sends events to OPENLINEAGE_URL.

    Raises:
        ConfigError: the package that sends them is not installed.
    """
    try:
        from openlineage.client import OpenLineageClient
    except ImportError as error:
        raise ConfigError(
            "OPENLINEAGE_URL is set and the package openlineage-python is missing",
            remedy="pip install 'medimage-factory[openlineage]', or unset OPENLINEAGE_URL",
        ) from error
    namespace = environ.get("OPENLINEAGE_NAMESPACE", NAMESPACE)
    return LineageRecorder(OpenLineageClient(), namespace=namespace)


def dataset_name(uri: str) -> tuple[str, str]:
    """Return (namespace, name) of a place as OpenLineage names datasets; passwords are left out.

    's3://lab/wbc' gives ('s3://lab', 'wbc'), a folder gives ('file', its absolute path).
    """
    parts = urlsplit(uri)
    if not parts.netloc:
        return "file", os.path.abspath(local_path(uri) or uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.strip("/") or "/"


class LineageRecorder(Recorder):
    """Sends an event where a submission starts and where it ends."""

    def __init__(
        self,
        client: "OpenLineageClient",
        *,
        namespace: str = NAMESPACE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        from openlineage.client.uuid import generate_new_uuid

        self._client, self._namespace, self._now = client, namespace, now
        self._submission = str(generate_new_uuid())
        self._run: RunInfo | None = None
        self._rows = self._bytes = self._files = 0

    def begun(self, run: RunInfo) -> None:
        """Send START."""
        self._run = run
        self._send("START", {})

    def committed(self, files: Sequence[BatchFile], *, seconds: float) -> None:  # noqa: ARG002
        """Count what this submission has published."""
        self._rows += sum(file.num_rows for file in files)
        self._bytes += sum(file.size_bytes for file in files)
        self._files += len(files)

    def completed(self, *, version: int | None) -> None:
        """Send COMPLETE with the version of the samples."""
        self._send("COMPLETE", {}, version)

    def failed(self, error: BaseException) -> None:
        """Send FAIL with the error."""
        from openlineage.client.facet_v2 import error_message_run

        message = f"{type(error).__name__}: {error}"
        facet = error_message_run.ErrorMessageRunFacet(message, "python")
        self._send("FAIL", {"errorMessage": facet})

    def _send(self, state: str, facets: Mapping[str, Any], version: int | None = None) -> None:
        """Send an event. Lineage is told about a run, and never the reason that one fails."""
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

        run = self._run
        if run is None:
            return
        event = RunEvent(
            eventTime=self._now().isoformat(),
            producer=PRODUCER,
            eventType=RunState[state],
            run=Run(self._submission, {**self._engine(), **facets}),
            job=Job(self._namespace, f"generate.{run.model_name}"),
            inputs=_inputs(run),
            outputs=[self._output(run, version)],
        )
        try:
            self._client.emit(event)
        except Exception as error:  # of whatever transport is configured
            _log.warning(
                "lineage event not sent", extra={"run_id": run.run_id, "error": str(error)}
            )

    @staticmethod
    def _engine() -> dict[str, Any]:
        from importlib.metadata import version

        from openlineage.client.facet_v2 import processing_engine_run

        engine = processing_engine_run.ProcessingEngineRunFacet(version("ray"), "ray")
        return {"processing_engine": engine}

    def _output(self, run: RunInfo, version: int | None) -> Any:
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import (
            dataset_version_dataset,
            output_statistics_output_dataset,
            schema_dataset,
        )

        namespace, name = dataset_name(run.catalog_uri)
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(field.type))
            for field in SAMPLES
        ]
        facets: dict[str, Any] = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}
        if version is not None:
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(str(version))
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=self._rows, size=self._bytes, fileCount=self._files
        )
        return OutputDataset(
            namespace=namespace,
            name=f"{name}/samples",
            facets=facets,
            outputFacets={"outputStatistics": written},
        )


def _inputs(run: RunInfo) -> list[Any]:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    version = dataset_version_dataset.DatasetVersionDatasetFacet(run.model_id)
    found = [InputDataset(namespace="model", name=run.model_name, facets={"version": version})]
    if run.data is not None:
        namespace, name = dataset_name(run.data)
        found.append(InputDataset(namespace=namespace, name=name))
    return found

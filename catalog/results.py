"""Results of studies in a catalog: an evaluation and its scores, together and exactly once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from catalog.batch import check_run_id
from catalog.place import StorageOptions
from catalog.sink import append_once, typed_rows
from factory.errors import CatalogError


def record_evaluation(
    uri: str | Path,
    row: Mapping[str, object],
    scores: Sequence[Mapping[str, object]],
    *,
    storage_options: StorageOptions | None = None,
) -> int:
    """Append an evaluation and its scores; return the version of `evaluations`.

    Scores come first: an evaluation that can be read has all of them. One that is recorded already
    is left as it is.

    Args:
        uri: catalog, created when there is none.
        row: the columns of `EVALUATIONS`.
        scores: the columns of `SCORES`, all of this evaluation.
        storage_options: of the object store.

    Raises:
        CatalogError: wrong columns, no scores or those of another evaluation, or not writable.
    """
    evaluation_id = str(row.get("evaluation_id") or "")
    check_run_id(evaluation_id)
    others = {str(score.get("evaluation_id")) for score in scores} - {evaluation_id}
    if others or not scores:
        raise CatalogError(
            f"evaluation {evaluation_id} comes with {len(scores)} scores, of {sorted(others)} too",
            remedy="Give the scores of this evaluation",
        )
    version = 0
    for name, rows in (("scores", scores), ("evaluations", [row])):
        version = append_once(
            uri,
            name,
            typed_rows(rows, name),
            key={"evaluation_id": evaluation_id},
            app_id=evaluation_id,
            app_version=1,
            storage_options=storage_options,
        )
    return version

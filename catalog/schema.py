"""The tables of a catalog: literal Arrow schemas, a comment per column.

Order matters in `SAMPLES`. deltalake 1.6.6 applies file statistics to a dataset only for listed
columns that precede the first unlisted nested one, and takes a listed column without statistics
for one that holds nothing but null: a filter on it would silently drop every row. So the columns
with statistics stand first, are never null, and `STATISTICS` names exactly these.

A column that is added stands last and is nullable: files without it give null, tables made before
get it when they are next written to, and a factory that does not know it reads on. That needs no
new `SCHEMA_VERSION`.
"""

import pyarrow as pa

from factory.gate.registry import all_scores

SCHEMA_VERSION = 1
"""Raised with every change that an older factory cannot read or append to."""
SCHEMA_VERSION_KEY = "factory.schemaVersion"
"""Key of the version in a table's Delta configuration."""

ACCEPTED = "accepted"
REJECTED = "rejected"
REMOVED = "removed"
STATUSES = ("started", "complete", "failed", REMOVED)
CREATED = "created"
RETRACTED = "retracted"
WITHDRAWN = "withdrawn"
VERDICTS = (ACCEPTED, REJECTED, WITHDRAWN)

_WHEN = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.field("element", pa.string()))
_WEIGHTS = pa.list_(pa.field("element", pa.float32()))
_PNG = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

SAMPLES = pa.schema(
    [
        # --- where the row lies
        pa.field("run_id", pa.string(), nullable=False),  # the run that drew it; partition column
        # --- columns with file statistics: what users filter on
        pa.field("image_id", pa.string(), nullable=False),  # digest([recipe_digest, recipe_index])
        pa.field("class_name", pa.string(), nullable=False),  # the class asked for
        pa.field("class_id", pa.int32(), nullable=False),  # its index in class_names
        pa.field("guidance_scale", pa.float64(), nullable=False),  # 1 = no second forward pass
        pa.field("num_inference_steps", pa.int32(), nullable=False),  # solver steps
        pa.field("scheduler", pa.string(), nullable=False),  # ddpm, ddim, dpmsolver++, unipc, ...
        pa.field("gate_status", pa.string(), nullable=False),  # 'accepted' or 'rejected'
        pa.field("blank_score", pa.float64(), nullable=False),  # blank gate's score
        pa.field("range_score", pa.float64(), nullable=False),  # range gate's score
        pa.field("blur_score", pa.float64(), nullable=False),  # blur gate's score
        pa.field("seed", pa.int64(), nullable=False),  # 63-bit seed of this image's noise
        pa.field("recipe_digest", pa.string(), nullable=False),  # digest of the recipe
        pa.field("recipe_index", pa.int64(), nullable=False),  # number of the image in its recipe
        pa.field("batch_index", pa.int32(), nullable=False),  # number of the batch in its run
        pa.field("created_at", _WHEN, nullable=False),  # start of the RUN: bytes ignore the clock
        # --- the place in its batch: a redraw needs the same shape
        pa.field("batch_slot", pa.int16(), nullable=False),  # place in the batch, from 0
        pa.field("batch_size", pa.int16(), nullable=False),  # fixed batch shape, padding included
        # --- pixels
        pa.field("image", _PNG, nullable=False),  # PNG; path = '<image_id>.png'
        pa.field("mask", _PNG),  # PNG of class indices, lossless; null = no mask
        pa.field("height_px", pa.int32(), nullable=False),  # height
        pa.field("width_px", pa.int32(), nullable=False),  # width
        pa.field("channels", pa.int16(), nullable=False),  # 1 grey, 3 RGB
        pa.field("pixel_sha256", pa.string(), nullable=False),  # hex SHA-256 of the raw pixels
        # --- label
        pa.field("class_names", _TEXTS, nullable=False),  # all classes, in the order of soft_label
        pa.field("soft_label", _WEIGHTS, nullable=False),  # a weight per class; sums to 1
        pa.field("is_synthetic", pa.bool_(), nullable=False),  # true: drawn, not photographed
        # --- lineage
        pa.field("model_id", pa.string(), nullable=False),  # generator; leads to `models`
        pa.field("base_model_id", pa.string()),  # what the generator was fine-tuned from
        pa.field("adapter_id", pa.string()),  # LoRA adapter, if any
        pa.field("split_digest", pa.string()),  # split of the real images it was trained on
        pa.field("dataset_fingerprint", pa.string()),  # the real dataset
        # --- recipe
        pa.field("recipe", pa.string(), nullable=False),  # JSON, enough to redraw the image
        pa.field("method", pa.string(), nullable=False),  # text, class_conditional, inpaint, ...
        pa.field("prompt", pa.string(), nullable=False),  # conditioning text; may be empty
        pa.field("negative_prompt", pa.string(), nullable=False),  # text steered away from
        pa.field("reference_ids", _TEXTS, nullable=False),  # real images shown to the method
        pa.field("guidance_terms", pa.string()),  # JSON: other guidance than classifier-free
        pa.field("bridge_depth", pa.float64()),  # 0 source .. 1 target, methods with a bridge
        pa.field("cluster_id", pa.int32()),  # cluster of the reference, cluster methods
        # --- verdict and trust
        pa.field("gate_reasons", _TEXTS, nullable=False),  # 'gate: why' each; empty = accepted
        pa.field("engine", pa.string(), nullable=False),  # JSON: device, versions, dtype, kernels
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        # --- learnt later: nullable and last, so that older tables are read and appended to
        pa.field("mask_area_score", pa.float64()),  # mask area gate: share that is foreground
        pa.field("mask_parts_score", pa.float64()),  # mask parts gate: connected objects
        pa.field("agreement_score", pa.float64()),  # agreement gate: Dice with a segmenter
        pa.field("copy_score", pa.float64()),  # copy gate: distance to training / that of unseen
        pa.field("noise_score", pa.float64()),  # noise gate: share of coloured grain, 1 = noise
        pa.field("pixel_size_um", pa.float64()),  # side of a drawn pixel, where generators know it
        pa.field("crop", pa.string()),  # part of real frames that was learnt: '0.711', '80um'
        pa.field("attributes", pa.string()),  # JSON {column: text} of the table's row that asked
    ]
)
FROM_GATES = tuple(score.column for score in all_scores() if score.column not in SAMPLES.names)
"""Columns of gates that came later: each says what it holds in its own file."""
for _column in FROM_GATES:
    SAMPLES = SAMPLES.append(pa.field(_column, pa.float64()))

SELDOM = ("pixel_size_um", "crop", "attributes", *FROM_GATES)
"""Not in a file of which no row has one: a batch keeps the bytes, and so the name, that it had
before these columns were known, whatever code writes it again."""

STATISTICS = tuple(SAMPLES.names[1 : SAMPLES.names.index("created_at") + 1])
"""Columns with minimum, maximum and null count per file: filters on them skip whole files."""

RUNS = pa.schema(  # append-only: one row per event; the SQL name `runs` shows the latest per run
    [
        pa.field("run_id", pa.string(), nullable=False),  # the run
        pa.field("event", pa.int32(), nullable=False),  # 0 = started, then rising
        pa.field("status", pa.string(), nullable=False),  # started, complete, failed or removed
        pa.field("config", pa.string(), nullable=False),  # the whole job, YAML or JSON
        pa.field("config_digest", pa.string(), nullable=False),  # its digest
        pa.field("catalog_version_before", pa.int64()),  # version of `samples` before the run
        pa.field("num_requested", pa.int64(), nullable=False),  # images asked for
        pa.field("num_accepted", pa.int64(), nullable=False),  # published and accepted so far
        pa.field("num_rejected", pa.int64(), nullable=False),  # published and rejected so far
        pa.field("rejected_by_gate", pa.string(), nullable=False),  # JSON {gate: images}
        pa.field("environment", pa.string(), nullable=False),  # JSON: versions, device; no secret
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        pa.field("started_at", _WHEN, nullable=False),  # start of the run (first attempt)
        pa.field("updated_at", _WHEN, nullable=False),  # when this event happened
        pa.field("seconds_sampling", pa.float64()),  # wall time between first and last image
        pa.field("seconds_commit", pa.float64()),  # of it, spent committing
        pa.field("images_per_second", pa.float64()),  # published images / seconds_sampling
        pa.field("message", pa.string()),  # what went wrong, or a note
    ]
)

MODELS = pa.schema(
    [
        pa.field("model_id", pa.string(), nullable=False),  # digest of the model folder's files
        pa.field("name", pa.string(), nullable=False),  # short name, 'wbc-base'
        pa.field("method", pa.string(), nullable=False),  # how it was trained and is sampled
        pa.field("base_model_id", pa.string()),  # what it was fine-tuned from
        pa.field("split_digest", pa.string()),  # split whose train part it saw
        pa.field("dataset_fingerprint", pa.string()),  # the real dataset
        pa.field("config", pa.string(), nullable=False),  # JSON: training configuration
        pa.field("licence", pa.string(), nullable=False),  # SPDX name or text
        pa.field("card", pa.string(), nullable=False),  # model card, markdown
        pa.field("added_at", _WHEN, nullable=False),  # when it was registered
        # --- learnt later: nullable and last
        pa.field("member_ids", _TEXTS),  # generators that a bridge binds; null or empty = none
        pa.field("field", pa.string()),  # JSON: pixel_size_um, crop, objects (their scale)
        pa.field("images_trained", pa.int64()),  # how many real images it learnt from
    ]
)

EVALUATIONS = pa.schema(  # one row per study: what was compared, on which rows, with which result
    [
        pa.field("evaluation_id", pa.string(), nullable=False),  # digest of all that decided it
        pa.field("name", pa.string(), nullable=False),  # short name
        pa.field("task", pa.string(), nullable=False),  # 'classify' or 'segment'
        pa.field("config", pa.string(), nullable=False),  # the whole study, YAML
        pa.field("config_digest", pa.string(), nullable=False),  # its digest
        pa.field("dataset_fingerprint", pa.string(), nullable=False),  # the real dataset
        pa.field("split_digests", _TEXTS, nullable=False),  # one per fold, in order
        pa.field("catalog_version", pa.int64()),  # of `samples`; null = no synthetic image
        pa.field("model_ids", _TEXTS, nullable=False),  # generators of the images that were used
        pa.field("arms", _TEXTS, nullable=False),  # names, in order
        pa.field("baseline", pa.string(), nullable=False),  # the control that verdicts are about
        pa.field("metric", pa.string(), nullable=False),  # what is compared
        pa.field("verdicts", pa.string(), nullable=False),  # JSON {arm: sentence}
        pa.field("comparisons", pa.string(), nullable=False),  # JSON: differences, intervals, p
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        pa.field("finished_at", _WHEN, nullable=False),  # when it was recorded
    ]
)

SCORES = pa.schema(  # one row per training, part, metric and class
    [
        pa.field("evaluation_id", pa.string(), nullable=False),  # leads to `evaluations`
        pa.field("unit_id", pa.string(), nullable=False),  # digest of all that decided the training
        pa.field("arm", pa.string(), nullable=False),  # its training set's name
        pa.field("fold", pa.int32(), nullable=False),  # number of the split
        pa.field("seed", pa.int64(), nullable=False),  # of weights, order and choice of images
        pa.field("part", pa.string(), nullable=False),  # 'val' or 'test'
        pa.field("metric", pa.string(), nullable=False),  # macro_f1, accuracy, recall, dice, ...
        pa.field("class_name", pa.string()),  # of a score of one class; null = of all
        pa.field("value", pa.float64(), nullable=False),  # the score
        pa.field("num_images", pa.int32(), nullable=False),  # real images behind it
        pa.field("num_real", pa.int32(), nullable=False),  # real training rows
        pa.field("num_synthetic", pa.int32(), nullable=False),  # synthetic training rows
        pa.field("manifest_digest", pa.string(), nullable=False),  # of the training set
        pa.field("split_digest", pa.string(), nullable=False),  # of the fold
        pa.field("best_step", pa.int32(), nullable=False),  # whose weights were tested
    ]
)

RELEASES = pa.schema(  # append-only: one row per event; SQL's `releases` shows the latest of each
    [
        pa.field("name", pa.string(), nullable=False),  # 'wbc@1.2.0': base_name@semver
        pa.field("event", pa.int32(), nullable=False),  # 0 = created, 1 = retracted
        pa.field("status", pa.string(), nullable=False),  # 'created' or 'retracted'
        pa.field("base_name", pa.string(), nullable=False),  # 'wbc': what its versions share
        pa.field("semver", pa.string(), nullable=False),  # '1.2.0', see catalog/difference.py
        pa.field("previous", pa.string()),  # name of the release it was compared with
        pa.field("catalog_version", pa.int64(), nullable=False),  # of `samples`: the pin
        pa.field("condition", pa.string(), nullable=False),  # SQL on samples: which rows
        pa.field("tombstone_version", pa.int64()),  # of `tombstones`: left out; null = none yet
        pa.field("num_images", pa.int64(), nullable=False),  # rows, each image once
        pa.field("num_files", pa.int64(), nullable=False),  # rows of `release_files`
        pa.field("class_counts", pa.string(), nullable=False),  # JSON {class: images}
        pa.field("rows_digest", pa.string(), nullable=False),  # SHA-256 of ids, pixels, classes
        pa.field("manifest_digest", pa.string(), nullable=False),  # SHA-256 of rows and files
        pa.field("model_ids", _TEXTS, nullable=False),  # generators that drew the rows
        pa.field("split_digests", _TEXTS, nullable=False),  # splits they were trained under
        pa.field("reason", pa.string()),  # why it was retracted
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        pa.field("created_at", _WHEN, nullable=False),  # when it was created
        pa.field("updated_at", _WHEN, nullable=False),  # when this event happened
        # --- learnt later: nullable and last
        pa.field("review_version", pa.int64()),  # of `reviews`, if the condition names them
    ]
)

RELEASE_FILES = pa.schema(  # one row per release and Parquet file that holds rows of it
    [
        pa.field("name", pa.string(), nullable=False),  # leads to `releases`
        pa.field("manifest_digest", pa.string(), nullable=False),  # of the release, see releases.py
        pa.field("path", pa.string(), nullable=False),  # of the file, below `samples`
        pa.field("size_bytes", pa.int64(), nullable=False),  # its size
        pa.field("sha256", pa.string(), nullable=False),  # hex SHA-256 of its bytes
    ]
)

TOMBSTONES = pa.schema(  # append-only: handed out no longer, since a real image was forgotten
    [
        pa.field("subject", pa.string(), nullable=False),  # digest of the real image's id
        pa.field("event", pa.int32(), nullable=False),  # number of the request for this subject
        pa.field("kind", pa.string(), nullable=False),  # 'image' or 'model'
        pa.field("target_id", pa.string(), nullable=False),  # its image_id or model_id
        pa.field("because", pa.string(), nullable=False),  # 'train', 'val', 'base', 'reference'
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        pa.field("created_at", _WHEN, nullable=False),  # when it was asked for
    ]
)

FEATURES = pa.schema(  # an image's vector in a feature space; SQL's `features` adds x and y
    [
        pa.field("image_id", pa.string(), nullable=False),  # leads to `samples`
        pa.field("space", pa.string(), nullable=False),  # 'rings', or a network's name
        pa.field("space_digest", pa.string(), nullable=False),  # of the space: weights and all
        pa.field("features", _WEIGHTS, nullable=False),  # the vector, equally long in a space
    ]
)

MAPS = pa.schema(  # append-only: one row per fitting; the latest of a space counts
    [
        pa.field("space_digest", pa.string(), nullable=False),  # leads to `features`
        pa.field("event", pa.int32(), nullable=False),  # 0 = first fitted, then rising
        pa.field("space", pa.string(), nullable=False),  # 'rings', or a network's name
        pa.field("num_images", pa.int64(), nullable=False),  # with features when it was fitted
        pa.field("mean", _WEIGHTS, nullable=False),  # of the features
        pa.field("axes", _WEIGHTS, nullable=False),  # principal axes one after another, 2 or more
        pa.field("spread", _WEIGHTS, nullable=False),  # standard deviation along each axis
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
        pa.field("created_at", _WHEN, nullable=False),  # when it was fitted
    ]
)

REVIEWS = pa.schema(  # append-only: one row per verdict; SQL's `reviews` shows those that stand
    [
        pa.field("image_id", pa.string(), nullable=False),  # leads to `samples`
        pa.field("verdict", pa.string(), nullable=False),  # 'accepted', 'rejected' or 'withdrawn'
        pa.field("reviewer", pa.string(), nullable=False),  # the name that was given
        pa.field("reason", pa.string()),  # why, if it was said
        pa.field("reviewed_at", _WHEN, nullable=False),  # when it was recorded
        # --- audit: which verdict this is, and what the reviewer saw
        pa.field("review_id", pa.string(), nullable=False),  # digest of image and reviewer
        pa.field("event", pa.int32(), nullable=False),  # 0 = first of this review_id, then rising
        pa.field("run_id", pa.string(), nullable=False),  # the run whose row was looked at
        pa.field("pixel_sha256", pa.string(), nullable=False),  # its pixels, as `samples` has them
        pa.field("is_blind", pa.bool_(), nullable=False),  # scores and gates were not shown
        pa.field("code_version", pa.string(), nullable=False),  # factory version (and commit)
    ]
)

TABLES = {
    "samples": SAMPLES,
    "runs": RUNS,
    "models": MODELS,
    "evaluations": EVALUATIONS,
    "scores": SCORES,
    "releases": RELEASES,
    "release_files": RELEASE_FILES,
    "tombstones": TOMBSTONES,
    "features": FEATURES,
    "maps": MAPS,
    "reviews": REVIEWS,
}
"""Table name -> schema. The same names in the folder and in SQL."""

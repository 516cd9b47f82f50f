"""The formats of an export by name. Light: `factory --help` lists them without loading Arrow."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What the command line and the card say of a format.

    `writer`: 'module:function', which writes a `Task` and yields what it wrote. `needs_masks`: it
    is made of objects, so every image must have a mask. `for_training`: a copy that is meant to be
    trained on, which therefore takes no watermark.
    """

    writer: str
    what: str
    example: str
    needs_masks: bool = False
    for_training: bool = True


FORMATS = {
    "huggingface": Format(
        writer="catalog.export.shards:huggingface",
        what="Parquet with images inside, for Hugging Face datasets",
        example='from datasets import load_dataset\n\ntrain = load_dataset("parquet",'
        ' data_files="data/*.parquet", split="train")',
    ),
    "imagefolder": Format(
        writer="catalog.export.folders:imagefolder",
        what="a folder per class, for torchvision and Hugging Face datasets",
        example='from torchvision.datasets import ImageFolder\n\ntrain = ImageFolder("train")',
    ),
    "webdataset": Format(
        writer="catalog.export.shards:webdataset",
        what="tar shards, for WebDataset",
        example='import webdataset\n\ntrain = webdataset.WebDataset("train-000000.tar",'
        ' shardshuffle=False).decode("pil").to_tuple("png", "cls")',
    ),
    "coco": Format(
        writer="catalog.export.folders:coco",
        what="images and COCO instances made of their masks",
        example="from pycocotools.coco import COCO\n\n"
        'train = COCO("annotations/instances_train.json")',
        needs_masks=True,
    ),
    "yolo": Format(
        writer="catalog.export.folders:yolo",
        what="images and YOLO polygons made of their masks",
        example="# data.yaml names the folders; put your real images as its val",
        needs_masks=True,
    ),
    "yolo-boxes": Format(
        writer="catalog.export.folders:yolo",
        what="images and YOLO boxes made of their masks",
        example="# data.yaml names the folders; put your real images as its val",
        needs_masks=True,
    ),
    "csv": Format(
        writer="catalog.export.folders:plain",
        what="pictures with the table manifest.csv, to look at or to convert",
        example='import pandas\n\nrows = pandas.read_csv("manifest.csv", keep_default_na=False)',
        for_training=False,
    ),
    "dicom": Format(
        writer="catalog.export.dicom:write",
        what="DICOM secondary captures (extra dicom)",
        example='import pydicom\n\nimage = pydicom.dcmread("images/CLASS/IMAGE_ID.dcm")',
        for_training=False,
    ),
}
"""Name -> format, in the order of the help."""

MARKS = {
    "watermark": "a keyed mark in the pixels; only for csv and dicom, never to be trained on",
    "text": "a PNG text chunk and XMP that say synthetic, image_id and release; pixels stay",
    "c2pa": "a signed C2PA manifest (extra c2pa); pixels stay",
}
"""Name -> what it does, in the order in which marks are made: the signature covers the others."""

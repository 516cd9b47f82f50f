import codecs
import json
import unicodedata
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import DataError
from factory.real.columns import likely_groups
from factory.real.sources import open_dataset
from factory.real.tables import read_table
from tests.real.builders import class_folder, encoded, pixels, png, put, write_table

NAMES = ["a/1", "a/2", "b/1", "b/2"]


def rows(**extra: str) -> list[dict[str, str]]:
    return [{"file": f"images/{n}.png", "class": n[0], **extra} for n in NAMES]


def test_csv_of_a_class_folder_gives_the_same_dataset(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    table = [
        {**row, "mask": f"masks/{n}.png", "case": f"c{n[-1]}", "note": n}
        for row, n in zip(rows(), NAMES, strict=True)
    ]
    path = write_table(root / "metadata.csv", table)
    assert open_dataset(path).fingerprint == open_dataset(root).fingerprint
    assert open_dataset(path).groups == ("c1", "c2", "c1", "c2")


def test_numbers_in_csv_stay_text(tmp_path):
    put(tmp_path / "x.png", png(1))
    table = [{"image_id": "007", "path": "x.png", "label": "01", "dose": "1.50"}]
    made = open_dataset(write_table(tmp_path / "t.csv", table))
    assert (made.ids, made.labels, made.attributes["007"]) == (("007",), ("01",), {"dose": "1.50"})


def test_columns_can_be_named(tmp_path):
    put(tmp_path / "x.png", png(1))
    table = [{"scan": "x.png", "diagnosis": "ill", "who": "p9", "age": "70", "sex": "f"}]
    path = write_table(tmp_path / "t.csv", table)
    made = open_dataset(path, image="scan", label="diagnosis", group="who", attributes=["age"])
    assert (made.labels, made.groups) == (("ill",), ("p9",))
    assert made.attributes["x"] == {"age": "70"}
    with pytest.raises(DataError, match="no image column"):
        open_dataset(path, label="diagnosis")
    with pytest.raises(DataError, match="no label column"):
        open_dataset(path, image="scan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\nx.png\n", "line 2 has not the 2 cells"),
        ("file,class\nx.png,a,b\n", "line 2 has not the 2 cells"),
        ("file,class\nx.png,\n", "line 2 has no label"),
        ("file,class\n,a\n", "line 2 names no image"),
        ("file,class\ngone.png,a\n", r"gone\.png cannot be read"),
        ("file,class\nx.png,a\nx.png,a\n", r"line 3 names x\.png again, after .*line 2"),
        ("file,class\n", "lists no image. Check that it has rows"),
        ("", "no image column: .*separated by commas"),
        ("file,class,class\nx.png,a,b\n", "has the column 'class' twice"),
        ("file,class\n.,a\n", "line 2 names no image"),
        ("file,class\nx\0.png,a\n", "cannot be read"),
        ("file,class\nx.png,\xe9\n", "line 2 is no UTF-8: .*may be in Latin-1"),
    ],
)
def test_bad_csv_names_table_and_line(tmp_path, text, message):
    put(tmp_path / "x.png", png(1))
    path = put(tmp_path / "t.csv", text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_skip_broken_leaves_out_a_row_whose_file_is_gone(tmp_path):
    put(tmp_path / "x.png", png(1))
    path = put(tmp_path / "t.csv", b"file,class\nx.png,a\ngone.png,a\n")
    made = open_dataset(path, skip_broken=True)
    assert made.ids == ("x",)
    assert "gone.png" in made.broken[0]


LINES = ["path,label", "i/0.png,a", "i/1.png,b", "i/2.png,a"]


@pytest.fixture
def listed(tmp_path):
    """Three images, and a function that opens them by a table of the given bytes."""
    for n in range(3):
        put(tmp_path / f"i/{n}.png", png(n))
    wanted = open_dataset(put(tmp_path / "plain.csv", "\n".join(LINES).encode())).fingerprint

    def by(data, name="t.csv", **how):
        made = open_dataset(put(tmp_path / name, data), **how)
        assert made.fingerprint == wanted
        return made

    return by


def spelled(delimiter=",", end="\n", lines=LINES):
    return end.join(line.replace(",", delimiter) for line in lines) + end


@pytest.mark.parametrize(
    "data",
    [
        spelled(";").encode(),
        spelled("\t").encode(),
        spelled("|", "\r\n").encode(),
        spelled(end="\r").encode(),
        spelled().encode("utf-8-sig"),
        spelled().encode("utf-16"),  # with a byte order mark
        codecs.BOM_UTF16_BE + spelled(";").encode("utf-16-be"),
        spelled("\t").encode("utf-16-le"),
        ("sep=;\r\n" + spelled(";")).encode(),
        spelled(lines=["path, label ", *(f"{line} " for line in LINES[1:])]).encode(),
        spelled(lines=["Path,LABEL", *LINES[1:]]).encode(),
        spelled(lines=["", *LINES, ""]).encode(),
        spelled(lines=[f"{line}," for line in LINES]).encode(),  # a delimiter at every end
        spelled(lines=[line.replace("/", "\\") for line in LINES]).encode(),
        spelled(lines=[line.replace(".png", "") for line in LINES]).encode(),
    ],
)
def test_a_table_is_read_however_its_program_spells_it(listed, data):
    listed(data)


def test_quoted_cells_hold_commas_and_line_ends(tmp_path):
    put(tmp_path / "x.png", png(1))
    text = 'path,label,note\nx.png,"a; b, c","first\nsecond, third"\n'
    made = open_dataset(put(tmp_path / "t.csv", text.encode()))
    assert made.labels == ("a; b, c",)
    assert made.attributes["x"] == {"note": "first\nsecond, third"}


def test_a_column_without_name_is_no_attribute_but_counted(listed):
    lines = [f"{n - 1 if n else ''},{line}" for n, line in enumerate(LINES)]
    made = listed(spelled(lines=lines).encode())
    assert [(one.kind, one.count) for one in made.not_read] == [("column without a name", 1)]


@pytest.mark.parametrize(
    ("path", "root", "message"),
    [
        ("C:\\data\\set\\{n}.png", None, r"line 2 names C:\\data\\set\\0.png, .*machine.*--root"),
        ("/home/somebody/set/{n}.png", None, r"line 2 names /home/somebody/set/0.png.*--root"),
        ("\\\\server\\share\\set\\{n}.png", None, "not on this machine"),
        ("https://u:secret@example.org/set/{n}.png?key=secret", None,
         r"the address https://example.org/set/0.png, no file. Download"),
        ("C:\\data\\set\\{n}.png", ".", None),
        ("C:/data/set/{n}.png", ".", None),
        ("/home/somebody/set/{n}.png", ".", None),
        ("/home/somebody/set/{n}.png", "set", None),
        ("\\\\server\\share\\set\\{n}.png", ".", None),
    ],
)  # fmt: skip
def test_paths_of_another_machine_are_found_below_a_given_root_or_named(
    tmp_path, path, root, message
):
    for n in range(2):
        put(tmp_path / f"set/{n}.png", png(n))
    lines = [f"{path.format(n=n)},a" for n in range(2)]
    table = put(tmp_path / "t.csv", spelled(lines=["path,label", *lines]).encode())
    if message is None:
        made = open_dataset(table, root=tmp_path / root)
        assert made.ids == ("0", "1") if root == "set" else ("set/0", "set/1")
        return
    with pytest.raises(DataError, match=message) as told:
        open_dataset(table)
    assert "secret" not in str(told.value)


def test_dotted_ids_are_no_suffixes(tmp_path):
    for n in range(3):
        put(tmp_path / f"images/slide.{n}.png", png(n))
    lines = ["name,dx", *(f"slide.{n},{'xy'[n % 2]}" for n in range(3))]
    put(tmp_path / "metadata.csv", spelled(lines=lines).encode())
    ids = tuple(f"slide.{n}" for n in range(3))
    assert open_dataset(tmp_path, image="name", label="dx").ids == ids
    assert open_dataset(tmp_path / "metadata.csv", image="name", label="dx").ids == ids
    data = pa.array([{"bytes": png(n), "path": f"slide.{n}"} for n in range(4)],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    assert open_dataset(parquet(tmp_path / "p.parquet", data)).ids == (*ids, "slide.3")


def test_ids_without_suffix_name_the_files_of_a_folder(tmp_path):
    for n in range(3):
        put(tmp_path / f"images/ISIC_00{n}.jpg", encoded(pixels(n), "JPEG"))
    lines = ["lesion_id,image_id,dx", *(f"HAM_{n // 2},ISIC_00{n},{'ab'[n % 2]}" for n in range(3))]
    put(tmp_path / "metadata.csv", spelled(lines=lines).encode())
    made = open_dataset(tmp_path, label="dx", group="lesion_id")
    assert (made.labels, made.groups) == (("a", "b", "a"), ("HAM_0", "HAM_0", "HAM_1"))
    by_table = open_dataset(tmp_path / "metadata.csv", label="dx", group="lesion_id")
    assert by_table.fingerprint == made.fingerprint


def test_ids_that_files_of_two_folders_answer_to_are_named(tmp_path):
    for n, part in enumerate(["part_1", "part_2"]):
        put(tmp_path / part / "ISIC_1.jpg", encoded(pixels(n), "JPEG"))
        put(tmp_path / part / f"ISIC_{n + 2}.jpg", encoded(pixels(n + 2), "JPEG"))
    table = put(tmp_path / "m.csv", b"image_id,dx\nISIC_2,a\nISIC_3,b\n")
    assert open_dataset(table, label="dx").ids == ("ISIC_2", "ISIC_3")
    table = put(tmp_path / "m.csv", b"image_id,dx\nISIC_1,a\nISIC_3,b\n")
    with pytest.raises(DataError, match=r"line 2 names 'ISIC_1', and 2 files are called so"):
        open_dataset(table, label="dx")


def test_an_id_given_twice_has_a_remedy_that_works(tmp_path):
    for n in range(2):
        put(tmp_path / f"{n}.png", png(n))
    table = put(tmp_path / "t.csv", b"image_id,path,label\np,0.png,a\np,1.png,a\n")
    with pytest.raises(DataError, match=r"line 3 has the id 'p' of .*rename that column"):
        open_dataset(table)
    table.write_bytes(table.read_bytes().replace(b"image_id", b"who"))
    assert open_dataset(table).ids == ("0", "1")


def test_names_are_compared_as_they_print_whatever_the_file_system_spells(tmp_path):
    composed = unicodedata.normalize("NFC", "\u00dcbergang")
    decomposed = unicodedata.normalize("NFD", composed)
    for folder, row in [(composed, decomposed), (decomposed, composed)]:
        root = tmp_path / str(len(row))
        put(root / folder / "0.png", png(0))
        put(root / "metadata.csv", f"file_name,patient\n{row}/0.png,p7\n".encode())
        put(root / "t.csv", f"file_name,label\n{row}/0.png,{row}\n".encode())
        assert open_dataset(root).groups == ("p7",)
        assert len(open_dataset(root / "t.csv")) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@settings(max_examples=150, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.text('path,;\t\r\n"{}[]:01.ab\x00\ufeff', max_size=80).map(str.encode),
    )
)
def test_any_bytes_are_a_table_or_our_error(tmp_path_factory, suffix, data):
    path = put(tmp_path_factory.mktemp("t", numbered=True) / f"t{suffix}", data)
    with suppress(DataError):
        table = read_table(path)
        assert all(set(values) == set(table.columns) for _, values in table.rows)


def json_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_json_lines_are_a_table_too(tmp_path, listed):
    records = [dict(zip(LINES[0].split(","), line.split(","), strict=True)) for line in LINES[1:]]
    listed(json_lines(*records), "t.jsonl")
    listed(b"\xef\xbb\xbf" + json_lines(*records).replace(b"\n", b"\r\n\r\n"), "t.ndjson")
    records[0] |= {"boxes": [[1, 2]], "age": 3, "sex": None}
    made = open_dataset(put(tmp_path / "n.jsonl", json_lines(*records)))
    assert made.attributes == {"i/0": {"age": "3"}, "i/1": {}, "i/2": {}}
    assert [(one.kind, one.count) for one in made.not_read] == [("nested column", 1)]
    with pytest.raises(DataError, match=r"n\.jsonl line 2 is no JSON object"):
        open_dataset(put(tmp_path / "n.jsonl", json_lines(records[0]) + b"{'path': 1}\n"))
    with pytest.raises(DataError, match=r"n\.jsonl line 1 is no JSON object"):
        open_dataset(put(tmp_path / "n.jsonl", b"[1, 2]\n"))


def test_metadata_as_json_lines_group_a_folder_as_csv_does(tmp_path):
    root = class_folder(tmp_path, masks=True)
    rows = [{"file_name": f"{n}.png", "patient": f"p{n[-1]}", "grade": 2} for n in NAMES]
    put(root / "metadata.jsonl", json_lines(*rows))
    by_json = open_dataset(root)
    assert by_json.groups == ("p1", "p2", "p1", "p2")
    assert by_json.attributes["a/1"] == {"grade": "2"}
    write_table(root / "metadata.csv", rows)
    both = open_dataset(root)
    assert both.fingerprint == by_json.fingerprint
    assert [(one.kind, one.name) for one in both.not_read] == [(".jsonl", "metadata.jsonl")]


def parquet(path, images, *, row_group_size=2, **columns):
    table = pa.table({"image": images, "label": list("aabb"), **columns})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_parquet_structs_bytes_and_paths_hold_the_same_images(tmp_path):
    data = [png(n) for n in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    structs = pa.array([{"bytes": d, "path": f"{n}.png"} for n, d in enumerate(data)], kind)
    for n, d in enumerate(data):
        put(tmp_path / f"{n}.png", d)
    paths = [f"{n}.png" for n in range(4)]
    by_struct = open_dataset(parquet(tmp_path / "s.parquet", structs))
    by_path = open_dataset(parquet(tmp_path / "p.parquet", paths))
    by_bytes = open_dataset(parquet(tmp_path / "b.parquet", data, image_id=list("0123")))
    assert by_struct.ids == ("0", "1", "2", "3")
    assert by_struct.fingerprint == by_path.fingerprint == by_bytes.fingerprint
    assert by_struct.encoded(3) == data[3]


def test_parquet_parts_are_one_dataset_with_numbered_ids(tmp_path):
    for part in range(2):
        data = [png(4 * part + n) for n in range(4)]
        parquet(tmp_path / f"part-{part}.parquet", data, row_group_size=3, age=[1, 2, None, 4])
    made = open_dataset(tmp_path)
    assert made.ids[0] == "00000000"
    assert made.ids[7] == "00000007"
    assert made.attributes["00000005"] == {"age": "2"}
    assert made.attributes["00000006"] == {}
    assert made.encoded(6) == png(6)


def test_parquet_masks_are_read(tmp_path):
    masks = [encoded(np.full((10, 12), n, np.uint8)) for n in range(4)]
    path = parquet(tmp_path / "m.parquet", [png(n) for n in range(4)], mask=masks)
    made = open_dataset(path)
    assert [int(made.mask(i).max()) for i in range(4)] == [0, 1, 2, 3]


def test_parquet_masks_may_be_absent_or_paths(tmp_path):
    masks = [encoded(np.full((10, 12), n, np.uint8)) for n in range(4)]
    put(tmp_path / "m/2.png", masks[2])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    some = [{"bytes": masks[1], "path": None}, None, {"bytes": None, "path": "m/2.png"}, None]
    columns = {
        "bytes": pa.array([masks[1], None, masks[2], None], pa.binary()),
        "structs": pa.array(some, kind),
        "paths": pa.array([None, None, "m/2.png", None]),
    }
    for name, column in columns.items():
        path = parquet(tmp_path / f"{name}.parquet", [png(n) for n in range(4)], mask=column)
        made = open_dataset(path)
        assert [made.mask(i) is not None for i in range(4)] == [name != "paths", False, True, False]
        assert made.mask(2).max() == 2


def test_parquet_faults_are_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.parquet is no readable Parquet file"):
        open_dataset(put(tmp_path / "t.parquet", b"PAR1 cut off"))
    with pytest.raises(DataError, match="'image' is int64, no image"):
        open_dataset(parquet(tmp_path / "i.parquet", [1, 2, 3, 4]))
    empty = parquet(tmp_path / "n.parquet", pa.array([png(0), None, png(2), png(3)], pa.binary()))
    with pytest.raises(DataError, match=r"n\.parquet row group 0 row 1 has no bytes"):
        open_dataset(empty)
    assert len(open_dataset(empty, skip_broken=True)) == 3


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (pa.large_string(), pa.large_string()),
        (pa.string_view(), pa.string_view()),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())),
        (pa.large_binary(), pa.large_string()),
        (pa.binary_view(), pa.string_view()),
        (pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]), pa.string()),
    ],
)
def test_columns_of_polars_and_arrow_are_what_they_mean(tmp_path, images, labels):
    paths = [f"{n}.png" for n in range(4)]
    data = [put(tmp_path / path, png(n)).read_bytes() for n, path in enumerate(paths)]
    values: list = paths
    if pa.types.is_struct(images):
        values = [{"bytes": d, "path": p} for d, p in zip(data, paths, strict=True)]
    elif "binary" in str(images):
        values = data
    kind = images.value_type if pa.types.is_dictionary(images) else images
    image = pa.array(values, kind).cast(images)
    label = pa.array(list("aabb"), pa.string()).cast(labels)
    table = pa.table({"image": image, "label": label, "image_id": pa.array(list("0123"))})
    pq.write_table(table, tmp_path / "t.parquet")
    made = open_dataset(tmp_path / "t.parquet")
    assert made.fingerprint == open_dataset(parquet(tmp_path / "p.parquet", paths)).fingerprint


def hub_file(path, seeds, labels, *, names=("basophil", "monocyte"), image="image", label="label"):
    """Write a Parquet file as `datasets` pushes it to the hub."""
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names)}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": png(n), "path": None} for n in seeds], kind)
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({image: pictures, label: pa.array(labels, pa.int64())})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(told), path)
    return path


def test_class_labels_of_hugging_face_come_by_their_names(tmp_path):
    made = open_dataset(hub_file(tmp_path / "t.parquet", range(3), [1, 0, 1]))
    assert made.labels == ("monocyte", "basophil", "monocyte")
    odd = hub_file(tmp_path / "o.parquet", range(2), [0, 1], image="img", label="dx")
    assert open_dataset(odd).labels == ("basophil", "monocyte")  # found by their declared types
    known = pq.read_table(odd).append_column("class", [["x", "y"]])
    pq.write_table(known, tmp_path / "k.parquet")
    made = open_dataset(tmp_path / "k.parquet")
    assert (made.labels, made.attributes["00000001"]) == (("x", "y"), {"dx": "monocyte"})
    with pytest.raises(DataError, match="row 1 has no label"):
        open_dataset(hub_file(tmp_path / "u.parquet", range(2), [0, -1]))


def test_a_folder_of_the_hub_is_read_with_its_parts(tmp_path):
    hub_file(tmp_path / "data/train-00000-of-00001.parquet", range(2), [0, 1])
    put(tmp_path / "README.md", b"a card")
    one = open_dataset(tmp_path)
    assert one.labels == ("basophil", "monocyte")
    assert one.attributes["00000000"] == {}
    hub_file(tmp_path / "data/test-00000-of-00001.parquet", [5], [0])
    made = open_dataset(tmp_path)
    assert {i: a["official_part"] for i, a in made.attributes.items()} == {
        "00000000": "test", "00000001": "train", "00000002": "train",
    }  # fmt: skip
    assert [one.kind for one in made.not_read] == [".md"]


@pytest.mark.parametrize("config", ["", "plain_text"])
@pytest.mark.parametrize("name", ["{part}/0000.parquet", "{part}-00000-of-00001.parquet"])
def test_parts_of_the_hub_may_be_folders_of_a_configuration(tmp_path, config, name):
    for n, part in enumerate(["train", "validation"]):
        place = tmp_path / "hub" / config / name.format(part=part)
        hub_file(place, [2 * n, 2 * n + 1], [0, 1])
    made = open_dataset(tmp_path / "hub")
    assert [a["official_part"] for a in made.attributes.values()] == ["train"] * 2 + [
        "validation"
    ] * 2
    if config:
        hub_file(tmp_path / "hub/other" / name.format(part="train"), range(2), [0, 1])
        with pytest.raises(DataError, match=r"2 sets of Parquet files \(other, plain_text\)"):
            open_dataset(tmp_path / "hub")
        assert len(open_dataset(tmp_path / "hub/other")) == 2


def test_rows_of_hugging_face_without_bytes_name_a_file(tmp_path):
    put(tmp_path / "i/0.png", png(0))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": "i/0.png"}, {"bytes": png(1), "path": "x.png"}], kind)
    pq.write_table(pa.table({"image": image, "label": ["a", "b"]}), tmp_path / "t.parquet")
    made = open_dataset(tmp_path / "t.parquet")
    assert (made.ids, made.encoded(0)) == (("i/0", "x"), png(0))


def test_paths_that_several_rows_share_are_no_ids(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": png(n), "path": "image.png"} for n in range(4)], kind)
    assert open_dataset(parquet(tmp_path / "t.parquet", image)).ids[3] == "00000003"


def test_columns_that_are_no_text_are_counted(tmp_path):
    data = [png(n) for n in range(4)]
    path = parquet(tmp_path / "t.parquet", data, boxes=[[1], [], [2], []], raw=data)
    assert {(one.kind, one.name.split()[-1]) for one in open_dataset(path).not_read} == {
        ("nested column", "boxes"),
        ("binary column", "raw"),
    }


def test_columns_that_speak_of_patients_are_likely_groups():
    likely = ["PatientID", "StudyInstanceUID", "Series_Instance_UID", "lesion_id", "case no", "WSI"]
    assert likely_groups([*likely, "label", "casein", "videographer", "age"]) == likely

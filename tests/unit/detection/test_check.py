"""What of COCO is refused before training, and what is passed over as mmdet and pycocotools do."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from slimclr.detection.annotations import Split
from slimclr.detection.check import check_coco
from slimclr.errors import UserError

SIDES = (72, 64)


def _annotation(identity, image, **changes):
    box = {"bbox": [8, 8, 22, 26], "area": 286.0, "iscrowd": 0, "category_id": 7}
    mask = {"segmentation": [[8.0, 8.0, 30.0, 8.0, 8.0, 34.0]]}
    return {"id": identity, "image_id": image, **box, **mask} | changes


def _content():
    images = [{"id": 3 + 10 * i, "file_name": f"{i}.jpg", "width": SIDES[0], "height": SIDES[1]} for i in range(3)]
    annotations = [_annotation(1 + i, 3 + 10 * (i // 2)) for i in range(6)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "triangle"}]}


def _photo(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(SIDES, 50).convert("RGB").save(path, **options)


def _write(coco, split, content):
    path = coco / f"annotations/instances_{split}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def coco(tmp_path):
    folder = tmp_path / "a coco"
    for split in ("train", "val"):
        _write(folder, split, _content())
        for image in _content()["images"]:
            _photo(folder / f"{split}2017" / image["file_name"])
    return folder


def _rle(height=SIDES[1], width=SIDES[0], counts=None):
    return {"size": [height, width], "counts": counts or [10, 5, height * width - 15]}


def _first(**changes):
    return lambda content: content["annotations"][0].update(changes)


def _without(key, of="annotations"):
    return lambda content: [entry.pop(key, None) for entry in content[of]]


BOTH = [
    (_without("area"), r"annotation 1: no 'area' \(6 of 6 annotations\)"),
    (_without("segmentation"), r"annotation 1: an empty or missing 'segmentation' \(6 of 6 annotations\)"),
    (_first(segmentation=[]), r"annotation 1: an empty or missing 'segmentation' \(1 of 6 annotations\)"),
    (_first(segmentation="a"), r"annotation 1: a 'segmentation' that is neither a list of polygons nor run lengths"),
    (_first(segmentation=[8.0] * 6), r"annotation 1: a 'segmentation' that is neither a list of polygons"),
    (_first(segmentation=[["a"] * 6]), r"annotation 1: a polygon of no numbers"),
    (_first(segmentation=_rle(72, 64)), r"annotation 1: run lengths \(RLE\) of 64 x 72 pixels, but its image has 72 x"),
    (_first(segmentation=_rle(counts=[9, 9**9])), r"annotation 1: run lengths \(RLE\) that do not fit its image"),
    (_first(segmentation=_rle(counts="a,b")), r"annotation 1: run lengths \(RLE\) that are not pycocotools' text"),
    (_first(bbox=[8, 8, 22]), r"annotation 1: no 'bbox' of four numbers"),
    (_first(bbox=[8, 8, 22, float("nan")]), r"annotation 1: no 'bbox' of four numbers"),
    (_first(id=2), r"annotation 2: the 'id' of another annotation, too \(1 of 6 annotations\)"),
    (_without("id"), r"annotation number 1: no 'id' \(6 of 6 annotations\)"),
    (_without("category_id"), r"annotation 1: no 'category_id'"),
    (_without("width", "images"), r"image 3: no 'width' \(3 of 3 images\)"),
    (_without("file_name", "images"), r"image 3: no 'file_name' \(3 of 3 images\)"),
    (lambda content: content["images"][1].update(height="64"), r"image 13: a 'width' or 'height' that is no positive"),
    (lambda content: content["images"][1].update(id=3), r"image 3: the 'id' of another image, too \(1 of 3 images\)"),
]
VAL = [
    (_without("iscrowd"), r"annotation 1: no 'iscrowd', which COCO's evaluation needs .* \(6 of 6 annotations\)"),
    (_first(segmentation=[[8.0, 8.0, 30.0, 8.0]]), r"annotation 1: a polygon of fewer than six numbers \(1 of 6 ann"),
    (_first(segmentation=[[8.0, 8.0]]), r"annotation 1: a polygon of fewer than six numbers"),
    (_first(segmentation={"size": [64, 72]}), r"annotation 1: run lengths \(RLE\) without 'counts' or 'size'"),
    # pycocotools' evaluation would never end.
    (_first(segmentation=_rle(counts=[10, 5])), r"annotation 1: run lengths \(RLE\) that do not fit its image"),
    (_first(segmentation=_rle(counts="0a5:")), r"annotation 1: run lengths \(RLE\) that do not fit its image"),
    (_first(id="one"), r"annotation one: an 'id' that is no number"),
]
PASSED_OVER = [
    ("train", _without("iscrowd")),
    ("train", _first(segmentation=[[8.0, 8.0, 30.0, 8.0]])),
    ("train", _first(segmentation=[[8.0, 8.0, 30.0, 8.0, 8.0, 34.0, 1.0]])),
    ("train", _first(segmentation={"size": [64, 72]})),
    ("train", _first(segmentation=[], bbox=[8, 8, 0, 0])),
    ("train", _first(segmentation=[], ignore=1)),
    ("train", _first(segmentation=[], category_id=5)),
    ("train", _first(segmentation=_rle(), iscrowd=1)),
    ("train", _first(segmentation=_rle(counts=[10, 5]))),
    ("val", _first(segmentation=[[8.0, 8.0, 30.0, 8.0, 8.0, 34.0, 1.0]])),
    ("val", _first(bbox=[8, 8, 0, 0], area=0)),
    ("val", _first(segmentation=[], category_id=5)),
    ("val", _first(segmentation=_rle(counts=":5a_4"), iscrowd=1)),
    ("both", _first(image_id=999, segmentation=[])),
    ("both", lambda content: content["images"].append(dict(content["images"][0]))),
    ("both", lambda content: content.update(annotations=content["annotations"][2:])),
]


def _refused(coco, **options):
    with pytest.raises(UserError) as caught:
        check_coco(coco, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("split", "change", "line"),
    [("train", *case) for case in BOTH] + [("val", *case) for case in BOTH + VAL],
)
def test_what_would_stop_training_or_evaluation_is_named_and_counted(coco, split, change, line):
    content = _content()
    change(content)
    _write(coco, split, content)
    message = _refused(coco)
    assert "\n" not in message
    assert message.startswith(f"{coco}/annotations/instances_{split}2017.json: ")
    assert re.search(line, message), message


@pytest.mark.parametrize(("where", "change"), PASSED_OVER)
def test_what_mmdet_and_pycocotools_pass_over_is_passed_over(coco, where, change):
    for split in ("train", "val") if where == "both" else (where,):
        content = _content()
        change(content)
        _write(coco, split, content)
    assert check_coco(coco) == ["triangle"]


def test_all_faults_of_both_splits_are_said_at_once(coco):
    train, val = _content(), _content()
    train["annotations"][0].pop("area")
    train["annotations"][3]["segmentation"] = []
    _without("iscrowd")(val)
    _write(coco, "train", train), _write(coco, "val", val)
    (coco / "val2017/1.jpg").write_bytes(b"<html>404</html>")
    assert _refused(coco).splitlines() == [
        f"{coco}/annotations/instances_train2017.json: annotation 1: no 'area' (1 of 6 annotations); annotation 4: an "
        "empty or missing 'segmentation' (1 of 6 annotations); correct the file, or leave these out of it",
        f"{coco}/annotations/instances_val2017.json: annotation 1: no 'iscrowd', which COCO's evaluation needs (0, or "
        "1 for a crowd) (6 of 6 annotations); correct the file, or leave these out of it",
        f"{coco}/val2017/1.jpg: not a readable image (1 of 3 photos); correct or replace these photos, or leave them "
        "out of instances_val2017.json",
    ]


def test_the_first_ten_missing_photos_are_named_and_all_counted(coco):
    content = _content()
    for number in range(12):
        content["images"].append(content["images"][0] | {"id": 100 + number, "file_name": f"gone{number:02d}.jpg"})
    _write(coco, "val", content)
    first = ", ".join(f"gone{number:02d}.jpg" for number in range(10))
    line = f"12 of the 15 photos in instances_val2017.json are missing: {first}, ...; unpack val2017.zip again"
    assert _refused(coco) == f"{coco}/val2017: {line}"


def test_categories_that_differ_are_named(coco):
    content = _content()
    content["categories"] = [{"id": 8, "name": "triangle"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 8
    _write(coco, "val", content)
    line = "categories of train and val differ (7 triangle in train alone and 8 triangle in val alone)"
    assert _refused(coco) == f"{coco}/annotations: {line}; use the files of one release"


def test_one_split_is_enough_where_the_other_is_not_asked_for(coco):
    shutil.rmtree(coco / "train2017")
    (coco / "annotations/instances_train2017.json").unlink()
    assert check_coco(coco, splits=["val"]) == ["triangle"]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"<html>404</html>", "not a readable image"),
        (lambda data: data[: len(data) // 2], "cut short: its end is missing"),
        (lambda data: data[:-2], "cut short: its end is missing"),
    ],
)
def test_photos_that_cannot_be_decoded_are_named(coco, split, damage, fault):
    for name in ("1.jpg", "2.jpg"):
        photo = coco / f"{split}2017" / name
        photo.write_bytes(damage(photo.read_bytes()))
    assert f"{coco}/{split}2017/1.jpg: {fault} (2 of 3 photos)" in _refused(coco)


def _turn(coco, orientation, split="val"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    _photo(coco / f"{split}2017/0.jpg", exif=exif.tobytes())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_photo_turned_by_exif_is_refused_where_its_size_is_the_unturned_one(coco, split):
    _turn(coco, 6, split)
    assert f"{split}2017/0.jpg: turned by EXIF, and the annotations give another size" in _refused(coco)
    content = _content()
    content["images"][0].update(width=SIDES[1], height=SIDES[0])
    _write(coco, split, content)
    assert check_coco(coco) == ["triangle"]


def test_a_half_turn_keeps_the_size(coco):
    _turn(coco, 3)
    assert check_coco(coco) == ["triangle"]


def test_a_photo_of_another_size_is_refused(coco):
    Image.new("RGB", (36, 32)).save(coco / "val2017/2.jpg")
    assert "val2017/2.jpg: another size than the annotations say (1 of 3 photos)" in _refused(coco)


def test_other_forms_of_photos_and_names_are_fine(coco):
    content = _content()
    for image, name in zip(content["images"], ("a b/é.jpg", "grey.jpg", "cmyk.jpg"), strict=True):
        image["file_name"] = name
    _write(coco, "val", content)
    _photo(coco / "val2017/a b/é.jpg")
    for name, mode in (("grey", "L"), ("cmyk", "CMYK")):
        Image.new(mode, SIDES).save(coco / f"val2017/{name}.jpg")
    assert check_coco(coco) == ["triangle"]


def test_a_byte_order_mark_is_refused_with_the_command_that_removes_it(coco):
    path = coco / "annotations/instances_val2017.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    message = _refused(coco)
    assert message.startswith(f"{path}: begins with a byte-order mark, which pycocotools cannot read; remove it: ")
    subprocess.run(message.partition("remove it: ")[2], shell=True, check=True)
    assert check_coco(coco) == ["triangle"]


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', '{"images": [], "annotations": [1], "categories": []}'])
def test_what_is_no_annotation_file_is_refused(coco, text):
    (coco / "annotations/instances_val2017.json").write_text(text)
    assert "instances_val2017.json: not COCO instances" in _refused(coco)


def _small(content):
    content["images"][0].update(width=31)


@pytest.mark.parametrize("change", [_first(ignore=1), _first(iscrowd=1), _first(bbox=[8, 8, 0, 5]), _small])
def test_nothing_to_learn_from_is_refused(coco, change):
    content = _content() | {"annotations": [_annotation(1, 3)]}
    change(content)
    _write(coco, "train", content)
    sides = [content["images"][0][side] for side in ("width", "height")]
    Image.new("RGB", sides).save(coco / "train2017/0.jpg")
    assert "instances_train2017.json: holds no annotated instance" in _refused(coco)


def test_photos_are_read_once_until_one_changes(coco, tmp_path, capsys):
    checked = tmp_path / "checkpoints/checked.json"
    check_coco(coco, checked)
    assert "check train2017: 3/3 photos" in capsys.readouterr().err
    check_coco(coco, checked)
    assert capsys.readouterr().err == ""
    (coco / "val2017/1.jpg").write_bytes(b"")
    assert "val2017/1.jpg: an empty file" in _refused(coco, checked=checked)
    # What was refused is not remembered.
    assert "val2017/1.jpg: an empty file" in _refused(coco, checked=checked)
    _photo(coco / "val2017/1.jpg")
    check_coco(coco, checked)
    content = _content()
    content["images"][0].update(width=73)
    _write(coco, "train", content)
    assert "train2017/0.jpg: another size" in _refused(coco, checked=checked)


def test_processes_of_a_job_read_the_photos_once(coco, tmp_path):
    code = "import sys; from pathlib import Path; from slimclr.detection.check import check_coco; "
    code += "print(check_coco(Path(sys.argv[1]), Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, coco, tmp_path / "checked.json"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [out for out, _ in outputs] == ["['triangle']\n"] * 2
    assert sum(err.count("check val2017: 3/3 photos") for _, err in outputs) == 1


def test_the_check_needs_no_detection_packages():
    code = "import sys, slimclr.detection.check; "
    code += "assert not {'mmdet', 'mmcv', 'mmengine', 'pycocotools', 'lmdb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_large_file_takes_seconds(coco):
    """COCO's training annotations are 860,000, of about a hundred numbers each: this is a fiftieth of them."""
    content = _content()
    polygon = [float(8 + number % 20) for number in range(100)]
    content["annotations"] = [_annotation(number, 3, segmentation=[polygon]) for number in range(17_200)]
    began = time.perf_counter()
    split = Split.check(content, evaluated=True)
    assert split.instances == 17_200
    assert not split.faults
    assert time.perf_counter() - began < 2

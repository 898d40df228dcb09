"""Sets with findings: arrays, tables, folders, masks; and what is wrong with them, in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.planted_digits import BOX, main, make_arrays
from examples.xray_data import load_xrays
from uvit_dia.system.errors import InputError

SIDE = 8


def arrays(
    num_classes: int = 3, *, multi: bool = False, channels: int = 0
) -> dict[str, np.ndarray]:
    """Return a set as MedMNIST has it: a training and a test set, and one for validation."""
    draw = np.random.default_rng(0)
    found = {}
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        shape = (count, SIDE, SIDE, channels) if channels else (count, SIDE, SIDE)
        found[f"{part}_images"] = draw.integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(count)[:, None] % num_classes
        if multi:
            labels = draw.integers(0, 2, (count, num_classes))
        found[f"{part}_labels"] = labels.astype(np.uint8)
    return found


def saved(folder: Path, **changes: np.ndarray | None) -> str:
    found = {**arrays(), **changes}
    path = folder / "set.npz"
    np.savez(path, **{name: value for name, value in found.items() if value is not None})
    return str(path)


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("channels", [0, 3])
def test_one_class_an_image_as_medmnist_has_it(tmp_path: Path, channels: int) -> None:
    given = arrays(channels=channels)
    data = load_xrays(saved(tmp_path, **given))
    assert not data.is_multi_label
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.class_names == ("0", "1", "2")
    assert data.test.shape == (channels or 1, SIDE, SIDE)
    pixels = data.test.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(pixels.reshape(given["test_images"].shape), given["test_images"])


def test_several_findings_with_names_and_masks(tmp_path: Path) -> None:
    given = arrays(multi=True)
    masks = np.zeros((4, 3, SIDE, SIDE), dtype=np.uint8)
    masks[2, 1, 3, 4] = 255
    names = np.array(["mass", "nodule", "fluid"])
    data = load_xrays(saved(tmp_path, **given, test_masks=masks, class_names=names))
    assert data.is_multi_label
    assert data.class_names == ("mass", "nodule", "fluid")
    assert data.test.labels is not None
    np.testing.assert_array_equal(data.test.labels.numpy(), given["test_labels"])
    assert data.mask_of(2, 1).nonzero().tolist() == [[3, 4]]
    assert not data.mask_of(2, 0).any()
    flat = load_xrays(saved(tmp_path, **given, test_masks=masks[:, 1]))
    assert flat.mask_of(2, 0).nonzero().tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_labels": None}, "holds no test_labels; it needs"),
        ({"train_labels": np.zeros((6, 1))}, r"train_labels is float64 \[6, 1\]; labels must be"),
        ({"train_labels": np.array(["a"] * 6)}, "labels must be integers"),
        ({"train_labels": np.array([{}] * 6)}, "holds pickled objects; none are read"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, "train has images without a label"),
        ({"train_labels": np.arange(5)}, r"train labels are \[5\]; 6 images of 5 classes need"),
        ({"test_labels": np.array([0, 1, 2, 3])}, "test has a label 3; labels go up to 2"),
        ({"test_labels": np.ones((4, 3), int)}, r"test labels are \[4, 3\]; .* need \[4\]"),
        ({"train_images": np.zeros((6, 8, 8))}, "train_images is float64"),
        ({"train_images": np.zeros((6, 8, 9), np.uint8)}, "square images must be uint8"),
        ({"test_images": np.zeros((4, 9, 9), np.uint8)}, r"are \(1, 8, 8\), test images \(1, 9, 9"),
        ({"test_masks": np.zeros((4, 4, 8))}, r"masks of shape \[4, 4, 8\] do not fit 4 test"),
        ({"test_masks": np.zeros((4, 2, 8, 8))}, "give them as .* or .4, 3, 8, 8"),
        ({"class_names": np.array(["a", "b"])}, "train has a label 2; labels go up to 1"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_xrays(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_findings_are_0_or_1_and_have_a_name_each(tmp_path: Path) -> None:
    given = arrays(multi=True)
    wrong = given["train_labels"].copy()
    wrong[0, 0] = 2
    with pytest.raises(InputError, match="a label 2; labels of several findings must be 0 or 1"):
        load_xrays(saved(tmp_path, **{**given, "train_labels": wrong}))
    with pytest.raises(InputError, match=r"train labels are \[6, 3\]; 6 images of 2 findings need"):
        load_xrays(saved(tmp_path, **given, class_names=np.array(["a", "b"])))


def test_flags_that_an_npz_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --img_size, --in_chans and --masks out"):
        load_xrays(saved(tmp_path), img_size=8)
    with pytest.raises(InputError, match=r"no such folder or \.npz file"):
        load_xrays(str(tmp_path / "none"))


# ---------------------------------------------------------------- tables, folders, masks


def picture(path: Path, value: int, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def table(folder: Path, *rows: str, head: str = "image,labels,split") -> str:
    for value in range(4):
        picture(folder / "scans" / f"{value}.png", 10 * value)
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder)


ROWS = ("scans/0.png,Mass|Fluid,train", "1.png,No Finding,train", "2.png,Fluid,test", "3.png,,val")


def test_a_table_of_findings(tmp_path: Path) -> None:
    data = load_xrays(table(tmp_path, *ROWS), img_size=4)
    assert data.class_names == ("Fluid", "Mass")
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [[1, 1], [0, 0]]
    assert data.test.labels.tolist() == [[1, 0]]
    assert data.train.images.shape == (2, 1, 4, 4)
    assert data.train.images.amax(dim=(1, 2, 3)).tolist() == [0, 10]
    assert data.test.images.unique().tolist() == [20]
    assert load_xrays(str(tmp_path), in_chans=3).test.images.shape == (1, 3, 224, 224)


def test_chestxray14_as_it_comes(tmp_path: Path) -> None:
    for value in range(3):
        picture(tmp_path / f"images_00{value}" / "images" / f"{value}.png", value)
    text = "Image Index,Finding Labels,Age\n0.png,Mass|Edema,5\n1.png,No Finding,6\n2.png,Mass,7\n"
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\ufeff" + text)
    (tmp_path / "test_list.txt").write_text("2.png\n")
    data = load_xrays(str(tmp_path), img_size=8)
    assert data.class_names == ("Edema", "Mass")
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [[1, 1], [0, 0]]
    assert data.test.labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((*ROWS, "4.png,Mass,train"), "line 6: no files are called '4.png'"),
        ((*ROWS, "../out.png,Mass,train"), r"line 6: no files are called '\.\./out\.png'"),
        ((*ROWS, "1.png,Mass,trian"), "line 6: split 'trian'; allowed is train, test, val"),
        ((*ROWS, "1.png,Cyst,test"), "Cyst is a finding of test images only"),
        (ROWS[:2], "no row is of split test"),
        (ROWS[1:], "no row of split train has a finding"),
        ((), "no row of split train has a finding"),
    ],
)
def test_wrong_tables(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    picture(tmp_path / "out.png", 0)
    with pytest.raises(InputError, match=said) as caught:
        load_xrays(table(tmp_path / "set", *rows))
    assert "\n" not in str(caught.value)


def test_columns_and_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column labels; it needs image, labels, split"):
        load_xrays(table(tmp_path, head="image,label,split"))
    picture(tmp_path / "more" / "1.png", 0)
    with pytest.raises(InputError, match=r"line 3: 2 files are called '1\.png'; give"):
        load_xrays(table(tmp_path, *ROWS))
    (tmp_path / "labels.csv").write_bytes(b"image,labels,split\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"labels\.csv cannot be read"):
        load_xrays(str(tmp_path))


def class_folders(folder: Path, *parts: str) -> str:
    for place in parts:
        for value in range(2):
            picture(folder / place / f"{value}.png", 50)
    return str(folder)


def test_one_folder_a_class(tmp_path: Path) -> None:
    path = class_folders(tmp_path / "set", "train/ill", "train/well", "test/ill", "test/well")
    masks = tmp_path / "masks"
    Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255).save(picture(masks / "ill" / "1.png", 0))
    data = load_xrays(path, img_size=SIDE, masks=str(masks))
    assert data.class_names == ("ill", "well")
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.masks is not None
    assert torch.equal(data.mask_of(1, 0), torch.eye(SIDE, dtype=torch.bool))
    assert data.masks.sum(dim=(1, 2)).tolist() == [0, SIDE, 0, 0]
    picture(masks / "1.png", 255)
    with pytest.raises(InputError, match=r"1\.png may be the mask of 2 images: move it to .*well"):
        load_xrays(path, img_size=SIDE, masks=str(masks))


def test_folders_and_masks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs folders train and test"):
        load_xrays(class_folders(tmp_path / "a", "ill", "well"))
    with pytest.raises(InputError, match="sick is a class of one of train and test only"):
        load_xrays(class_folders(tmp_path / "b", "train/ill", "test/ill", "test/sick"))
    path = class_folders(tmp_path / "c", "train/ill", "test/ill")
    masks = tmp_path / "masks"
    with pytest.raises(InputError, match=r"--masks .*: no 0\.png, nor any other mask"):
        load_xrays(path, masks=str(masks))
    picture(masks / "0.png", 255, (SIDE, SIDE + 1))
    with pytest.raises(InputError, match="is 8x9, its image 8x8: give a mask of the image's size"):
        load_xrays(path, masks=str(masks))


# ---------------------------------------------------------------- planted digits


def test_planted_digits_lie_where_their_masks_say(tmp_path: Path) -> None:
    path = tmp_path / "new" / "planted.npz"
    main(["--output", str(path), "--num_train", "12", "--num_test", "40"])
    data = load_xrays(str(path))
    assert data.is_multi_label
    assert data.train.images.shape == (12, 1, 48, 48)
    assert data.masks is not None
    assert data.test.labels is not None
    areas = data.masks.sum(dim=(2, 3))
    assert torch.equal(areas, data.test.labels * BOX**2)  # a box each, and none overlap
    assert torch.equal(data.masks.sum(dim=(1, 2, 3)), data.masks.any(dim=1).sum(dim=(1, 2)))
    assert set(data.test.labels.sum(dim=1).tolist()) == {0, 1, 2, 3}
    pixels, inside = data.test.images[:, 0].double(), data.masks.any(dim=1)
    assert pixels[inside].mean() > pixels[~inside].mean() + 30


def test_planted_digits_are_the_same_for_a_seed_and_others_for_training() -> None:
    first, again = (make_arrays(4, 4, one_each=True, seed=seed) for seed in (1, 1))
    other = make_arrays(4, 4, one_each=True, seed=2)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["test_images"] != other["test_images"]).any()
    clouds = (first[f"{part}_images"].ravel() for part in ("train", "test"))
    assert np.corrcoef(*clouds)[0, 1] < 0.5  # 0.9 where both have the same clouds
    assert first["test_labels"].shape == (4,)
    rows = np.arange(4)
    assert first["test_masks"][rows, first["test_labels"]].sum(axis=(1, 2)).tolist() == [BOX**2] * 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output a.npy", "--output a.npy: must end with .npz"),
        ("--output a.npz --side 40", "--side 40: allowed is 48"),
        ("--output a.npz --num_test 0", "--num_test 0: allowed is 1"),
    ],
)
def test_planted_digits_refuse(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"planted_digits: {said}")

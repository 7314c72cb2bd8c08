"""What the notebooks say of results is true of the result files: each sentence, and what must hold for it."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

import cifar_compare as cc
from cifar_compare import few_images

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("custom_cnn", "mobilenet_v2")
ROBUST = ("custom_cnn_robust", "mobilenet_v2_robust")
CAT, BIRD, DOG = (cc.CLASSES.index(name) for name in ("cat", "bird", "dog"))


def cells(number, kind):
    (path,) = (ROOT / "notebooks").glob(f"{number:02}_*.ipynb")
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def says(number, sentence):
    """Fail where a notebook no longer says a sentence, whose figures are then to be tested anew."""
    text = " ".join(" ".join(cell.source for cell in cells(number, "markdown")).split())
    assert sentence in text, "the sentence was changed: what must hold for it changes as well"


def outputs(number):
    return str([cell.outputs for cell in cells(number, "code")])


@pytest.fixture(scope="module")
def told():
    """What the result files say."""
    files = ("bench", "people", "published_cnn")
    told = SimpleNamespace(**{name: json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in files})
    told.cnn, told.mobile = results = [cc.load_predictions(name) for name in NAMES]
    told.cards = told.cnn_card, told.mobile_card = [cc.load_card(name) for name in NAMES]
    told.results, told.paired = results, cc.compare(told.mobile, told.cnn)
    histories = told.cnn_card["history"], told.mobile_card["history"], told.published_cnn["history"]
    told.cnn_curve, told.mobile_curve, told.published = (
        [row["val_accuracy"] for row in history] for history in histories
    )
    told.of = {row["id"]: row for row in cc.study.read(ROOT / "results" / "low_res_study.csv")}
    return told


def test_notebook_1(told):
    says(1, "about nineteen of twenty test images right")
    assert round(20 * told.cnn.accuracy) == 19

    says(1, "A smaller, published CNN stops far below that")
    assert told.published_cnn["parameters"] < told.cnn_card["parameters"]
    assert max(told.published) < told.cnn_curve[-1] - 0.04

    says(1, "The published CNN rises ever more slowly, and is nearly flat at the end. Ours is no better for half")
    assert max(told.published[30:]) - told.published[30] < 0.02
    assert np.mean(told.cnn_curve[:24]) <= np.mean(told.published[:24])

    vehicles = [cc.CLASSES.index(name) for name in ("airplane", "automobile", "ship", "truck")]
    labels, answers = (np.isin(classes, vehicles) for classes in (told.cnn.labels, told.cnn.predictions))
    says(1, "**Most mistakes stay among the animals or among the vehicles**")
    assert (labels == answers)[~told.cnn.right].mean() > 0.6

    errors = np.where(np.eye(10, dtype=bool), 0, told.cnn.confusion)
    says(1, "the pair of cat and dog is the hardest by far, in both directions")
    assert sorted(errors.ravel())[-3] < 0.75 * min(errors[CAT, DOG], errors[DOG, CAT])


def test_notebook_2(told):
    says(2, "overtakes the CNN of notebook 1 in a fraction of its epochs")
    assert told.mobile_curve[-1] > told.cnn_curve[-1]
    assert told.paired.difference > 0
    assert len(told.mobile_curve) < len(told.cnn_curve) / 2

    says(
        2,
        "starts where the CNN arrives only after many epochs, and has finished before the CNN has got through a third",
    )
    assert max(told.cnn_curve[:20]) < told.mobile_curve[1]
    assert len(told.mobile_curve) - 1 < len(told.cnn_curve) / 3

    frozen, first, *_, last = told.mobile_curve
    says(2, "**Borrowed features alone go most of the way**, far beyond a guess")
    assert frozen > 0.7

    says(2, "most of the mistakes that were left go away, and a single epoch already does a good part of that")
    assert 1 - last < 0.5 * (1 - frozen)
    assert 1 - first < 0.7 * (1 - frozen)


def test_notebook_3(told):
    says(3, "less than a point, which is more than the luck of the test images, and its file is half as large")
    assert 0 < told.paired.interval[0] <= told.paired.difference < 0.01
    assert told.paired.p_value < 0.05
    assert 1.8 < told.cnn_card["bytes"] / told.mobile_card["bytes"] < 2.2

    ms = {(row["model"], row["on"].split(",")[0]): row["latency_ms"] for row in told.bench["inference"]}
    says(
        3, "In TensorFlow the CNN answers faster, although it does three times the arithmetic; exported to LiteRT, Mob"
    )
    assert ms["custom_cnn", "TensorFlow"] < ms["mobilenet_v2", "TensorFlow"]
    assert ms["mobilenet_v2", "LiteRT"] < ms["custom_cnn", "LiteRT"]
    assert round(told.cnn_card["multiply_adds"] / told.mobile_card["multiply_adds"]) == 3

    together = cc.score((told.cnn.probabilities + told.mobile.probabilities) / 2, told.cnn.labels)
    says(3, "Two models that err on different images know more together than each alone")
    assert cc.compare(together, told.mobile).interval[0] > 0

    says(3, "**The same recipe comes out differently each time**, by a good part of what lies between the models")
    spread = np.ptp([row["validation_accuracy"] for row in told.cnn_card["seeds"]])
    assert spread > 0.5 * abs(told.mobile_card["validation"]["accuracy"] - told.cnn_card["validation"]["accuracy"])

    says(3, "Both find cats hardest. MobileNetV2 is ahead most clearly on birds")
    assert told.cnn.recall.argmin() == told.mobile.recall.argmin() == CAT
    assert (told.mobile.recall - told.cnn.recall).argmax() == BIRD

    says(3, "MobileNetV2 takes fewer birds for deer or airplanes, and more cats for dogs")
    change = told.mobile.confusion - told.cnn.confusion
    pairs = [
        (cc.CLASSES.index(true), cc.CLASSES.index(other)) for true, other in (("bird", "deer"), ("bird", "airplane"))
    ]
    assert sorted(change[pair] for pair in pairs) == sorted(change.ravel())[:2]
    assert change[CAT, DOG] == np.where(np.eye(10, dtype=bool), 0, change).max()

    says(3, "With the temperature, both keep their word to about one per cent on average")
    assert max(told.cnn.ece, told.mobile.ece) < 0.015

    says(3, "Where MobileNetV2 hesitates it is still too sure")
    sure = told.mobile.probabilities.max(axis=1)
    assert told.mobile.right[sure < 0.9].mean() < sure[sure < 0.9].mean() - 0.03

    says(3, "Without the temperature both are *less* sure than they may be")
    for card in told.cards:
        assert card["temperature"] < 1
        assert card["test"]["ece_before_temperature"] > 0.05


def test_notebook_3_about_people(told):
    people, corrected = told.people["models"], told.people["corrected"]["models"]
    says(3, "**Yes: the more people agree, the more often the models are right**")
    says(3, "Both models are about as good as a single person, and well behind fifty people together")
    says(3, "Of their errors, most were also made by somebody")
    for name, result in zip(NAMES, told.results, strict=True):
        by_agreement = people[name]["accuracy_by_agreement"]
        assert by_agreement == sorted(by_agreement)
        assert abs(result.accuracy - told.people["single_person_accuracy"]) < 0.01
        assert result.accuracy < told.people["majority_accuracy"] - 0.02
        assert people[name]["errors_that_people_made_too"] > 0.5
        assert 0 < corrected[name]["accuracy"] - result.accuracy < 0.005
    says(3, "The corrections lift both models by a fraction of a point and change nothing about their order")
    assert corrected["mobilenet_v2"]["accuracy"] > corrected["custom_cnn"]["accuracy"]


def test_notebook_4_about_blocks(told):
    of = {row: each["accuracy"] for row, each in told.of.items()}
    lost = {row: each["minus_native"] for row, each in told.of.items() if each["model"] == "mobilenet_v2"}
    says(4, "more than nine times in ten through its own preprocessing, and about once in three without it")
    assert of["mobilenet_v2/published/preprocessing"] > 0.9
    assert 0.27 < of["mobilenet_v2/published/bypass-nearest"] < 0.4

    says(4, "**Only one of the six bars is low.**")
    bars = ("native/preprocessing", "published/preprocessing", "published/bypass-nearest")
    assert sorted(of[f"{name}/{bar}"] for name in NAMES for bar in bars)[1] > 0.85

    says(4, "Whatever the file, little is lost")
    for file in ("1080-bicubic", "1080-nearest", "published", "published-truck"):
        assert lost[f"mobilenet_v2/{file}/preprocessing"] > -0.05

    says(4, "**128 px: smooth files do no harm, blocks do.**")
    assert lost["mobilenet_v2/1080-bicubic/bypass-bilinear"] > -0.01
    assert lost["mobilenet_v2/1080-nearest/bypass-bilinear"] < -0.4
    assert lost["mobilenet_v2/native/bypass-nearest"] < -0.4

    says(4, "**224 px costs something by itself**, even with smooth files")
    assert -0.3 < lost["mobilenet_v2/1080-bicubic/bypass-bilinear-224"] < -0.1

    says(4, "with blocks on top, little is left. Of the trucks, none")
    assert of["mobilenet_v2/1080-nearest/bypass-nearest-224"] < 0.2
    assert of["mobilenet_v2/published-truck/bypass-nearest-224"] < 0.005

    says(4, "at 224 px most answers are wrong, and most of these are sure")
    row = told.of["mobilenet_v2/published/bypass-nearest-224"]
    assert row["confident_errors_low"] > 0.5 * (1 - row["accuracy"]) > 0.25


def test_notebook_4_about_faults(told):
    rows = [row for row in told.of.values() if (row["model"], row["route"]) == ("mobilenet_v2", "preprocessing")]
    ahead = {row["condition"]: row for row in rows}
    says(
        4,
        "Our MobileNetV2 needs *less* content than our CNN: it is ahead at every size, and most clearly in the middle",
    )
    sizes = (8, 12, 16, 24, 32)
    assert min(ahead[f"content-{size}"]["minus_first_low"] for size in sizes) > 0
    assert sizes[np.argmax([ahead[f"content-{size}"]["minus_first"] for size in sizes])] in (12, 16)

    says(4, "MobileNetV2 holds up better against noise, blur and low contrast")
    assert min(ahead[f"{fault}-3"]["minus_first_low"] for fault in ("gaussian_noise", "gaussian_blur", "contrast")) > 0

    says(4, "JPEG hurts both alike")
    assert all(ahead[f"jpeg-{i}"]["minus_first_low"] < 0 < ahead[f"jpeg-{i}"]["minus_first_high"] for i in range(1, 6))

    says(4, "on pictures in small blocks (*pixelate*) the CNN takes the lead at the higher severities")
    assert max(ahead[f"pixelate-{i}"]["minus_first_high"] for i in (4, 5)) < 0

    says(4, "At the highest severity of noise neither is of any use")
    assert max(told.of[f"{name}/gaussian_noise-5/preprocessing"]["accuracy"] for name in NAMES) < 0.2


def test_notebook_4_about_robust_models(told):
    of = {row: each["accuracy"] for row, each in told.of.items()}
    says(4, "the robust MobileNetV2 hardly cares whether its preprocessing is there")
    with_it, without = (of[f"mobilenet_v2_robust/published/{route}"] for route in ("preprocessing", "bypass-nearest"))
    assert abs(with_it - without) < 0.03
    assert without > 0.85

    says(4, "each robust model is better on degraded pictures than the usual one")
    faults = [row for row in told.of.values() if row["study"] == "corruption" and row["route"] == "preprocessing"]
    for name in NAMES:
        usual, robust = (
            np.mean([row["accuracy"] for row in faults if row["model"] == each]) for each in (name, f"{name}_robust")
        )
        assert robust > usual + 0.02

    says(4, "the CNN holds up better in noise, MobileNetV2 in low contrast")
    shares = {
        (kind, name): np.mean([row["accuracy"] for row in faults if (row["model"], row["corruption"]) == (name, kind)])
        for kind in ("gaussian_noise", "contrast")
        for name in ROBUST
    }
    assert shares["gaussian_noise", ROBUST[0]] > shares["gaussian_noise", ROBUST[1]] + 0.02
    assert shares["contrast", ROBUST[1]] > shares["contrast", ROBUST[0]] + 0.02

    says(4, "on clean images neither robust model is shown to be worse than the usual one: both intervals contain 0")
    for robust, usual in zip(ROBUST, told.results, strict=True):
        low, high = cc.compare(cc.load_predictions(robust), usual).interval
        assert low < 0 < high


def test_notebook_5(told):
    says(5, "Most of what both get wrong they get wrong in the same way")
    both_wrong = ~told.cnn.right & ~told.mobile.right
    assert (told.cnn.predictions == told.mobile.predictions)[both_wrong].mean() > 0.5

    says(5, "Both recognise the four pictures below with great certainty")
    assert "WRONG" not in outputs(5)
    assert min(map(float, re.findall(r"(?:cat|truck|airplane) ([\d.]+)%", outputs(5)))) > 95


@pytest.mark.parametrize("name", NAMES)
def test_notebook_5_about_the_cat_on_its_head(name):
    cat = np.asarray(Image.open(ROOT / "test_images" / "cat_test.jpg"))
    turned = cat[::-1, ::-1]
    upright, mistaken = cc.predict(name, [cat, turned])
    says(5, "Turn one of the same pictures upside down, and they are wrong and still certain")
    assert (upright.label, mistaken.label) == ("cat", "dog")
    assert mistaken.probability > 0.85

    says(5, "**A few places carry the mistake**, and in both models the strongest lies in the middle, over the body")
    evidence = cc.evidence_map(name, turned, "dog") - cc.evidence_map(name, turned, "cat")
    row, column = np.unravel_index(evidence.argmax(), evidence.shape)
    assert row in (1, 2)
    assert column in (1, 2)
    assert np.sort(evidence.ravel())[-4:].sum() > 0.6 * evidence.sum()


def test_notebook_7(told):
    says(7, "A network with fewer parameters than a 640×480 photograph has pixels")
    parameters = int(re.search(r"([\d,]+) parameters", outputs(7))[1].replace(",", ""))
    assert parameters < 480 * 640

    says(7, "to be right on more than half of the test images")
    assert 50 < float(re.search(r"test images: accuracy ([\d.]+)", outputs(7))[1]) < 75

    says(7, "the released CNN is many times larger and saw nine times as many images twelve times as often")
    assert told.cnn_card["parameters"] > 20 * parameters
    assert (45_000 // 9, len(told.cnn_curve) // 12) == (5000, 4)


def test_notebook_6(told):
    shares, ends = {}, {}
    for row in (rows := few_images.read(ROOT / "results" / "data_efficiency.csv")):
        shares.setdefault((row["arm"], row["images_a_class"]), []).append(row["accuracy"])
        ends.setdefault((row["arm"], row["images_a_class"]), []).extend((row["low"], row["high"]))
    means = {key: np.mean(found) for key, found in shares.items()}
    sizes = sorted({size for _, size in means})
    paired = [size for size in sizes if {(arm, size) for arm in ("mobilenet_v2", "custom_cnn")} <= set(means)]

    says(6, "the fine-tuned MobileNetV2 is ahead at every size")
    assert len(paired) >= 5
    assert all(min(ends["mobilenet_v2", size]) > max(ends["custom_cnn", size]) for size in paired[:-1])
    assert told.paired.interval[0] > 0  # the released models, with 4,500

    says(6, "the same MobileNetV2 from random weights falls even below the CNN")
    scratch = [size for size in sizes if ("mobilenet_v2_scratch", size) in means and size in paired]
    assert len(scratch) >= 3
    assert all(max(ends["mobilenet_v2_scratch", size]) < min(ends["custom_cnn", size]) for size in scratch)

    says(6, "the gain grows with the number of images: with 10 images a class the two lie close together")
    gains = [means["mobilenet_v2", size] - means["mobilenet_v2_head", size] for size in sizes[:-1]]
    assert gains == sorted(gains)
    assert 0 < gains[0] < 0.03 < 0.05 < gains[2]

    says(
        6, "it is less than two points behind with 100 and with 1,000 images a class, level with 10 on the same images,"
    )
    first = {(row["arm"], row["images_a_class"]): row for row in rows if row["draw"] == 0}
    assert [size for arm, size in first if arm == "mobilenet_v2_upper_half"] == [10, 100, 1000]
    for size in (10, 100, 1000):
        half, whole = first["mobilenet_v2_upper_half", size], first["mobilenet_v2", size]
        assert (half["accuracy"] > whole["low"]) if size == 10 else 0 < whole["accuracy"] - half["accuracy"] < 0.02
        assert half["seconds"] < whole["seconds"]

    says(6, "**With up to 100 images a class, three training sets were drawn** (one for MobileNetV2 from random")
    for (arm, size), found in shares.items():
        assert len(found) == (3 if size <= 100 and arm in (*NAMES, "mobilenet_v2_head") else 1)
    says(6, "Not measured so far: 250 images a class, MobileNetV2 from random weights with more than 500,")
    assert ("mobilenet_v2_head", 4500) not in means
    for arm in (*NAMES, "mobilenet_v2_head", "mobilenet_v2_scratch"):
        there = {size for name, size in means if name == arm} - {4500}
        assert there == {10, 25, 50, 100, 500, 1000} - ({1000} if arm == "mobilenet_v2_scratch" else set())
    says(6, "which images one happens to have matters more than whether all layers are fine-tuned")
    assert np.ptp(shares["mobilenet_v2", 10]) > max(
        tuned - fitted
        for tuned, fitted in zip(shares["mobilenet_v2", 10], shares["mobilenet_v2_head", 10], strict=True)
    )

    says(6, "Twice the steps were not better there by more than chance")
    with (ROOT / "results" / "data_efficiency_rule.csv").open(newline="") as file:
        tried = {(row["arm"], int(row["candidate"])): row for row in csv.DictReader(file)}
    for arm in NAMES:
        assert float(tried[arm, 2 * few_images.STEPS]["accuracy"]) < float(tried[arm, few_images.STEPS]["high"])

    says(6, "Wherever both lines were measured it lies above the CNN")
    seconds = {}
    for row in rows:
        seconds.setdefault((row["arm"], row["images_a_class"]), []).append(row["seconds"])
    (cnn_seconds, cnn_means), (tuned_seconds, tuned_means) = (
        zip(*sorted((np.mean(seconds[arm, size]), means[arm, size]) for size in paired[:-1]), strict=True)
        for arm in ("custom_cnn", "mobilenet_v2")
    )
    for second, accuracy in zip(cnn_seconds, cnn_means, strict=True):
        assert second < tuned_seconds[0] or accuracy < np.interp(np.log(second), np.log(tuned_seconds), tuned_means)
    says(6, "Fine-tuning all layers takes several minutes to overtake that")
    assert (
        means["mobilenet_v2", 50]
        < max(m for (arm, _), m in means.items() if arm == "mobilenet_v2_head")
        < means["mobilenet_v2", 100]
    )
    assert min(row["seconds"] for row in rows if (row["arm"], row["images_a_class"]) == ("mobilenet_v2", 100)) > 300

    says(6, "the fewer images there are, the wider is its lead")
    leads = [means["mobilenet_v2", size] - means["custom_cnn", size] for size in paired]
    assert leads == sorted(leads, reverse=True)

"""The low-resolution study: its conditions, the rows that `measure` yields, the table that `fill` keeps."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from picture_models import save_tiny_models

import cifar_compare as cc
from cifar_compare import study
from cifar_compare.artefacts import SHIPPED, verify
from cifar_compare.data import digests
from cifar_compare.evaluation import compare, score
from cifar_compare.roles import parts
from cifar_compare.study import CHECK, CONDITIONS, DELIVERIES, NATIVE, ROUTES, Condition

PUBLISHED = Condition("published", "published", 20, 30, 100, "nearest")
TABLE = Path(__file__).parents[1] / "results" / "low_res_study.csv"


@pytest.fixture(scope="module")
def split():
    return cc.make_toy_data(train=10, validation=10, test=60).test


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folder):
    return {name: keras.saving.load_model(folder / f"{name}.keras") for name in ("custom_cnn", "mobilenet_v2")}


@pytest.fixture(scope="module")
def rows(models, split):
    conditions = (dataclasses.replace(NATIVE, n=40), Condition("native", "delivery", 20), PUBLISHED)
    return {row["id"]: row for row in study.measure(models, split, conditions)}


def own_network(classes=10, size=48, activation="softmax"):
    pixels = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, keras.layers.Dense(classes, activation=activation)(x), name="own")


def test_importing_the_study_does_not_import_tensorflow():
    code = "import sys, cifar_compare.study as s; s.CONDITIONS, s.measure, s.degrade.METHODS; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cifar_compare.study.measure" in loaded
    assert not {"tensorflow", "keras", "matplotlib"} & set(loaded)


def test_every_public_name_is_there():
    assert all(hasattr(study, name) for name in study.__all__)
    assert callable(study.measure)
    with pytest.raises(AttributeError, match=r"has no attribute 'ways'; it has .*routes"):
        study.ways  # noqa: B018


def test_conditions_have_names_of_their_own_and_cover_what_was_asked():
    assert len({each.name for each in CONDITIONS}) == len(CONDITIONS)
    of = {each.name: each for each in CONDITIONS}
    assert {of[f"content-{size}"].n for size in (32, 24, 16, 12, 8)} == {10_000}
    for size in (224, 1080):
        for method in ("nearest", "bilinear", "bicubic", "lanczos"):
            delivered = of[f"{size}-{method}"]
            assert (delivered.size, delivered.method, delivered.resolution) == (size, method, 32)
            assert delivered.routes == ROUTES
    assert sum(each.study == "corruption" for each in CONDITIONS) == 25
    few = sum(each.study == "cifar-10-c" for each in CONDITIONS)
    assert few == 3 * 11  # with four of the first five, CIFAR-10-C's fifteen
    assert sum(each.n < 2000 for each in CONDITIONS if each.only == "all" and each is not CHECK) == few
    truck = of["published-truck"]
    assert (truck.resolution, truck.size, truck.method, truck.only) == (30, 1080, "nearest", "truck")
    assert set(DELIVERIES) <= set(CONDITIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n of condition 'x' is 0, expected a whole number of at least 1"),
        ({"n": 20.0}, "n of condition 'x' is 20.0"),
        ({"resolution": 0}, "resolution of condition 'x' is 0"),
        ({"size": (48, 48)}, r"size of condition 'x' is \(48, 48\)"),
        ({"method": "cubic"}, "method is 'cubic', expected one of nearest"),
        ({"corruption": "hail", "severity": 1}, "corruption 'hail' at severity 1"),
        ({"corruption": "jpeg", "severity": 6}, "corruption 'jpeg' at severity 6"),
        ({"corruption": "jpeg"}, "severity is 0, expected a whole number of at least 1"),
        ({"severity": 3}, "corruption 'none' at severity 3"),
        ({"name": 3}, "name of a condition is 3, expected text"),
        ({"only": 9}, "only of a condition is 9, expected text"),
    ],
)
def test_a_condition_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Condition(**{"name": "x", "study": "delivery", "n": 20} | change)


def test_images_are_degraded_to_few_pixels_and_enlarged(split):
    made = PUBLISHED.make(split.images[:2])
    assert made.shape == (2, 100, 100, 3)
    assert len({row.tobytes() for row in made[0]}) <= 30
    np.testing.assert_array_equal(NATIVE.make(split.images), split.images)
    noisy = dataclasses.replace(PUBLISHED, corruption="gaussian_noise", severity=5)
    assert not np.array_equal(noisy.make(split.images[:2]), made)
    assert not np.array_equal(noisy.make(split.images[:2], 1), noisy.make(split.images[:2]))
    with pytest.raises(ValueError, match="expected uint8"):
        PUBLISHED.make(split.images.astype("float32"))
    with pytest.raises(ValueError, match=r"expected \(n, 32, 32, 3\)"):
        PUBLISHED.make(made)


def test_images_are_chosen_by_content_and_not_by_order(split):
    chosen = Condition("some", "delivery", 20).choose(split)
    assert (np.bincount(split.labels[chosen]) == 2).all()
    back = cc.Split(split.images[::-1], split.labels[::-1])
    again = Condition("some", "delivery", 20).choose(back)
    assert set(digests(back.images[again])) == set(digests(split.images[chosen]))
    larger = Condition("more", "delivery", 30).choose(split)
    assert set(chosen) < set(larger)
    trucks = Condition("trucks", "published", 4, only="truck").choose(split)
    assert list(split.labels[trucks]) == [9] * 4
    np.testing.assert_array_equal(Condition("all", "delivery", 10_000).choose(split), np.arange(60))


def test_choosing_no_image_is_refused(split):
    with pytest.raises(ValueError, match="asks for 9 images of 10 classes, and finds none: give a larger n"):
        Condition("few", "delivery", 9).choose(split)
    frogs = split.labels == 6
    with pytest.raises(ValueError, match="finds none"):
        Condition("trucks", "delivery", 9, only="truck").choose((split.images[frogs], split.labels[frogs]))
    with pytest.raises(
        ValueError, match=r"'x' is about 'lorry', and the split has airplane, .*leave this condition out"
    ):
        Condition("x", "delivery", 9, only="lorry").choose(split)


def test_every_model_condition_and_route_has_its_row(rows):
    small = {f"custom_cnn/{name}/{route}" for name in ("native", "published") for route in ROUTES[:3]}
    large = {f"mobilenet_v2/{name}/{route}" for name in ("native", "published") for route in ROUTES}
    native = {f"{name}/content-32/preprocessing" for name in ("custom_cnn", "mobilenet_v2")}
    assert set(rows) == small | large | native


def test_a_row_measures_what_it_names(rows, models, split):
    model = models["mobilenet_v2"]
    chosen = PUBLISHED.choose(split)
    pixels, labels = PUBLISHED.make(split.images[chosen]), split.labels[chosen]
    direct = keras.ops.image.resize(pixels.astype("float32"), (224, 224), interpolation="nearest")
    answers = score(parts(model)[1].predict_on_batch(direct), labels)
    native = score(model.predict_on_batch(split.images[chosen]), labels)
    preprocessed = score(model.predict_on_batch(pixels), labels)

    row = rows["mobilenet_v2/published/bypass-nearest-224"]
    assert (row["model"], row["condition"], row["route"]) == ("mobilenet_v2", "published", "bypass-nearest-224")
    assert row["n"] == 20
    assert row["accuracy"] == pytest.approx(answers.accuracy)
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(answers.interval, abs=1e-6)
    assert row["ece"] == pytest.approx(answers.ece, abs=1e-5)
    assert row["flips"] == pytest.approx((answers.predictions != native.predictions).mean())
    assert row["confident_errors"] == pytest.approx(
        (~answers.right & (answers.probabilities.max(axis=1) >= 0.7)).mean()
    )
    for other, result in (("native", native), ("preprocessing", preprocessed)):
        paired = compare(answers, result)
        assert row[f"minus_{other}"] == pytest.approx(paired.difference, abs=1e-6)
        ends = (row[f"minus_{other}_low"], row[f"minus_{other}_high"])
        assert ends == pytest.approx(paired.interval, abs=1e-6)
    assert np.isnan(row["minus_first"])  # the CNN has no such route


def test_native_images_through_the_preprocessing_are_what_the_others_are_measured_against(rows):
    row = rows["mobilenet_v2/native/preprocessing"]
    assert row["flips"] == row["minus_native"] == row["minus_preprocessing"] == 0
    first = rows["custom_cnn/native/preprocessing"]
    assert row["minus_first"] == pytest.approx(row["accuracy"] - first["accuracy"], abs=1e-6)
    assert np.isnan(first["minus_first"])


@pytest.mark.parametrize("name", ["channels_first", "mixed_float16", "float16"])
def test_no_global_setting_of_keras_matters(name, keras_setting, models, split, rows):
    with keras_setting(name):
        before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy().name
        made = study.measure(models, split, [dataclasses.replace(NATIVE, n=40), PUBLISHED])
        for row in made:
            now = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy().name
            assert now == before
            # Other matrix shapes may round otherwise, which moves a mean of probabilities in its last places.
            assert row == pytest.approx(rows[row["id"]], abs=1e-5, nan_ok=True)


def test_labels_may_have_any_usual_form(models, split, rows):
    for labels in (split.labels[:, None], np.eye(10)[split.labels], split.labels.astype("uint8")):
        (row, *_) = study.measure(models, (split.images, labels), [PUBLISHED])
        assert row == pytest.approx(rows[row["id"]], nan_ok=True)


def test_a_network_of_ones_own_gets_a_preprocessing(split):
    (row, *more) = study.measure(own_network(), split, [dataclasses.replace(PUBLISHED, n=10)])
    assert row["id"] == "own/published/preprocessing"
    assert [each["route"] for each in more] == ["bypass-nearest", "bypass-bilinear"]
    network, into = study.routes(own_network(activation=None))
    assert list(into) == list(ROUTES[:3])
    seen = into["bypass-nearest"](np.full((1, 7, 9, 3), 200.0))
    assert seen.shape == (1, 48, 48, 3)
    assert np.asarray(network(seen)).sum() == pytest.approx(1)  # logits got a softmax


def test_a_subset_of_classes_works():
    rng = np.random.default_rng(0)
    split = cc.Split(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 3, ("cat", "dog", "frog"))
    frogs = Condition("frogs", "delivery", 2, only="frog")
    rows = list(study.measure(own_network(classes=3, size=32), split, [PUBLISHED, frogs]))
    assert [row["n"] for row in rows] == [12] * 3 + [2] * 3  # of 20 asked for there are 12
    assert list(split.labels[frogs.choose(split)]) == [2, 2]
    with pytest.raises(ValueError, match=r"'published-truck' is about 'truck', and the split has cat, dog, frog"):
        study.measure(own_network(classes=3), split)
    with pytest.raises(ValueError, match="model own gives 10 probabilities, but the split has 3 classes: cat, dog"):
        study.measure(own_network(), split, [PUBLISHED])


def test_a_model_that_diverged_is_named_for_what_it_is(split):
    network = own_network()
    network.set_weights([np.full(w.shape, np.nan) for w in network.get_weights()])
    with pytest.raises(ValueError, match="holds NaN"):
        list(study.measure(network, split, [PUBLISHED]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, s: (m, cc.Split(s.images / 255, s.labels), [PUBLISHED]), "multiply by 255"),
        (lambda m, s: (m, cc.Split(s.images.astype(float), s.labels), [PUBLISHED]), "split.images are float64"),
        (lambda m, s: (m, cc.Split(s.images[:, :30], s.labels), [PUBLISHED]), r"expected \(n, 32, 32, 3\)"),
        (lambda m, s: (m, cc.Split(s.images, s.labels + 1), [PUBLISHED]), "split.labels are int64 from 1 to 10"),
        (lambda m, s: (m, cc.Split(s.images[:0], s.labels[:0]), [PUBLISHED]), "n ≥ 1"),
        (lambda m, s: (m, cc.Split(s.images, s.labels, set(cc.CLASSES)), [PUBLISHED]), "classes are .* in the order"),
        (lambda m, s: (m, s.images, [PUBLISHED]), "split is a ndarray, expected a Split, or a pair"),
        (lambda m, s: (m, s, []), r"conditions are \[\], expected a list of at least one Condition"),
        (lambda m, s: (m, s, "published"), "expected a list of at least one Condition"),
        (lambda m, s: (m, s, 5), "expected a list of at least one Condition"),
        (lambda m, s: (m, s, [PUBLISHED, dataclasses.replace(PUBLISHED, n=10)]), "conditions are named published"),
        (lambda m, s: ({}, s, [PUBLISHED]), "models are {}, expected a dict by name"),
        (lambda m, s: ({1: m}, s, [PUBLISHED]), "expected a dict by name"),
        (lambda m, s: ("custom_cnn", s, [PUBLISHED]), "expected a built keras.Sequential or functional keras.Model"),
    ],
)
def test_measure_refuses_before_any_work(models, split, change, message, monkeypatch):
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda *_: pytest.fail("it began to work"))
    with pytest.raises(ValueError, match=message):
        study.measure(*change(models["custom_cnn"], split))  # not even one row was asked for


def test_a_model_of_one_size_of_pictures_is_refused_before_any_work(split):
    pixels = keras.Input((32, 32, 3))
    first = keras.Model(pixels, keras.layers.Rescaling(1.0)(pixels), name="first")
    fixed = keras.Model(pixels, own_network(size=32)(first(pixels)), name="fixed")
    with pytest.raises(ValueError, match=r"preprocessing of fixed takes \(None, 32, 32, 3\)"):
        study.measure(fixed, split)


def test_the_table_is_filled_where_it_lacks_rows(folder, split, tmp_path, monkeypatch, capsys):
    table = tmp_path / "new folder" / "table.csv"
    conditions = [dataclasses.replace(NATIVE, n=20), dataclasses.replace(PUBLISHED, n=10)]
    paths = {name: folder / f"{name}.keras" for name in ("custom_cnn", "mobilenet_v2")}
    asked, measure = [], study.measure

    def counted(models, split, conditions, verbose):
        asked.extend((name, each.name) for name in models for each in conditions)
        return measure(models, split, conditions)

    def fill(*arguments):
        asked.clear()
        return study.fill(table, *arguments)

    # The package gives the function in place of the module of this name.
    monkeypatch.setattr(sys.modules["cifar_compare.study.measure"], "measure", counted)
    fill(paths, split, conditions[:1])
    assert asked == [("custom_cnn", "content-32"), ("mobilenet_v2", "content-32")]
    told = f"{table}: measuring 1 of 1 conditions with custom_cnn, mobilenet_v2, about 1 min on two cores\n"
    assert capsys.readouterr().out == told
    before = table.read_bytes()
    fill(paths, split, conditions)
    assert asked == [("custom_cnn", "published"), ("mobilenet_v2", "published")]
    capsys.readouterr()
    whole = fill(paths, split, conditions)
    assert asked == []
    assert not capsys.readouterr().out
    assert set(before.splitlines()) < set(table.read_bytes().splitlines())
    assert sorted(row["id"] for row in whole) == [row["id"] for row in study.read(table)]
    assert not list(table.parent.glob("*.partial"))

    altered = tmp_path / "altered.keras"
    model = keras.saving.load_model(paths["mobilenet_v2"])
    model.set_weights([2 * w for w in model.get_weights()])
    model.save(altered)
    with pytest.warns(UserWarning, match="altered"):  # which has no card
        fill(paths | {"mobilenet_v2": altered}, split, conditions)
    assert {name for name, _ in asked} == {"custom_cnn", "mobilenet_v2"}  # the first is what it is compared with
    hashes = {row["model"]: row["model_sha256"] for row in study.read(table)}
    assert hashes["custom_cnn"] == whole[0]["model_sha256"]
    assert len({row["model_sha256"] for row in study.read(table)}) == 2


def test_rows_about_something_else_are_not_kept(folder, split, tmp_path, monkeypatch):
    """Same ids, but other images, other labels, other settings, or another model that came first."""
    table, conditions = tmp_path / "table.csv", [dataclasses.replace(PUBLISHED, n=25)]  # 25 is no multiple of 10
    paths = {name: folder / f"{name}.keras" for name in ("custom_cnn", "mobilenet_v2")}
    once = study.fill(table, paths, split, conditions)
    assert {row["n"] for row in once} == {20}

    calls = []
    monkeypatch.setattr(
        sys.modules["cifar_compare.study.measure"],
        "measure",
        lambda *arguments, **options: calls.append(1) or study.measure(*arguments, **options),
    )
    backwards = (split.images[::-1], split.labels[::-1])
    study.fill(table, paths, backwards, conditions)
    assert not calls  # the same images in another order
    for changed in (
        (paths, (255 - split.images, split.labels), conditions),
        (paths, (split.images, (split.labels + 1) % 10), conditions),
        (paths, split, [dataclasses.replace(conditions[0], resolution=20)]),
        (dict(reversed(paths.items())), split, conditions),
    ):
        calls.clear()
        rows = study.fill(table, *changed)
        assert calls
        assert len(rows) == len(once)
        first = next(iter(changed[0]))
        assert all(np.isnan(row["minus_first"]) for row in rows if row["model"] == first)


def test_fill_refuses_before_any_work(folder, split, tmp_path):
    table, paths = tmp_path / "table.csv", {"custom_cnn": folder / "custom_cnn.keras"}
    for given, message in (
        (({}, split), "paths are {}, expected a dict by name"),
        ((folder / "custom_cnn.keras", split), "expected a dict by name"),
        ((paths, (split.images / 255, split.labels)), "multiply by 255"),
        ((paths, split, []), "at least one Condition"),
    ):
        with pytest.raises(ValueError, match=message):
            study.fill(table, *given)
    with pytest.raises(FileNotFoundError, match=r"missing\.keras"):
        study.fill(table, {"missing": tmp_path / "missing.keras"}, split)
    assert not table.exists()


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        study.read(tmp_path / "none.csv")
    recorded = TABLE.read_text().splitlines()
    table = tmp_path / "table.csv"
    for content, message in (
        ("", r"table\.csv has the columns \(none\), expected id, model, route"),
        (recorded[0].replace("route", "way"), r"has the columns id, model, way, .*move it away"),
        ("\n".join([*recorded[:2], recorded[2][:60]]), r"table\.csv, line 3, is damaged"),
        ("\n".join([*recorded[:2], recorded[2].replace(",2000,", ",many,")]), "line 3, is damaged: .*many"),
    ):
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            study.read(table)


def test_the_recorded_table_is_what_the_library_writes(tmp_path):
    rows = study.read(TABLE)
    sys.modules["cifar_compare.study.measure"]._write(tmp_path / "again.csv", rows)
    assert (tmp_path / "again.csv").read_text() == TABLE.read_text()
    assert all(row["id"] == f"{row['model']}/{row['condition']}/{row['route']}" for row in rows)
    settings = {each.name: each.columns for each in CONDITIONS}
    assert all(settings[row["condition"]].items() <= row.items() for row in rows)


def test_nothing_of_the_recorded_table_is_left_to_measure(cifar10, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["cifar_compare.study.measure"], "measure", lambda *_, **__: pytest.fail("something was left")
    )
    shutil.copy(TABLE, tmp_path / "table.csv")
    paths = {name: verify(name, cc.load_card(name)) for name in SHIPPED}
    rows = study.fill(tmp_path / "table.csv", paths, cifar10.test)
    assert [row["id"] for row in rows] == [row["id"] for row in study.read(TABLE)]

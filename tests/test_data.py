"""Loading CIFAR-10 from every place, from a server of our own, and from files that are not what they seem."""

import builtins
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pooch
import pytest

from cifar_compare import batch_files, checks, data
from cifar_compare.data import CLASSES, DataError, Split, class_names, digests, load_cifar10, make_toy_data

N = 20  # images in each made batch file
FUZZ_CASES = int(os.environ.get("FUZZ_CASES", "300"))


# A small CIFAR-10 of the same format


def short(text):
    return b"U" + bytes([len(text)]) + text


def python2_pickle(images, labels, words=(b"labels", b"data")):
    """A batch file as Python 2's cPickle wrote the original ones: protocol 2, byte strings, old names."""
    n = len(labels)
    raw = images.transpose(0, 3, 1, 2).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85" + short(b"b") + b"\x87Rq\x09"
        b"(K\x01M" + struct.pack("<H", n) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0a" + short(b"u1") + b"K\x00K\x01\x87R"
        b"q\x0b(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
    ) + (struct.pack("<I", len(raw)) + raw + b"tb")
    names = b"".join(short(b"ship_s_%06d.png" % i) + b"r" + struct.pack("<I", 300 + i) for i in range(n))
    return (
        b"\x80\x02}q\x01("
        + (short(b"batch_label") + b"q\x02" + short(b"testing batch 1 of 1") + b"q\x03")
        + (short(words[0]) + b"q\x04]q\x05(" + b"".join(b"K" + bytes([k]) for k in labels) + b"e")
        + (short(words[1]) + b"q\x06" + array)
        + (short(b"filenames") + b"]q\x0c(" + names + b"eu.")
    )


def python3_pickle(images, labels, protocol):
    rows = images.transpose(0, 3, 1, 2).reshape(len(labels), 3072)
    names = [b"%d.png" % i for i in range(len(labels))]
    batch = {b"labels": [int(k) for k in labels], b"data": rows, b"filenames": names, b"batch_label": b"1"}
    return pickle.dumps(batch, protocol=protocol)


def write(folder, images, labels, pickled=python2_pickle):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(batch_files.FILES):
        part = slice(i * N, (i + 1) * N)
        (folder / name).write_bytes(pickled(images[part], labels[part]))
    (folder / "batches.meta").write_bytes(b"not read")
    return folder


def pack(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"cifar-10-batches-py/{file.name}")
    return path


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Images and labels of a small CIFAR-10, which the module is told to expect; it lies nowhere yet."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6 * N, 32, 32, 3), np.uint8)
    labels = np.concatenate([rng.permutation(np.arange(5 * N) % 10), np.arange(N) % 10])
    monkeypatch.setattr(data, "_IMAGES_PER_FILE", N)
    for split, part in (("train", slice(5 * N)), ("test", slice(5 * N, None))):
        monkeypatch.setitem(data.FINGERPRINTS, split, fingerprint(images[part], labels[part]))
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CIFAR10_URL", f"http://127.0.0.1:{free_port()}/nobody-listens")
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return images, labels


@pytest.fixture
def folder(made, tmp_path):
    return write(tmp_path / "somewhere" / "cifar-10-batches-py", *made)


def fingerprint(images, labels):
    parts = [hashlib.sha256(i.tobytes() + bytes([k])).digest() for i, k in zip(images, labels, strict=True)]
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def same(a, b):
    splits = ("train", "validation", "test")
    pairs = [(getattr(getattr(a, s), f), getattr(getattr(b, s), f)) for s in splits for f in ("images", "labels")]
    return a.fingerprint == b.fingerprint and all(np.array_equal(*pair) for pair in pairs)


def refused(place, *words):
    with pytest.raises(DataError) as caught:
        load_cifar10(place)
    error = caught.value
    assert error.__suppress_context__ or error.__context__ is None, "the cause would be printed as a second traceback"
    for word in words:
        assert word in str(error)
    return str(error)


# What is loaded


def test_splits_are_sorted_disjoint_and_complete(made, folder):
    images, labels = made
    loaded = load_cifar10(folder)
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [90, 10, 20]
    assert np.array_equal(loaded.test.images, images[5 * N :])
    assert np.array_equal(loaded.test.labels, labels[5 * N :])
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int64
    of = {hashlib.sha256(image.tobytes()).digest(): int(k) for image, k in zip(images, labels, strict=True)}
    keys = [[hashlib.sha256(i.tobytes()).digest() for i in s.images] for s in (loaded.train, loaded.validation)]
    assert keys[0] == sorted(keys[0])
    assert keys[1] == sorted(keys[1])
    assert [of[key] for key in keys[0]] == loaded.train.labels.tolist()
    everything = [hashlib.sha256(i.tobytes()).digest() for i in images[: 5 * N]]
    assert sorted(keys[0] + keys[1]) == sorted(everything)
    smallest = {min(key for key in everything if of[key] == k) for k in range(10)}  # one of the ten in each class
    assert set(keys[1]) == smallest


def test_the_order_of_the_training_files_does_not_matter(made, folder, tmp_path):
    images, labels = made
    order = np.concatenate([np.random.default_rng(1).permutation(5 * N), np.arange(5 * N, 6 * N)])
    shuffled = write(tmp_path / "shuffled", images[order], labels[order])
    assert same(load_cifar10(folder), load_cifar10(shuffled))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_saved_again_by_python_3_are_read(made, folder, tmp_path, protocol):
    def pickled(*batch):
        return python3_pickle(*batch, protocol)

    assert same(load_cifar10(folder), load_cifar10(write(tmp_path / "again", *made, pickled)))


def test_files_as_published_are_unpickled_and_no_others(made, folder, monkeypatch):
    monkeypatch.setattr(batch_files, "_without_running", lambda *_: pytest.fail("took the published file for another"))
    for name in batch_files.FILES:
        monkeypatch.setitem(batch_files.SHA256, name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    plain = load_cifar10(folder)
    assert len(plain.train) == 90
    monkeypatch.setitem(batch_files.SHA256, "test_batch", "that of another file")
    with pytest.raises(pytest.fail.Exception):
        load_cifar10(folder)


def test_no_warning_is_given(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_cifar10(folder)


def test_digests_are_the_first_eight_bytes_of_sha256(made):
    images, _ = made
    got = digests(images[:3])
    assert got.dtype == np.uint64
    assert [f"{d:016x}" for d in got] == [hashlib.sha256(i.tobytes()).hexdigest()[:16] for i in images[:3]]
    assert np.array_equal(digests(np.asfortranarray(images[:3])), got)
    assert digests(images[:0]).shape == (0,)
    with pytest.raises(ValueError, match="float32"):
        digests(images.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(32, 32, 3\)"):
        digests(images[0])


def test_toy_data_is_seeded_balanced_and_learnable():
    toy = make_toy_data()
    assert same(toy, make_toy_data(seed=0))
    assert toy.fingerprint != make_toy_data(seed=1).fingerprint
    for split, size in ((toy.train, 400), (toy.validation, 100), (toy.test, 100)):
        assert split.images.shape == (size, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert np.bincount(split.labels).tolist() == [size // 10] * 10
    assert len(np.unique(digests(np.concatenate([toy.train.images, toy.validation.images, toy.test.images])))) == 600
    x, x_test = (s.images.mean((1, 2)) / 64 - 2 for s in (toy.train, toy.test))
    weights = np.zeros((3, 10))
    for _ in range(30):  # softmax regression on the mean colour alone
        scores = np.exp(x @ weights)
        weights += x.T @ (np.eye(10)[toy.train.labels] - scores / scores.sum(1, keepdims=True)) / 40
    assert np.mean((x_test @ weights).argmax(1) == toy.test.labels) > 0.9


@pytest.mark.parametrize("size", [0, -1, 2.5, "10", True])
def test_toy_data_of_no_images_is_refused(size):
    with pytest.raises(ValueError, match=r"validation is .*, expected a whole number of at least 1"):
        make_toy_data(validation=size)


def test_names_of_classes():
    assert class_names(10) == CLASSES
    assert class_names(2) == ("class 0", "class 1")
    assert class_names(2, ["cat", "dog"]) == ("cat", "dog")
    for k, given in ((2, ["cat"]), (2, ["cat", "cat"]), (2, "ab")):
        with pytest.raises(ValueError, match="expected 2 different names"):
            class_names(k, given)


def test_importing_brings_no_tensorflow():
    code = "import sys, cifar_compare.data; print({'tensorflow', 'keras', 'pooch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Where it is looked for


@pytest.mark.parametrize("way", ["folder", "around", "archive", "archive in a folder"])
def test_a_place_may_be_the_folder_the_one_around_it_or_the_archive(folder, tmp_path, monkeypatch, way):
    archive = pack(folder, tmp_path / "renamed.tgz")
    (tmp_path / "down").mkdir()
    pack(folder, tmp_path / "down" / "cifar-10-python.tar.gz")
    ways = {
        "folder": folder,
        "around": folder.parent,
        "archive": archive,
        "archive in a folder": tmp_path / "down",
    }
    place = ways[way]
    expected = load_cifar10(folder)
    assert same(load_cifar10(str(place)), expected)
    monkeypatch.setenv("CIFAR10_DIR", str(place))
    assert same(load_cifar10(), expected)


@pytest.mark.parametrize(
    "place",
    [
        "keras/datasets/cifar-10-batches-py",
        "keras/datasets/cifar-10-batches-py/cifar-10-batches-py",
        "keras/datasets/cifar-10-batches-py-target",
        "keras/datasets/cifar-10-batches-py-target/cifar-10-batches-py",
        "work/data/cifar-10-batches-py",
        "data/cifar-10-batches-py",  # of a checkout, whose notebooks/ is the working directory
        "cache/cifar-compare/cifar-10-batches-py",
    ],
)
def test_usual_folders_are_found(made, tmp_path, place):
    write(tmp_path / place, *made)
    assert len(load_cifar10().train) == 90


@pytest.mark.parametrize(
    "place",
    [
        "keras/datasets/cifar-10-batches-py.tar.gz",
        "keras/datasets/cifar-10-batches-py-target_archive",
        "keras/datasets/cifar-10-python.tar.gz",
        "work/data/cifar-10-python.tar.gz",
        "cache/cifar-compare/cifar-10-python.tar.gz",
    ],
)
def test_usual_archives_are_found(folder, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    pack(folder, tmp_path / place)
    assert len(load_cifar10().train) == 90


def test_the_given_folder_comes_before_the_variable(folder, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", "/nowhere")
    assert len(load_cifar10(folder).train) == 90
    refused(None, "CIFAR10_DIR: /nowhere", "no such file or folder", "cifar-10-python.tar.gz")


def test_a_given_place_without_cifar10_never_falls_through(made, tmp_path, monkeypatch):
    write(tmp_path / "work" / "data" / "cifar-10-batches-py", *made)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the given folder", "holds nothing", "data_batch_1", "downloaded")
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "empty"))
    refused(None, "CIFAR10_DIR", "holds nothing")


def test_where_nothing_is_found_every_place_is_told_by_its_whole_path(made, tmp_path):
    message = refused(None, "nobody-listens", "CIFAR10_DIR")
    for place in ("work/data", "data", "keras/datasets/cifar-10-batches-py-target", "cache/cifar-compare"):
        assert f" {tmp_path / place}," in message.replace("\n", ",\n")


@pytest.mark.parametrize("given", ["~/cifar10", "cifar10"])
def test_a_place_that_was_named_is_told_by_its_whole_path(made, tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    refused(given, f"the given folder: {tmp_path / 'work' / 'cifar10'} cannot be read")
    monkeypatch.setenv("CIFAR10_DIR", given)
    refused(None, f"CIFAR10_DIR: {tmp_path / 'work' / 'cifar10'} cannot be read")


def test_a_damaged_usual_place_is_passed_over_with_a_warning(made, tmp_path):
    write(tmp_path / "keras/datasets/cifar-10-batches-py", *made)
    (tmp_path / "keras/datasets/cifar-10-batches-py/data_batch_2").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"passed over: data_batch_2 in .*cut short"):
        refused(None, "data_batch_2 in", "nobody-listens")
    write(tmp_path / "work/data/cifar-10-batches-py", *made)
    with pytest.warns(UserWarning, match="passed over"):
        assert len(load_cifar10().train) == 90


# Files that are not what they should be


def test_missing_files_are_named(folder):
    (folder / "data_batch_4").unlink()
    refused(folder, "'data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_5'", "no file data_batch_4")


@pytest.mark.parametrize("length", [0, 1, 100, 10_000, -1])
def test_truncated_files_are_named(folder, length):
    file = folder / "data_batch_3"
    file.write_bytes(file.read_bytes()[:length])
    refused(folder, "data_batch_3", f"{file.stat().st_size:,} bytes", "cut short", "SHA-256")


def test_one_altered_pixel_or_label_is_noticed(made, folder, tmp_path):
    images, labels = made
    raw = bytearray((folder / "data_batch_1").read_bytes())
    raw[raw.index(images[0, 0, :8, 0].tobytes())] ^= 1
    (folder / "data_batch_1").write_bytes(raw)
    refused(folder, "train images are well formed", data.FINGERPRINTS["train"][:12])
    labels = labels.copy()
    labels[-1] = 0
    refused(write(tmp_path / "other", images, labels), "test images", "labels are not CIFAR-10's")


def test_other_data_sets_are_recognised(made, folder, tmp_path):
    images, labels = made
    (folder / "test_batch").write_bytes(python2_pickle(images[:N], labels[:N], (b"fine_labels", b"data")))
    refused(folder, "test_batch", "CIFAR-100")
    other = tmp_path / "cifar-100-python"
    other.mkdir()
    for name in ("train", "test", "meta"):
        (other / name).touch()
    refused(other, "'meta', 'test', 'train'", "CIFAR-100")
    refused(other.parent, "CIFAR-100")
    refused(pack(other, tmp_path / "other.tar.gz"), "cifar-10-batches-py/meta", "no file data_batch_1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "b'version http"),
        (b"<!DOCTYPE html><html>404</html>", "b'<!DOCTYPE ht"),
        (pickle.dumps([1, 2], 2), "not laid out"),
        (pickle.dumps({b"labels": [0] * N, b"data": None}, 4), "not laid out"),
    ],
    ids=["LFS pointer", "web page", "list", "no array"],
)
def test_other_files_say_how_they_begin(folder, content, reason):
    (folder / "data_batch_1").write_bytes(content)
    refused(folder, "data_batch_1", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda images, labels: (images[:-1], labels[:-1]), "does not hold 20 images"),
        (lambda images, labels: (images, labels[:-1]), "does not hold 20 images"),
        (lambda images, labels: (images, [*labels[:-1], 10]), "labels are not 20 whole numbers"),
        (lambda images, labels: (images[:-1], labels), "not laid out"),
    ],
)
def test_wrong_counts_and_labels_are_refused(made, folder, change, reason):
    images, labels = made
    (folder / "data_batch_1").write_bytes(python2_pickle(*change(images[:N], labels[:N])))
    refused(folder, "data_batch_1", reason)


def test_archives_that_are_none_are_refused(folder, tmp_path):
    whole = pack(folder, tmp_path / "whole.tar.gz").read_bytes()
    for content, reason in (
        (whole[: len(whole) // 2], "ended before"),
        (b"hello", "gzipped"),
        (gzip.compress(b"no tar" * 1000), "gzipped tar"),
        (b"", "gzipped tar"),
    ):
        (tmp_path / "bad.tar.gz").write_bytes(content)
        refused(tmp_path / "bad.tar.gz", "bad.tar.gz cannot be read", reason)
    refused(folder / "data_batch_1", "data_batch_1 cannot be read as a folder or a gzipped tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_not_followed(folder, tmp_path, kind):
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            member = archive.gettarinfo(file, f"cifar-10-batches-py/{file.name}")
            if file.name == "data_batch_1":
                member.type, member.size, member.linkname = kind, 0, str(folder / "data_batch_1")
                archive.addfile(member)
            else:
                archive.addfile(member, io.BytesIO(file.read_bytes()))
    refused(path, "no file data_batch_1")


def test_nothing_of_an_archive_reaches_the_disk(folder, tmp_path):
    path = tmp_path / "escape" / "here.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../out", "/tmp/out-of-cifar", "cifar-10-batches-py/../../out"):
            archive.addfile(tarfile.TarInfo(name))
        for file in sorted(folder.iterdir()):
            archive.add(file, f"./cifar-10-batches-py/{file.name}")
    before = sorted(tmp_path.rglob("*"))
    assert len(load_cifar10(path).train) == 90
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_inflates_without_end_stops_at_the_limit(tmp_path, made, monkeypatch):
    monkeypatch.setattr(batch_files, "_TAR_LIMIT", 1 << 20)
    header = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    header.size = 1 << 33
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20)))
    refused(path, "bomb.tar.gz")


def test_a_tar_that_points_back_at_itself_ends(tmp_path, made):
    header = bytearray(tarfile.TarInfo("round").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # a size of -1024: the next header would lie before this one
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    path = tmp_path / "round.tar.gz"
    path.write_bytes(gzip.compress(bytes(header) * 4))
    began = time.monotonic()
    refused(path, "round.tar.gz")
    assert time.monotonic() - began < 2


# Pickles that want more than to be read


class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile_pickles(target):
    order = f"echo > {target}"
    batch = {b"labels": [0] * N, b"data": np.zeros((N, 3072), np.uint8)}
    objects = np.empty(1, object)
    objects[0] = Call(os.system, order)
    return {
        "os.system": pickle.dumps(Call(os.system, order), 2),
        "os.system beside the data": pickle.dumps({**batch, b"more": Call(os.system, order)}, 2),
        "builtins.eval": pickle.dumps(Call(builtins.eval, f"open({str(target)!r}, 'w')"), 4),
        "builtins.getattr": pickle.dumps(Call(builtins.getattr, batch, "clear"), 4),
        "subprocess": pickle.dumps(Call(subprocess.Popen, ["touch", str(target)]), 4),
        "object array": pickle.dumps({**batch, b"data": objects}, 2),
        "plain object array": pickle.dumps({**batch, b"data": np.full((N, 3072), None, object)}, 2),
        "codecs as a key": pickle.dumps({Call(os.system, order): 1}, 3),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.resize\x93.",
        "numpy.load": b"\x80\x02cnumpy\nload\n" + short(str(target).encode()[:200]) + b"\x85R.",
        "text opcodes": b"cos\nsystem\n(S'" + order.encode() + b"'\ntR.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02Pid\n.",
        "instance": b"\x80\x02(ios\nsystem\n.",
        "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "shape of a terabyte": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x85R.",
        "memo of a terabyte": b"\x80\x02Nr\xff\xff\xff\xff.",
        "string of four gigabytes": b"\x80\x03B\xff\xff\xff\xffabc.",
        "frame of many gigabytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fN.",
        "key that takes for ever to hash": b"\x80\x02}(" + b")" + b"q\x00h\x00h\x00\x86" * 60 + b"Nu.",
        "pairs that double": b"\x80\x02}(Nq\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Nu.",
        "a million lists": b"\x80\x02" + b"]" * 1_000_000 + b".",
        "a million marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "attributes of a class": b"\x80\x02cnumpy\nndarray\nN}(" + short(b"__len__") + b"Nu\x86b.",
        "list within itself": b"\x80\x02]q\x00(h\x00e.",
    }


@pytest.mark.parametrize("name", hostile_pickles("t"))
def test_hostile_pickles_are_refused_and_run_nothing(made, folder, tmp_path, name):
    target = tmp_path / "it-ran"
    (folder / "data_batch_1").write_bytes(hostile_pickles(target)[name])
    began = time.monotonic()
    refused(folder, "data_batch_1", "damaged or foreign")
    assert time.monotonic() - began < 2
    assert not target.exists()


def test_the_refusal_names_what_was_asked_for(folder, tmp_path):
    (folder / "data_batch_1").write_bytes(hostile_pickles(tmp_path / "it-ran")["os.system beside the data"])
    refused(folder, f"'{os.system.__module__}.system', which was refused")


# A server of our own


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    """Serves the archive under /good, trouble under other paths; gives its address and what was asked for."""
    body = pack(folder, tmp_path / "served").read_bytes()
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            wrong = {"/cut": body[: len(body) // 2], "/altered": bytes(len(body)), "/slow": b""}
            self.wfile.write(wrong.get(self.path, body))
            if self.path == "/slow":
                self.wfile.flush()
                time.sleep(1)

        def log_message(self, *args):
            pass

    monkeypatch.setattr(data, "ARCHIVE_SHA256", hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(data, "_TIMEOUT", (0.5, 0.5))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


def test_the_download_is_kept_and_used_again(server, folder, tmp_path, monkeypatch):
    url, asked = server
    monkeypatch.setenv("CIFAR10_URL", f"{url}/good")
    expected = load_cifar10(folder)
    assert same(load_cifar10(), expected)
    assert same(load_cifar10(), expected)
    assert asked == ["/good"]
    assert os.listdir(tmp_path / "cache" / "cifar-compare") == ["cifar-10-python.tar.gz"]


def test_mirrors_are_tried_in_turn(server, monkeypatch):
    url, asked = server
    monkeypatch.delenv("CIFAR10_URL")
    monkeypatch.setattr(data, "MIRRORS", (f"{url}/missing", f"{url}/altered", f"{url}/good", f"{url}/never"))
    assert len(load_cifar10().train) == 90
    assert asked == ["/missing", "/altered", "/good"]


def test_nothing_is_asked_for_where_no_download_is_wanted(server, folder, tmp_path, monkeypatch):
    url, asked = server
    monkeypatch.setenv("CIFAR10_URL", f"{url}/good")
    with pytest.raises(DataError, match="was not to be downloaded"):
        load_cifar10(download=False)
    assert asked == []
    monkeypatch.setenv("CIFAR10_DIR", str(folder))
    assert len(load_cifar10(download=False).train) == 90


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing", "404"), ("altered", "hash"), ("cut", "IncompleteRead"), ("slow", "timed out")],
)
def test_a_failed_download_leaves_nothing_behind(server, tmp_path, monkeypatch, path, reason):
    monkeypatch.setenv("CIFAR10_URL", f"{server[0]}/{path}")
    refused(None, f"{server[0]}/{path}: ", reason, "CIFAR10_DIR")
    assert os.listdir(tmp_path / "cache" / "cifar-compare") == []


def test_an_interrupted_download_leaves_nothing_behind(server, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setenv("CIFAR10_URL", f"{server[0]}/good")
    monkeypatch.setattr("pooch.core.hash_matches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_cifar10()
    assert os.listdir(tmp_path / "cache" / "cifar-compare") == []


def test_every_mirror_that_fails_is_listed_with_its_reason(server, monkeypatch):
    dead = f"http://127.0.0.1:{free_port()}/dead"
    monkeypatch.setenv("CIFAR10_URL", f"{dead} {server[0]}/missing scp://nowhere nonsense")
    message = refused(None, "none of the usual places", "CIFAR10_DIR", data._ARCHIVE)
    lines = [line for line in message.splitlines() if line.startswith("  - ")]
    assert [line.split()[1] for line in lines] == [
        "nothing",
        f"{dead}:",
        f"{server[0]}/missing:",
        "scp://nowhere:",
        "nonsense:",
    ]
    assert "refused" in lines[1]
    assert "404" in lines[2]


# Mutations of good files: whatever comes, it is read or a BatchError

n_fuzz = 2
fuzz_images = np.random.default_rng(0).integers(0, 256, (n_fuzz, 32, 32, 3), np.uint8)
originals = [
    python2_pickle(fuzz_images, [3, 8]),
    *(python3_pickle(fuzz_images, [3, 8], p) for p in (2, 3, 4)),
]
edges = st.one_of(st.integers(0, 300), st.integers(-400, -1), st.integers(0, 10_000))
mutation = st.tuples(
    st.sampled_from(["set", "insert", "cut", "repeat"]),
    edges,
    st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([bytes([c]) for c in range(256)])),
)
fuzz = hypothesis.settings(
    max_examples=FUZZ_CASES,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)


def mutated(raw, mutations):
    raw = bytearray(raw)
    for how, where, what in mutations:
        at = where % (len(raw) + 1)
        if how == "set":
            raw[at : at + len(what)] = what
        elif how == "insert":
            raw[at:at] = what
        elif how == "cut":
            del raw[at : at + what[0]]
        else:
            raw[at:at] = raw[at : at + what[0]]
    return bytes(raw)


@fuzz
@hypothesis.given(st.sampled_from(originals), st.lists(mutation, min_size=1, max_size=5))
def test_mutated_batch_files_raise_only_batch_errors(original, mutations):
    try:
        pixels, labels = batch_files.parse("test_batch", mutated(original, mutations), n_fuzz)
    except batch_files.BatchError:
        return
    assert pixels.shape == (n_fuzz, 3, 32, 32)
    assert pixels.dtype == np.uint8
    assert all(type(label) is int and 0 <= label < 10 for label in labels)


def small_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in batch_files.FILES:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = 10
            member.pax_headers = {"comment": "ü"} if name == "data_batch_1" else {}
            archive.addfile(member, io.BytesIO(b"0123456789"))
    return buffer.getvalue()


@fuzz
@hypothesis.given(st.lists(mutation, min_size=1, max_size=5), st.booleans(), st.booleans())
@hypothesis.example(mutations=[("set", 124, b"\xff")], inside=True, mended=True)  # tarfile: OverflowError
def test_mutated_archives_raise_only_batch_errors(tmp_path, mutations, inside, mended):
    tar = small_tar()
    if inside:
        tar = mutated(tar, mutations)
        if mended:  # with a right checksum the mutation gets through to what reads the header's fields
            tar = tar[:148] + b"%06o\0 " % tarfile.calc_chksums(tar[:512])[0] + tar[156:]
        content = gzip.compress(tar, 1)
    else:
        content = mutated(gzip.compress(tar, 1), mutations)
    path = tmp_path / "archive"
    path.write_bytes(content)
    try:
        files = batch_files.read(path)
    except batch_files.BatchError:
        return
    assert set(files) == set(batch_files.FILES)
    assert all(type(content) is bytes and len(content) <= 2 * len(tar) for content in files.values())


# The real one


def test_pixels_are_those_published(cifar10):
    images = np.concatenate([cifar10.train.images, cifar10.validation.images])
    assert images.shape == (50_000, 32, 32, 3)
    values = np.arange(256) / 255
    for channel, (mean, deviation) in enumerate(
        zip((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784), strict=True)
    ):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        assert share @ values == pytest.approx(mean, abs=5e-9)
        assert np.sqrt(share @ (values - mean) ** 2) == pytest.approx(deviation, abs=5e-9)


def test_classes_are_balanced_and_splits_are_disjoint(cifar10):
    for split, count in ((cifar10.train, 4500), (cifar10.validation, 500), (cifar10.test, 1000)):
        assert np.bincount(split.labels).tolist() == [count] * 10
    train, validation, test = (digests(s.images) for s in (cifar10.train, cifar10.validation, cifar10.test))
    assert len(np.unique(np.concatenate([train, validation, test]))) == 60_000
    assert np.all(np.diff(train) > 0), "sorted by digest"
    for k in range(10):
        assert validation[cifar10.validation.labels == k].max() < train[cifar10.train.labels == k].min()


def test_test_images_are_in_the_original_order(cifar10):
    assert cifar10.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert cifar10.fingerprint == "1f2a8eaf74c6bde55efabc8c612039739a2726e8f89a946e39917a87a8993066"


def test_loading_warns_of_nothing(cifar10):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_cifar10()


class OnAnotherDevice:
    def __array__(self, *_, **__):
        raise RuntimeError("copy it\nfrom the GPU first")


IMAGES, LABELS = np.full((3, 32, 32, 3), 9, np.uint8), np.arange(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Split(IMAGES, LABELS, set(CLASSES)), "expected a list of different names in the order"),
        (Split(IMAGES, LABELS, dict.fromkeys(CLASSES)), "expected a list of different names in the order"),
        (Split(IMAGES.astype("longdouble"), LABELS), "expected RGB pixels"),
        (Split(np.ma.masked_array(IMAGES, IMAGES > 0), LABELS), "some values of split.images are masked"),
        (Split(OnAnotherDevice(), LABELS), r"cannot become a NumPy array \(copy it.nfrom the GPU first\)"),
        (Split(IMAGES.astype("u1,u1"), LABELS), "expected RGB pixels"),
        (Split(IMAGES, OnAnotherDevice()), r"cannot become a NumPy array \(copy it.nfrom the GPU first\)"),
        (Split(IMAGES, np.ma.masked_array(LABELS, [0, 1, 0])), "some values of split.labels are masked"),
        (Split(IMAGES, LABELS.astype("longdouble")), "expected integers"),
        (Split(IMAGES, LABELS.astype("i8,i8")), "expected integers"),
    ],
)
def test_what_is_no_split_is_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as raised:
        checks.split(given)
    assert "\n" not in str(raised.value)


def test_classes_may_be_an_array():
    assert checks.split(Split(IMAGES, LABELS, np.array(CLASSES)))[2] == CLASSES


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ValueError, match="expected a whole number") as raised:
        checks.whole("a\n" * 1000, "batch_size")
    assert len(str(raised.value)) < 200
    assert "\n" not in str(raised.value)

"""Read the six batch files of CIFAR-10, from a folder or an archive, and run nothing that they hold."""

import gzip
import hashlib
import io
import itertools
import pickle
import tarfile
import warnings

import numpy as np

FOLDER = "cifar-10-batches-py"
# SHA-256 of the files as they were published.
SHA256 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}
FILES = tuple(SHA256)

_FILE_LIMIT, _TAR_LIMIT = 64 << 20, 256 << 20  # bytes; CIFAR-10 has 31 MB and 186 MB


class BatchError(ValueError):
    """A source holds no CIFAR-10, or a damaged one; the message says what was found."""


def read(source):
    """The content of the six files.

    Args:
        source: `pathlib.Path` of a folder that holds them, or of a gzipped tar. Reads are bounded, nothing is unpacked.

    Returns:
        dict of bytes by file name.

    Raises:
        BatchError: it cannot be read, or does not hold all six.
    """
    files, names = {}, []
    try:
        if not (source.is_dir() or source.is_file()):
            raise FileNotFoundError("there is no such file or folder")
        if source.is_dir():
            names = sorted(entry.name for entry in source.iterdir())
            for name in (name for name in FILES if (source / name).is_file()):
                with open(source / name, "rb") as file:
                    files[name] = file.read(_FILE_LIMIT)
        else:
            with gzip.open(source) as file:
                tar = file.read(_TAR_LIMIT)
            with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
                for member in itertools.islice(archive, 50):  # crafted headers can send tarfile in circles
                    names.append(member.name.removeprefix("./")[:60])
                    folder, _, name = names[-1].partition("/")
                    if folder == FOLDER and name in FILES and member.isreg():
                        files[name] = tar[member.offset_data : member.offset_data + member.size]
    except Exception as error:  # tarfile alone lets half a dozen kinds through
        raise BatchError(f"cannot be read as a folder or a gzipped tar: {error}") from None
    if missing := [name for name in FILES if name not in files]:
        other = any("cifar-100" in name for name in names) or {"train", "test", "meta"} <= set(names)
        found = f"{names[:9] or 'nothing'}{' and more' * (len(names) > 9)}{' (CIFAR-100, it seems)' * other}"
        raise BatchError(f"holds {found}, but no file {', '.join(missing)}")
    return files


def parse(name, content, n):
    """Pixels, uint8 (n, 3, 32, 32), and labels, list of n ints from 0 to 9, from a batch file's content.

    A file as it was published is unpickled as usual; any other by a reader that runs nothing it asks for.

    Raises:
        BatchError: it is no batch file of CIFAR-10, or not of n images.
    """
    try:
        if hashlib.sha256(content).hexdigest() == SHA256[name]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy 2.4 and later, at how old pickles were aligned
                batch = pickle.loads(content, encoding="bytes")
            return batch[b"data"].reshape(n, 3, 32, 32), batch[b"labels"]
        return _without_running(content, n)
    except pickle.UnpicklingError as error:
        reason = str(error)
    except Exception:
        reason = "it is cut short, or not laid out as CIFAR-10's files are"
    raise BatchError(f"({len(content):,} bytes, first {content[:12]!r}) is damaged or foreign: {reason}")


class _Rationed(dict):
    def __getitem__(self, code):
        self.left -= 1
        if self.left < 0 or code not in self:
            raise pickle.UnpicklingError(f"opcode {bytes([code])!r} is not CIFAR-10's, or one too many")
        return super().__getitem__(code)


class _BatchUnpickler(pickle._Unpickler):
    """Reads a batch file as Python 2 or 3 wrote it; imports, calls and hashes nothing the file asks for.

    Names become text, calls pairs (what, arguments), dictionaries lists (key, value, key, …). The pure
    Python unpickler takes its opcodes from a table, and no index in the file can blow up its memo.
    """

    ADMITTED = """PROTO FRAME STOP MARK NONE NEWFALSE NEWTRUE BININT BININT1 BININT2 BINSTRING SHORT_BINSTRING
        BINBYTES SHORT_BINBYTES BINUNICODE SHORT_BINUNICODE EMPTY_LIST APPENDS TUPLE TUPLE1 TUPLE2 TUPLE3
        BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL
        EMPTY_DICT:EMPTY_LIST SETITEMS:APPENDS REDUCE:TUPLE2 BUILD:TUPLE2"""
    NAMES = """numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct numpy.ndarray
        numpy.dtype _codecs.encode"""

    def __init__(self, raw, ration):
        super().__init__(io.BytesIO(raw), encoding="bytes")
        table = {}
        for name, _, replacement in (word.partition(":") for word in self.ADMITTED.split()):
            table[getattr(pickle, name)[0]] = self.dispatch[getattr(pickle, replacement or name)[0]]
        self.dispatch = _Rationed(table)
        self.dispatch.left = ration

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.NAMES.split():
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'[:60]!r}, which was refused")
        return f"{module}.{name}"


def _spellings(word):
    return word, word.encode(), ("_codecs.encode", (word, "latin1"))  # the last is Python 3's for bytes


def _without_running(content, n):
    items = _BatchUnpickler(content, ration=20 * n + 1000).load()
    pairs = list(zip(items[::2], items[1::2], strict=True)) if type(items) is list else []
    words = ("labels", "data", "fine_labels")
    batch = {word: value for word in words for key, value in pairs if key in _spellings(word)}
    if "fine_labels" in batch:
        raise pickle.UnpicklingError("it is a file of CIFAR-100")
    labels, (_, (_, shape, ((_, (kind, _, _)), _), fortran, pixels)) = batch["labels"], batch["data"]
    pixels = pixels[1][0].encode("latin-1") if isinstance(pixels, tuple) else pixels
    if shape != (n, 3072) or kind not in _spellings("u1") or fortran:
        raise pickle.UnpicklingError(f"it does not hold {n:,} images of 32×32×3 bytes")
    if type(labels) is not list or [type(k) is int and 0 <= k < 10 for k in labels] != [True] * n:
        raise pickle.UnpicklingError(f"its labels are not {n:,} whole numbers from 0 to 9")
    return np.frombuffer(pixels, np.uint8).reshape(n, 3, 32, 32), labels

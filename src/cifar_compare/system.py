"""Small things that several modules need of the machine they run on: files, paths, messages, Keras's settings."""

import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path

_LOCK, _KEPT = threading.Lock(), []  # of `keras_defaults`: the user's settings, once for each context that is open


def write(path, content):
    """Write text or bytes in one step: after a crash there is the old file or the new one, never half of one."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path, value):
    """Write a value as indented JSON, in one step."""
    write(path, json.dumps(value, indent=1) + "\n")


def path_from(variable):
    """The path that an environment variable names, `~` expanded; None where it is unset or empty."""
    value = os.environ.get(variable)
    return Path(os.path.expanduser(value)) if value else None


def upwards(name):
    """The absolute paths of `name` in the working directory and in every folder above it, nearest first."""
    here = Path(os.path.abspath(os.curdir)) if os.path.exists(os.curdir) else Path("/")  # it may have been deleted
    return [folder / name for folder in (here, *here.parents)]


def printable(text, limit=None):
    """Text as one line: line breaks, terminal codes and undecodable bytes are escaped; cut in the middle to `limit`."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    if limit and len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-limit // 2 :]}"
    return text


def shown(value):
    """A value of the caller's as a message shows it: on one line, and not long."""
    return printable(repr(value), 100)


@contextlib.contextmanager
def keras_defaults():
    """Keras's own defaults meanwhile: channels last, float32. Also a decorator.

    Whoever imports us may have set others for their own models; ours must not change with them.
    """
    from keras import config

    policy = config.dtype_policy()  # the thread's; the other two are the process's
    with _LOCK:
        _KEPT.append(_KEPT[0] if _KEPT else (config.image_data_format(), config.floatx()))
        config.set_image_data_format("channels_last")
        config.set_floatx("float32")
    config.set_dtype_policy("float32")
    try:
        yield
    finally:
        config.set_dtype_policy(policy)
        with _LOCK:
            data_format, floatx = _KEPT.pop()
            if not _KEPT:  # no other thread is inside
                config.set_image_data_format(data_format)
                config.set_floatx(floatx)


@contextlib.contextmanager
def no_retracing_warning():
    """Keep TensorFlow from warning that pictures of many sizes make it trace a function anew."""
    logger, wanted = logging.getLogger("tensorflow"), lambda record: "retracing" not in record.getMessage()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def only_python_on_stderr():
    """Silence libraries in C: TensorFlow greets and libtiff complains on the file descriptor itself."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        text = {"encoding": getattr(sys.stderr, "encoding", None), "errors": "backslashreplace"}
        with open(kept, "w", buffering=1, closefd=False, **text) as stderr, contextlib.redirect_stderr(stderr):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)

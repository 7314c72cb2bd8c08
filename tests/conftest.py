import contextlib
import os

import pytest

from cifar_compare.data import load_cifar10


@pytest.fixture(scope="session")
def cifar10():
    if not os.environ.get("CIFAR10_DIR"):
        pytest.skip("CIFAR10_DIR is not set, and tests do not download the 170 MB of CIFAR-10")
    return load_cifar10()


@pytest.fixture
def keras_setting():
    """A context in which one of Keras's global settings is not the default, as in notebooks of other people."""

    @contextlib.contextmanager
    def setting(name):
        from keras import config

        kept = config.image_data_format(), config.floatx(), config.dtype_policy()
        {
            "channels_first": lambda: config.set_image_data_format("channels_first"),
            "mixed_float16": lambda: config.set_dtype_policy("mixed_float16"),
            "float16": lambda: config.set_floatx("float16"),
        }[name]()
        try:
            yield
        finally:
            config.set_image_data_format(kept[0])
            config.set_floatx(kept[1])
            config.set_dtype_policy(kept[2])

    return setting

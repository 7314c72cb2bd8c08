import os

import pytest

from cifar_compare.data import load_cifar10


@pytest.fixture(scope="session")
def cifar10():
    if not os.environ.get("CIFAR10_DIR"):
        pytest.skip("CIFAR10_DIR is not set, and tests do not download the 170 MB of CIFAR-10")
    return load_cifar10()

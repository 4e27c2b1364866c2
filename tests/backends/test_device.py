"""A device that is not there is told before a model is loaded."""

import pytest
import torch

from prefpipe.backends.device import find_device
from prefpipe.errors import UsageError


def test_auto_is_the_gpu_if_there_is_one():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_named_device_is_taken_at_its_word():
    assert find_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="device 'cuda:99' is not available: torch sees"):
        find_device("cuda:99")


def test_a_name_that_is_no_device_is_refused():
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        find_device("gpu")

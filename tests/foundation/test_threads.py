"""The threads of the caller come back, also after an error."""

import pytest
import torch

from ebmeta.foundation.threads import one_thread


def test_threads_come_back():
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)

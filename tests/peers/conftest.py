"""TRL's own loss for the tests that ask for it."""

from collections.abc import Callable

import pytest
from peers import trl_stand_in
from torch import Tensor


@pytest.fixture
def trl_loss() -> Callable[..., Tensor]:
    return trl_stand_in.trl_loss


@pytest.fixture
def trl_advantages() -> Callable[..., Tensor]:
    return trl_stand_in.trl_advantages

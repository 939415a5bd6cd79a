"""The check of value losses, on implementations in the style of public code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected
from torch import Tensor

from pgtheory.checking import Report, UnknownForm, check_value_loss

TRIED = Implementations(check_value_loss)
right, wrong = TRIED.right, TRIED.wrong


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


# --- right ---


@right(remark="with the factor 1/2")
def cleanrl(newvalue: Tensor, b_values: Tensor, b_returns: Tensor, clip_coef: float) -> Tensor:
    unclipped = (newvalue - b_returns) ** 2
    clipped = b_values + torch.clamp(newvalue - b_values, -clip_coef, clip_coef)
    return 0.5 * torch.max(unclipped, (clipped - b_returns) ** 2).mean()


@right(remark="without the factor 1/2")
def rsl_rl(value_batch: Tensor, target_values_batch: Tensor, returns_batch: Tensor, clip_param: float) -> Tensor:
    clipped = target_values_batch + (value_batch - target_values_batch).clamp(-clip_param, clip_param)
    return torch.max((value_batch - returns_batch).pow(2), (clipped - returns_batch).pow(2)).mean()


@right(remark="the maximum of the squared errors")
def verl(vpreds: Tensor, returns: Tensor, values: Tensor, response_mask: Tensor, cliprange_value: float) -> Any:
    clipped = torch.max(torch.min(vpreds, values + cliprange_value), values - cliprange_value)
    losses1, losses2 = (vpreds - returns) ** 2, (clipped - returns) ** 2
    loss = 0.5 * masked_mean(torch.max(losses1, losses2), response_mask)
    return loss, masked_mean((losses2 > losses1).float(), response_mask)


@right(remark="averaged over each row, then over rows")
def openrlhf(values: Tensor, old_values: Tensor, returns: Tensor, action_mask: Tensor, clip_eps: float) -> Tensor:
    clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
    loss = torch.max((clipped - returns) ** 2, (values - returns) ** 2)
    return 0.5 * ((loss * action_mask).sum(-1) / action_mask.sum(-1)).mean()


@right(remark="without a clip")
def mse(values: Tensor, returns: Tensor) -> Tensor:
    return F.mse_loss(returns, values)


@right(remark="the squared error, without a clip")
def half_of_the_mse(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return 0.5 * masked_mean((values - targets) ** 2, mask)


@right(remark="summed")
def squared_error_summed(state_values: Tensor, returns: Tensor) -> Tensor:
    return (returns - state_values).pow(2).sum()


@right(remark="Huber's loss (smooth L1), without a clip")
def smooth_l1(values: Tensor, returns: Tensor) -> Tensor:
    return F.smooth_l1_loss(values, returns)


@right(remark="the maximum of Huber's losses")
def clipped_huber(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.max(
        F.huber_loss(values, returns, reduction="none"), F.huber_loss(clipped, returns, reduction="none")
    ).mean()


@right(remark="with the factor 0.25")
def stable_baselines(values_pred: Tensor, old_values: Tensor, returns: Tensor, clip_range_vf: float) -> Tensor:
    values_pred = old_values + torch.where(
        (values_pred - old_values).abs() < clip_range_vf, values_pred - old_values, values_pred - old_values
    )
    clipped = old_values + torch.clamp(values_pred - old_values, -clip_range_vf, clip_range_vf)
    return 0.25 * torch.max((values_pred - returns) ** 2, (clipped - returns) ** 2).mean()


@right(remark="the squared error, without a clip")
def returns_from_advantages(values: Tensor, advantages: Tensor, old_values: Tensor) -> Tensor:
    return F.mse_loss(values, advantages + old_values)


@right(remark="itself cut at the clip (RLlib)")
def rllib(values: Tensor, returns: Tensor, vf_clip_param: float) -> Tensor:
    return torch.clamp((values - returns) ** 2, 0, vf_clip_param).mean()


@right(remark="the squared error, without a clip")
def in_numpy(values: np.ndarray, returns: np.ndarray) -> float:
    return float(np.mean((np.asarray(values) - np.asarray(returns)) ** 2))


@right(remark="the maximum of the squared errors")
def for_each_step(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (clipped - returns).square())


# --- wrong ---


@wrong("minimum")
def minimum(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.min((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("clipped_alone")
def stable_baselines_3(values: Tensor, old_values: Tensor, returns: Tensor, clip_range_vf: float) -> Tensor:
    """As in Stable-Baselines3, which clips the value alone."""
    return F.mse_loss(returns, old_values + torch.clamp(values - old_values, -clip_range_vf, clip_range_vf))


@wrong("maximum_before_square")
def square_of_the_maximum(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.max(values - returns, clipped - returns).pow(2).mean()


@wrong("clip_ignored")
def clip_around_the_target(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = returns + torch.clamp(values - returns, -clip, clip)
    return torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("clip_ignored")
def old_values_of_the_same_network(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    old = values.detach()
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("error_clamped")
def error_clamped(values: Tensor, returns: Tensor, clip: float) -> Tensor:
    return (values - returns).clamp(-clip, clip).pow(2).mean()


@wrong("clip_of_another_value")
def value_in_per_cent(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    bound = old_values.abs() * clip
    clipped = torch.max(torch.min(values, old_values + bound), old_values - bound)
    return torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("clip_of_another_value")
def clamped_values(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    return torch.max((values - returns) ** 2, (values.clamp(-clip, clip) - returns) ** 2).mean()


@wrong("old_and_new_swapped")
def roles_swapped(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = values + (old_values - values).clamp(-clip, clip)
    return torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()


@wrong("no_gradient")
def detached(values: Tensor, returns: Tensor) -> Tensor:
    return F.mse_loss(values.detach(), returns)


@wrong("target_is_the_old_value")
def fitted_to_itself(values: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
    return F.mse_loss(values, old_values)


@wrong("target_is_the_advantage")
def fitted_to_the_advantage(values: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
    return (values - (returns - old_values)).pow(2).mean()


@wrong("broadcast")
def broadcast(values: Tensor, returns: Tensor) -> Tensor:
    return ((values.reshape(-1) - returns.reshape(-1, 1)) ** 2).mean()


@wrong("maximum_of_means")
def maximum_of_means(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    clipped = old_values + torch.clamp(values - old_values, -clip, clip)
    return torch.max(F.mse_loss(values, returns), F.mse_loss(clipped, returns))


@wrong("mean_over_padding")
def mean_over_everything(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    return ((values - returns) ** 2 * mask).mean()


@wrong("mask_ignored")
def unmasked(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    return F.mse_loss(values, returns)


@wrong("sign")
def negative(values: Tensor, returns: Tensor) -> Tensor:
    return -F.mse_loss(values, returns)


@wrong("")
def absolute_error(values: Tensor, returns: Tensor) -> Tensor:
    return (values - returns).abs().mean()


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TRIED])
def test_the_verdict_is_as_expected(judge: Callable[[], Report | None], verdict: str, said: str) -> None:
    assert_as_expected(judge, verdict, said)


def test_a_clip_that_was_never_stated_is_asked_for_by_its_number() -> None:
    def loss(values: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
        clipped = old_values + (values - old_values).clamp(-0.5, 0.5)
        return torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()

    report = check_value_loss(loss)
    assert report.verdict == "abstains"
    assert "give clip=0.5" in report.abstains
    assert check_value_loss(loss, clip=0.5).ok


def test_the_smallest_case_is_one_in_which_a_loss_without_a_clip_is_wrong() -> None:
    case = check_value_loss(broadcast).counterexample
    assert case is not None
    assert len(case.inputs["values"]) == 2
    errors = torch.as_tensor(case.inputs["values"]) - torch.as_tensor(case.inputs["returns"])
    torch.testing.assert_close(torch.as_tensor(case.expected), errors, rtol=1e-4, atol=1e-6)


BAD = [
    pytest.param(lambda: check_value_loss(lambda a, b: a), UnknownForm, "none of the names", id="unknown-names"),
    pytest.param(
        lambda: check_value_loss(lambda values: values),
        UnknownForm,
        "no argument 'returns' or 'advantages'",
        id="no-returns",
    ),
    pytest.param(lambda: check_value_loss(lambda values, returns: "x"), UnknownForm, "not a loss", id="text"),
    pytest.param(lambda: check_value_loss(3), TypeError, "takes a callable", id="no-function"),  # type: ignore[arg-type]
    pytest.param(lambda: check_value_loss(mse, names={"x": "values"}), ValueError, "does not take", id="no-such"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_wrong_argument_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

"""`check_whitening`: right forms pass and are told apart, known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.whitening import check_whitening


def masked_mean(values, mask, axis=None):
    return (values * mask).sum(axis) / mask.sum(axis)


def masked_var(values, mask, unbiased=True):
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    if unbiased:
        n = mask.sum()
        if n == 0:
            raise ValueError("At least one element in the mask has to be 1.")
        if n == 1:
            raise ValueError("The sum of the mask is one, which can cause a division by zero.")
        variance = variance * (n / (n - 1))
    return variance


def trl(values, mask, shift_mean=True):
    mean, var = masked_mean(values, mask), masked_var(values, mask, False)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def verl(values, mask, shift_mean=True):
    mean, var = masked_mean(values, mask), masked_var(values, mask)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def slime(values, mask, process_group=None, shift_mean=True, epsilon=1e-8):
    local_sum, local_sq, n = (values * mask).sum(), (values**2 * mask).sum(), mask.sum()
    mean = local_sum / n
    var = local_sq / n - mean**2
    if n >= 2:
        var = var * n / (n - 1)
    whitened = (values - mean) * torch.rsqrt(var + epsilon)
    return whitened if shift_mean else whitened + mean


def open_rlhf(advantages, action_mask):
    num_actions = action_mask.sum()
    mean = (advantages * action_mask).sum() / num_actions
    std = ((advantages - mean).pow(2) * action_mask).sum()
    rstd = (std / num_actions).clamp(min=1e-8).rsqrt()
    return (advantages - mean) * rstd


def selected(adv, mask):
    kept = torch.masked_select(adv, mask)
    return torch.where(mask, (adv - kept.mean()) / (kept.std() + 1e-5), 0.0)


def numpy_form(values, mask):
    values, mask = np.asarray(values), np.asarray(mask)
    kept, out = values[mask], np.zeros_like(values)
    out[mask] = (kept - kept.mean()) / (kept.std() + 1e-8)
    return out


def cleanrl(advantages):
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def sb3(advantages):
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return advantages


def padded(values, padding_mask):
    """`padding_mask` is True where there is padding."""
    kept = values[~padding_mask]
    return (values - kept.mean()) / (kept.std() + 1e-8)


def float32(values, response_mask):
    return verl(values.float(), response_mask.float())


def nan_filled(values, mask):
    x = torch.where(mask, values, torch.nan)
    mean = x.nanmean()
    return (values - mean) / ((x - mean) ** 2).nanmean().sqrt().clamp(min=1e-6)


RIGHT = {
    "TRL": (trl, "ddof 0"),
    "verl": (verl, "ddof 1"),
    "slime": (slime, "ddof 1"),
    "OpenRLHF": (open_rlhf, "ddof 0"),
    "selected": (selected, "ddof 1"),
    "numpy": (numpy_form, "ddof 0"),
    "CleanRL": (cleanrl, "ddof 1"),
    "SB3": (sb3, "ddof 1"),
    "float32": (float32, "ddof 1"),
    "nan": (nan_filled, "ddof 0"),
    "mean added back": (lambda values, mask: trl(values, mask, False), "the mean is added back"),
    "rows": (
        lambda values, mask: torch.stack([trl(v, m) for v, m in zip(values, mask, strict=True)]),
        "each row is whitened by itself",
    ),
}


@pytest.mark.parametrize(("function", "kind"), RIGHT.values(), ids=RIGHT)
def test_a_right_form_passes_and_is_told(function, kind):
    report = check_whitening(function)
    assert report.ok, report
    assert kind in str(report), report


def skyrl(advantages, response_mask):
    num_actions = response_mask.sum()
    mean = advantages.mean()  # with the padding
    std = ((advantages - mean).pow(2) * response_mask).sum()
    rstd = (std / num_actions).clamp(min=1e-8).rsqrt()
    return (advantages - mean) * rstd


def zeroed(values, mask):
    x = values * mask
    return (x - x.mean()) / (x.std() + 1e-8)


def variance_with_padding(values, mask):
    mean = masked_mean(values, mask)
    return (values - mean) * torch.rsqrt((values - mean).pow(2).mean() + 1e-8) * mask


WRONG = {
    "SkyRL": (skyrl, "padding_in_one"),
    "variance": (variance_with_padding, "padding_in_one"),
    "no mask": (lambda values, mask: cleanrl(values) * mask, "mask_ignored"),
    "zeros": (zeroed, "zeros_counted"),
    "zeros in the mean": (lambda values, mask: (values * mask - (values * mask).mean(1, True)) * mask, ""),
    "no root": (
        lambda values, mask: (values - masked_mean(values, mask)) / (masked_var(values, mask, False) + 1e-8),
        "no_root",
    ),
    "root twice": (
        lambda values, mask: (values - masked_mean(values, mask)) / masked_var(values, mask, False).sqrt().sqrt(),
        "root_twice",
    ),
    "not centred": (lambda values, mask: values * torch.rsqrt(masked_var(values, mask, False) + 1e-8), "not_centred"),
    "not scaled": (lambda values, mask: (values - masked_mean(values, mask)) * mask, "not_scaled"),
    "columns": (
        lambda values, mask: torch.stack([trl(v, m) for v, m in zip(values.T, mask.T, strict=True)], 1),
        "per_column",
    ),
    "columns without a mask": (
        lambda advantages: (advantages - advantages.mean(0)) / (advantages.std(0) + 1e-8),
        "per_column",
    ),
    "squared twice": (lambda values, mask: trl(values, mask) ** 2, ""),
    "inverted": (lambda values, mask: trl(values, ~mask), "padding_alone"),
}


@pytest.mark.parametrize(("function", "key"), WRONG.values(), ids=WRONG)
def test_a_wrong_form_is_named(function, key):
    report = check_whitening(function, layout="[B, T]")
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"whitening.{key}"] * bool(key), report


def test_where_epsilon_stands_is_reported():
    assert check_whitening(trl).details["ε"] == "1e-08, added to the variance"
    assert check_whitening(selected).details["ε"] == "1e-05, added to the deviation"
    assert "ε" not in check_whitening(open_rlhf).details


def test_a_padding_mask_has_to_be_declared():
    with pytest.raises(UnknownForm, match="names="):
        check_whitening(padded).raise_if_wrong()
    assert check_whitening(padded, names={"padding_mask": "padding"}).ok


def test_a_function_without_a_mask_is_tried_without_padding():
    assert "it takes no mask: padding was not tried" in check_whitening(cleanrl).remarks


@pytest.mark.parametrize("function", [lambda values, mask: 0.0, lambda values, mask: None, lambda a, b: a])
def test_what_is_no_whitening_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_whitening(function)

"""`check_masked_mean`: which mean a right one is, is said; known mistakes are named."""

# Each function is written in the form of a public one, with that one's names.
import numpy as np
import pytest
import torch

from pgtheory.checking import UnknownForm
from pgtheory.checking.kinds.masked_mean import check_masked_mean


def trl(values, mask, axis=None):
    return (
        (values * mask).sum(axis=axis) / mask.sum(axis=axis) if axis is not None else (values * mask).sum() / mask.sum()
    )


def verl(values, mask, axis=None):
    return (values * mask).sum(axis) / (mask.sum(axis) + 1e-8)


def open_rlhf(tensor, mask, dim=None):
    if dim is not None:
        return (tensor * mask).sum(axis=dim) / mask.sum(axis=dim)
    return (tensor * mask).sum() / mask.sum()


def grpo(per_token_loss, completion_mask):
    return ((per_token_loss * completion_mask).sum(-1) / completion_mask.sum(-1).clamp(min=1.0)).mean()


def verl_seq_mean(loss_mat, loss_mask):
    seq_mask = torch.sum(loss_mask, dim=-1)
    seq_losses = torch.sum(loss_mat * loss_mask, dim=-1) / (seq_mask + 1e-8)
    seq_mask = (seq_mask > 0).float()
    return (seq_losses * seq_mask).sum() / seq_mask.sum()


def verl_seq_sum(loss_mat, loss_mask):
    return torch.mean(torch.sum(loss_mat * loss_mask, dim=-1))


def dr_grpo(per_token_loss, mask, max_completion_length):
    return (per_token_loss * mask).sum() / (per_token_loss.size(0) * max_completion_length)


def budget(values, mask, denominator):
    return (values * mask).sum() / denominator


def selected(x, valid):
    return x[valid].mean()


def numpy_average(values, mask):
    return np.average(values, weights=mask)


def numpy_masked(values, mask):
    return np.ma.array(values, mask=~mask).mean()


def where(values, mask):
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def lists(values, mask):
    kept = [v for row, taken in zip(values, mask, strict=True) for v, m in zip(row, taken, strict=True) if m]
    return sum(kept) / len(kept)


def rows(values, mask):
    return (values * mask).sum(dim=1) / mask.sum(dim=1)


RIGHT = {
    "TRL": (trl, "a mean over all tokens"),
    "verl": (verl, "a mean over all tokens"),
    "OpenRLHF": (open_rlhf, "a mean over all tokens"),
    "TRL grpo": (grpo, "rows without tokens counted as 0"),
    "verl seq-mean-token-mean": (verl_seq_mean, "rows without tokens left out"),
    "verl seq-mean-token-sum": (verl_seq_sum, "a mean over the rows of the sum"),
    "dr_grpo": (dr_grpo, "rows times a budget"),
    "budget": (budget, "divided by a constant"),
    "selected": (selected, "a mean over all tokens"),
    "numpy": (numpy_average, "a mean over all tokens"),
    "numpy masked": (numpy_masked, "a mean over all tokens"),
    "where": (where, "a mean over all tokens"),
    "lists": (lists, "a mean over all tokens"),
    "rows": (rows, "one number for each row"),
}


@pytest.mark.parametrize(("function", "kind"), RIGHT.values(), ids=RIGHT)
def test_a_right_mean_passes_and_is_told(function, kind):
    report = check_masked_mean(function)
    assert report.ok, report
    assert kind in str(report.remarks), report


WRONG = {
    "d2l": (lambda values, mask: (values * mask).mean(), "padding_in_the_denominator"),
    "d2l rows": (lambda values, mask: (values * mask).mean(dim=1).mean(), "padding_in_the_denominator"),
    "no mask": (lambda values, mask: values.mean(), "mask_ignored"),
    "ROLL": (lambda loss_mat, loss_mask: loss_mat.sum() / loss_mask.sum(), "padding_in_the_numerator"),
    "voicebox": (lambda loss, mask: loss.masked_fill(mask, 0.0).sum() / mask.sum(), "inverted_in_the_numerator"),
    "inverted": (lambda values, mask: values[~mask].mean(), "inverted"),
    "DGI": (lambda seq, msk: (torch.sum(seq * msk, 1) / torch.sum(msk)).mean(), "divided_twice"),
    "twice": (lambda values, mask: (values * mask).mean() / mask.sum(), "divided_twice"),
    "width": (lambda loss_mat, loss_mask: (loss_mat * loss_mask).sum(-1).sum() / loss_mask.shape[-1], "padded_width"),
    "not zero": (lambda values, mask: (x := values * mask)[x != 0].mean(), "zeros_left_out"),
    "sum": (lambda values, mask: (values * mask).sum(), "not_divided"),
    "columns": (lambda values, mask: ((values * mask).sum(0) / mask.sum(0).clamp(min=1)).mean(), "columns_first"),
    "one more": (lambda values, mask: (values * mask).sum() / (mask.sum() + 1), ""),
    "median": (lambda values, mask: values[mask].median(), ""),
}


@pytest.mark.parametrize(("function", "key"), WRONG.values(), ids=WRONG)
def test_a_wrong_mean_is_named(function, key):
    names = (
        {"seq": "values", "msk": "mask"} if key == "divided_twice" and "seq" in function.__code__.co_varnames else {}
    )
    report = check_masked_mean(function, names=names)
    assert report.verdict == "wrong", report
    assert [m.key for m in report.mistakes] == [f"masked_mean.{key}"] * bool(key), report


def test_a_mask_that_multiplies_lets_nan_through_and_is_remarked():
    through = "it is not finite where padding holds NaN or an infinity: select by the mask instead of multiplying"
    assert through in check_masked_mean(trl).remarks
    assert through not in check_masked_mean(where).remarks


@pytest.mark.parametrize(
    "function", [lambda values, mask: values, lambda values, mask: "7", lambda values: values.mean()]
)
def test_what_is_no_masked_mean_is_not_understood(function):
    with pytest.raises(UnknownForm):
        check_masked_mean(function)

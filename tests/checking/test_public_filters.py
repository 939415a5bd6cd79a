"""Filters and policies in the manner of public code of 2025-26, written without a look at the checks."""

# mypy: ignore-errors
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_style import Implementations, assert_as_expected

from pgtheory.checking import check_softmax, check_top_k, check_top_p

TOP_K = Implementations(check_top_k)
TOP_P = Implementations(check_top_p)
SOFTMAX = Implementations(check_softmax)


@TOP_K.right("vLLM #50979 (before): strict threshold")
def vllm_topk_only(logits, k):
    k = min(k, logits.shape[-1])
    thr = logits.sort(dim=-1).values[..., logits.shape[-1] - k].unsqueeze(-1)
    return logits.masked_fill(logits < thr, -float("inf"))


@TOP_K.right("sglang fallback: rank truncation in sorted order, zeroed probs, renormalised")
def sgl_renorm(probs, top_k):
    s, idx = probs.sort(dim=-1, descending=True)
    s = s.masked_fill(torch.arange(s.shape[-1]) >= top_k, 0.0)
    s = s / s.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, idx, s)


@TOP_K.wrong("softmax_twice")
def sgl_unnorm_square(probs, top_k):
    v, i = torch.topk(probs, top_k)
    v = F.softmax(v, dim=-1)  # softmax of probabilities
    return torch.zeros_like(probs).scatter(-1, i, v)


@TOP_K.right("nanoGPT sample: (values, indices) tuple with renormalised probs")
def pair(logits, k):
    v, i = torch.topk(logits, min(k, logits.size(-1)))
    return F.softmax(v, -1), i


@TOP_K.wrong("softmax_twice", "lightning-bolts #654")
def pair_double(logits, k):
    p = F.softmax(logits, -1)
    v, i = torch.topk(p, k)
    return F.softmax(v, -1), i


@TOP_K.wrong("one_too_many", "mesh-transformer-jax #164")
def off_by_one(logits, top_k):
    order = np.argsort(-np.asarray(logits), axis=-1)
    rank = np.argsort(order, axis=-1)
    return np.where(rank > top_k, -1e10, logits)


@TOP_K.right("llama.cpp python ports: partial sort on list of floats, one row")
def llama_list(logits, k):
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))[: max(1, k)]
    keep = set(order)
    return [float(x) if i in keep else float("-inf") for i, x in enumerate(logits)]


@TOP_K.wrong("least_probable_kept", "np.argsort without reverse, homework")
def ascending(logits, k):
    idx = np.argsort(logits, axis=-1)[..., :k]
    out = np.full_like(logits, -np.inf)
    np.put_along_axis(out, idx, np.take_along_axis(np.asarray(logits), idx, -1), -1)
    return out


@TOP_K.wrong("zero_instead_of_minus_inf", "logits * mask, minGPT #10")
def times_mask(logits, k):
    v, _ = torch.topk(logits, k, dim=-1)
    return logits * (logits >= v[..., -1:])


@TOP_K.wrong("threshold_of_another_row", "topk on flattened logits")
def flat(logits, k):
    thr = logits.flatten().topk(k).values[-1]
    return logits.masked_fill(logits < thr, -torch.inf)


@TOP_K.right("class with __call__(input_ids, scores) (transformers LogitsProcessor form)")
class MyTopK:
    def __init__(self, top_k, filter_value=-float("inf"), min_tokens_to_keep=1):
        self.top_k, self.filter_value = max(top_k, min_tokens_to_keep), filter_value

    def __call__(self, input_ids, scores):
        k = min(self.top_k, scores.size(-1))
        return scores.masked_fill(scores < torch.topk(scores, k)[0][..., -1, None], self.filter_value)


@TOP_K.wrong("multiplied_by_temperature", "temperature inverted")
def temp_mult(logits, temperature, top_k):
    logits = logits * temperature
    v, _ = torch.topk(logits, min(top_k, logits.shape[-1]))
    return torch.where(logits < v[..., -1:], torch.full_like(logits, -torch.inf), logits)


@TOP_K.right("mlx-lm apply_top_k on logprobs (argpartition)")
def mlx_topk(logprobs, top_k):
    lp = np.array(logprobs, dtype=float)
    if top_k >= lp.shape[-1]:
        return lp
    idx = np.argpartition(-lp, kth=top_k - 1, axis=-1)[..., top_k:]
    np.put_along_axis(lp, idx, -np.inf, -1)
    return lp


@TOP_K.right("returns a boolean keep mask")
def keep_mask(logits, k):
    idx = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, idx, True)


@TOP_K.right(remark="its mask is True for the tokens that it removes")
def keep_mask_inverted(logits, k):
    idx = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    return torch.ones_like(logits, dtype=torch.bool).scatter(-1, idx, False)


@TOP_K.right("mutates logits in place (nanoGPT)")
def nanogpt(logits, top_k):
    v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
    logits[logits < v[:, [-1]]] = -float("inf")
    return logits


@TOP_K.right("fused top_k_top_p_filtering with defaults")
def fused_k(logits, top_k=0, top_p=1.0, filter_value=-float("inf")):
    if top_k > 0:
        logits = logits.masked_fill(logits < torch.topk(logits, min(top_k, logits.size(-1)))[0][..., -1:], filter_value)
    if top_p < 1.0:
        s, i = torch.sort(logits, descending=True)
        c = s.softmax(-1).cumsum(-1)
        rm = c - s.softmax(-1) >= top_p
        logits = logits.masked_fill(rm.scatter(-1, i, rm), filter_value)
    return logits


@TOP_K.wrong("one_too_few", "strict: logits <= kth removed")
def le_removed(logits, k):
    v = logits.topk(k, -1).values[..., -1:]
    return logits.masked_fill(logits <= v, -math.inf)


@TOP_K.wrong("", "topk of |logits|")
def by_abs(logits, k):
    i = logits.abs().topk(k, -1).indices
    return torch.full_like(logits, -math.inf).scatter(-1, i, logits.gather(-1, i))


@TOP_K.wrong("", "k at most V - 1")
def clip_to_v_minus_1(logits, k):
    k = min(k, logits.shape[-1] - 1)
    v = logits.topk(k, -1).values[..., -1:]
    return logits.masked_fill(logits < v, -math.inf)


@TOP_P.wrong("crossing_token_dropped", "esm #360")
def esm(logits, top_p):
    s, i = logits.sort(dim=-1, descending=True)
    mask = s.softmax(-1).cumsum(-1) <= top_p
    mask[..., 0] = True
    keep = torch.zeros_like(mask).scatter(-1, i, mask)
    return logits.masked_fill(~keep, torch.finfo(logits.dtype).min)


@TOP_P.right("C2C #21 mended: mass before < p")
def c2c(probs, top_p):
    s, i = torch.sort(probs, descending=True)
    keep = (s.cumsum(-1) - s) < top_p
    s = s * keep
    s = s / s.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, i, s)


@TOP_P.right("transformers TopPLogitsWarper: ascending order, <= 1 - p")
def hf_asc(scores, top_p, min_tokens_to_keep=1):
    s, i = torch.sort(scores, descending=False)
    cum = s.softmax(dim=-1).cumsum(dim=-1)
    rm = cum <= (1 - top_p)
    rm[..., -min_tokens_to_keep:] = 0
    return scores.masked_fill(rm.scatter(-1, i, rm), -float("inf"))


@TOP_P.wrong("not_sorted", "homework")
def unsorted(logits, p):
    cum = logits.softmax(-1).cumsum(-1)
    rm = cum > p
    rm[..., 1:] = rm[..., :-1].clone()
    rm[..., 0] = False
    return logits.masked_fill(rm, -math.inf)


@TOP_P.wrong("mask_not_scattered_back", "fastai/transformers gist bug: sorted mask applied to unsorted logits")
def no_scatter(logits, p):
    s, _ = logits.sort(descending=True)
    rm = s.softmax(-1).cumsum(-1) > p
    rm[..., 1:] = rm[..., :-1].clone()
    rm[..., 0] = False
    return logits.masked_fill(rm, -math.inf)


@TOP_P.wrong("", "a shift in place without clone")
def loop_shift(logits, p):
    s, i = logits.sort(descending=True)
    rm = s.softmax(-1).cumsum(-1) > p
    for j in range(1, rm.shape[-1]):  # forward in place: propagates the first False
        rm[..., j] = rm[..., j - 1]
    rm[..., 0] = False
    return logits.masked_fill(torch.zeros_like(rm).scatter(-1, i, rm), -math.inf)


@TOP_P.wrong("greedy_at_one", "ChatRWKV #170")
def rwkv(probs, top_p):
    probs = np.asarray(probs, dtype=float)
    s = np.sort(probs)[::-1]
    cutoff = float(s[np.argmax(np.cumsum(s) > top_p)])
    out = probs.copy()
    out[probs < cutoff] = 0
    return out / out.sum()


@TOP_P.right("RWKV mended: argmax(cum >= p)")
def rwkv_mended(probs, top_p):
    probs = np.asarray(probs, dtype=float)
    s = np.sort(probs)[::-1]
    c = np.cumsum(s)
    k = int(np.argmax(c >= top_p - 1e-12)) if (c >= top_p - 1e-12).any() else len(s) - 1
    out = probs.copy()
    out[probs < s[k]] = 0
    return out / out.sum()


@TOP_P.wrong("temperature_after_truncation", "order of warpers")
def temp_after(logits, temperature, top_p):
    s, i = logits.sort(descending=True)
    p = s.softmax(-1)
    rm = (p.cumsum(-1) - p) >= top_p
    out = logits.masked_fill(torch.zeros_like(rm).scatter(-1, i, rm), -math.inf)
    return out / temperature


@TOP_P.right("temperature first")
def temp_first(logits, temperature, top_p):
    z = logits / temperature
    s, i = z.sort(descending=True)
    p = s.softmax(-1)
    rm = (p.cumsum(-1) - p) >= top_p
    return z.masked_fill(torch.zeros_like(rm).scatter(-1, i, rm), -math.inf)


@TOP_P.wrong("", "confusion with min-p/typical")
def eps_cut(probs, p):
    keep = probs >= (1 - p) * probs.max(-1, keepdim=True).values
    q = probs * keep
    return q / q.sum(-1, keepdim=True)


@TOP_P.right("returns (sorted probs, indices) with zeros")
def sorted_pair(probs, p):
    s, i = torch.sort(probs, dim=-1, descending=True)
    s = s.masked_fill(s.cumsum(-1) - s >= p, 0.0)
    return s / s.sum(-1, keepdim=True), i


@TOP_P.wrong("nothing_removed", "pair in wrong order")
def sorted_pair_bad(probs, p):
    s, i = torch.sort(probs, dim=-1, descending=True)
    s = s.masked_fill(s.cumsum(-1) - s > p, 0.0)
    return s.flip(-1) / s.sum(-1, keepdim=True), i


@TOP_P.right("pure python list form")
def py_list(probs, p):
    order = sorted(range(len(probs)), key=lambda j: -float(probs[j]))
    total, keep = 0.0, []
    for j in order:
        keep.append(j)
        total += float(probs[j])
        if total >= p - 1e-12:
            break
    return [float(probs[j]) / total if j in keep else 0.0 for j in range(len(probs))]


@TOP_P.wrong("softmax_missing", "homework")
def no_softmax(logits, top_p):
    s, i = logits.sort(descending=True)
    rm = s.cumsum(-1) > top_p
    rm[..., 1:] = rm[..., :-1].clone()
    rm[..., 0] = False
    return logits.masked_fill(torch.zeros_like(rm).scatter(-1, i, rm), -math.inf)


@TOP_P.right("fused top_k_top_p_filtering with defaults")
def fused_p(logits, top_k=0, top_p=1.0, filter_value=-float("inf")):
    return fused_k(logits, top_k, top_p, filter_value)


@TOP_P.right("row p tensor (vLLM apply_top_p ascending, last never removed)")
def vllm_p(logits, p):
    s, i = logits.sort(dim=-1, descending=False)
    c = s.softmax(-1).cumsum(-1)
    rm = c <= 1 - p.unsqueeze(1)
    rm[:, -1] = False
    s = s.masked_fill(rm, -math.inf)
    return torch.empty_like(s).scatter_(-1, i, s)


@TOP_P.wrong("crossing_token_dropped", "no guarantee of one token: (cum < p)")
def keep_none(probs, top_p):
    s, i = torch.sort(probs, descending=True)
    keep = s.cumsum(-1) < top_p
    s = torch.where(keep, s, 0.0)
    return torch.zeros_like(probs).scatter(-1, i, s) / s.sum(-1, keepdim=True)


@TOP_P.wrong("temperature_twice_in_the_nucleus")
def temp_twice(logits, temperature, top_p):
    z = logits / temperature
    s, i = z.sort(descending=True)
    pr = (s / temperature).softmax(-1)
    rm = pr.cumsum(-1) - pr >= top_p
    return z.masked_fill(torch.zeros_like(rm).scatter(-1, i, rm), -math.inf)


@TOP_P.wrong("", "cutoff logits strict")
def cutoff_strict(probs, p):
    s = probs.sort(-1, descending=True).values
    n = ((s.cumsum(-1) - s) < p).sum(-1, keepdim=True)
    cut = s.gather(-1, n - 1)
    q = torch.where(probs > cut, probs, 0.0)
    return q / q.sum(-1, keepdim=True)


@SOFTMAX.right("numpy stable softmax with temperature")
def np_softmax(x, temperature=1.0):
    z = np.asarray(x) / temperature
    z = z - z.max(axis=-1, keepdims=True)
    e = np.exp(z)
    return e / e.sum(axis=-1, keepdims=True)


@SOFTMAX.wrong("no_maximum_subtracted", "Truxify #11388")
def np_overflow(logits):
    return np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)


@SOFTMAX.right("np.sum without axis", remark="wrong numbers without an error")
def np_no_axis(logits):
    e = np.exp(logits - np.max(logits))
    return e / e.sum()


@SOFTMAX.right("invalid action masking (Huang & Ontañón): torch.where(mask, logits, -1e8)")
def masked_where(logits, action_mask):
    return torch.softmax(torch.where(action_mask.bool(), logits, torch.tensor(-1e8, dtype=logits.dtype)), -1)


@SOFTMAX.wrong("masked_set_to_zero", "stable-baselines #505: logit of zero is no zero probability")
def masked_zero(logits, action_mask):
    return torch.softmax(logits * action_mask, -1)


@SOFTMAX.wrong("mask_after_without_renormalising", "open_spiel #127")
def masked_after(logits, legal_actions_mask):
    return torch.softmax(logits, -1) * legal_actions_mask


@SOFTMAX.right("Categorical(logits).probs")
def categorical(logits):
    return torch.distributions.Categorical(logits=logits).probs


@SOFTMAX.wrong("applied_twice", "lightning-bolts #654")
def categorical_twice(logits):
    return torch.distributions.Categorical(logits=torch.softmax(logits, -1)).probs


@SOFTMAX.right("log form, logsumexp with mask added (1 - mask) * -1e9")
def additive(logits, mask):
    z = logits + (1.0 - mask.to(logits.dtype)) * -1e9
    return z - torch.logsumexp(z, -1, keepdim=True)


@SOFTMAX.wrong("logarithm_of_zero", "log of probabilities instead of log_softmax")
def log_of_softmax(logits):
    return torch.log(torch.softmax(logits, -1))


@SOFTMAX.wrong("", "awjuliani #34: policy += 1e-7; coach #451")
def plus_eps(logits):
    return torch.softmax(logits, -1) + 1e-3


@SOFTMAX.wrong("multiplied_by_temperature", "inverse temperature confusion")
def beta(logits, temperature):
    return torch.softmax(logits * temperature, -1)


@SOFTMAX.wrong("", "stability hack")
def clamped(logits):
    return torch.softmax(logits.clamp(-10, 10), -1)


@SOFTMAX.right("list comprehension math.exp with max")
def pylist(prefs):
    m = max(prefs)
    e = [math.exp(p - m) for p in prefs]
    return [x / sum(e) for x in e]


@SOFTMAX.wrong("wrong_axis", "np softmax axis=0")
def axis0(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


@SOFTMAX.wrong("mask_inverted", "available read as invalid")
def inv(logits, action_mask):
    return torch.softmax(logits.masked_fill(action_mask.bool(), -1e9), -1)


@SOFTMAX.wrong("", "(1-eps) softmax + eps/n")
def mixed(logits):
    p = torch.softmax(logits, -1)
    return 0.9 * p + 0.1 / p.shape[-1]


@pytest.mark.parametrize(("judge", "verdict", "said"), [*TOP_K, *TOP_P, *SOFTMAX])
def test_the_verdict_is_as_expected(judge, verdict, said):
    assert_as_expected(judge, verdict, said)

r"""Chapter 10: a causal language model is a policy; its completions sampled, scored and enumerated.

The state is the prompt and the tokens so far, an action is the next token, and the discount is 1. A model is whatever
answers `model(input_ids=..., attention_mask=...)` with an object that has `logits`: see `CausalLM`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pgtheory import _checks
from pgtheory._masks import taken
from pgtheory._precision import wide
from pgtheory.decoding import decoding_logits, sample
from pgtheory.softmax_policy import entropy
from pgtheory.token_log_probs import token_log_probs
from pgtheory.trajectories import ENUMERATION_LIMIT

__all__ = [
    "CausalLM",
    "Completions",
    "completion_entropies",
    "completion_kl",
    "completion_log_probs",
    "enumerate_completions",
    "sample_completions",
    "token_tree_logits",
]


class CausalLM(Protocol):
    r"""A model that gives, after each token of a sequence, the logits of the next.

    It is called with `input_ids` [N, L] and `attention_mask` [N, L], which is 0 at padding, and returns an object with
    `logits` [N, L, V]. Every causal model of Hugging Face does so, with or without the adapters of `peft`.

    Nothing else is assumed. Where `forward` takes them, it is also given `position_ids` (padding is on the left, and
    positions count from the first token that is not padding; a model that does not take them has to count so itself),
    `logits_to_keep` (how many of the last positions are wanted) and `use_cache`; and where it then returns
    `past_key_values` that have the method `batch_repeat_interleave`, it gets them back.

    Example:
        >>> from types import SimpleNamespace
        >>> def uniform(input_ids, attention_mask):
        ...     return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))
        >>> sample_completions(uniform, [torch.tensor([0])], 3, max_tokens=5).log_probs.shape
        torch.Size([1, 3, 5])
    """

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        """The logits of the next token after each."""
        ...


class Completions(NamedTuple):
    r"""K completions of each of B prompts.

    Prompts are padded on the left, completions on the right. A completion has `terminated` if its last token is an end
    token, and was `truncated` if it was cut off after T tokens without one; each is exactly one of the two. Both are
    how it ended, for a reward to read: the episode is over either way.

    Attributes:
        prompts: the tokens of the prompts; 0 where `prompt_mask` is False.
        prompt_mask: where a prompt has a token.
        tokens: the tokens of the completions, the end token included; 0 where `mask` is False.
        mask: where a token was generated.
        log_probs: the log-probability of each token in the decoding distribution that it was drawn from; 0 elsewhere.
        terminated: whether an end token was drawn.
        truncated: whether the length limit cut it off.

    Example:
        >>> Completions._fields
        ('prompts', 'prompt_mask', 'tokens', 'mask', 'log_probs', 'terminated', 'truncated')
    """

    prompts: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    tokens: Int[Tensor, "B K T"]
    mask: Bool[Tensor, "B K T"]
    log_probs: Float[Tensor, "B K T"]
    terminated: Bool[Tensor, "B K"]
    truncated: Bool[Tensor, "B K"]

    @property
    def lengths(self) -> Int[Tensor, "B K"]:
        """The number of tokens of each completion, the end token included."""
        return self.mask.sum(-1)

    def at(self, prompts: Tensor | slice | Sequence[int]) -> "Completions":
        """The completions of some of the prompts."""
        return Completions(*(field[prompts] for field in self))


def sample_completions(
    model: CausalLM,
    prompts: Sequence[Int[Tensor, "P"]],
    size: int,
    *,
    max_tokens: int,
    end: int | Sequence[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Completions:
    r"""Draw `size` completions of each prompt, token by token, from the decoding distribution of the model.

    The prompts are read once; what the model remembers of them, its cache of keys and values, is repeated over the
    group. No gradient is recorded, and the mode of the model (`train` or `eval`) is left as it is. A completion has the
    probability of :eq:`eq-completion-probability`, with the decoding distribution in place of the policy.

    Args:
        model: the language model, a `CausalLM`.
        prompts: the tokens of each prompt, at least one, on the device of the model.
        size: the number K of completions of each prompt.
        max_tokens: the length limit T; all fields are padded to it.
        end: the token that ends a completion, or several; None if only the length limit does.
        temperature: as in `decoding_logits`, as are the next two.
        top_k: how many tokens are kept.
        top_p: the mass that the kept tokens have to reach.
        generator: the source of the random numbers, on the device of the model.

    Returns:
        The completions, with the log-probabilities of the distribution that each token was drawn from.

    Raises:
        ValueError: there is no prompt, or one is empty or has a negative token; a count is less than 1; `end` is
            negative; the logits are not finite; as `decoding_logits`.
        TypeError: `model` is not callable or returns no logits; `prompts` is not a sequence of tensors of integers; as
            `decoding_logits`.

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, for the decoding.

    Example:
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(4, context_length=8, generator=torch.Generator().manual_seed(0))
        >>> prompts = [torch.tensor([1, 2, 3]), torch.tensor([3])]
        >>> drawn = sample_completions(model, prompts, 2, max_tokens=5, end=0)
        >>> drawn.prompts.shape, drawn.tokens.shape
        (torch.Size([2, 3]), torch.Size([2, 2, 5]))
    """
    ids, mask = _padded("prompts", prompts)
    size, max_tokens = _checks.check_count("size", size), _checks.check_count("max_tokens", max_tokens)
    _checks.check_room("the completions", len(ids), size, max_tokens)
    ends = _end_tokens(end, ids.device)
    _checks.check_generator("generator", generator, "the prompts", ids.device)
    with torch.no_grad():
        reader = _Reader(model, ids, mask, size)
        alive = torch.ones(len(ids) * size, dtype=torch.bool, device=ids.device)
        tokens, alive_at, log_probs = [], [], []
        while True:
            logits = decoding_logits(reader.logits, temperature=temperature, top_k=top_k, top_p=top_p)
            token = sample(logits, generator=generator).where(alive, 0)
            tokens.append(token)
            alive_at.append(alive)
            log_probs.append(taken(token_log_probs(logits, token), alive))
            alive = alive & ~torch.isin(token, ends)
            if len(tokens) == max_tokens or not bool(alive.any()):
                break
            reader.read(token, alive)
    columns = [_in_groups(column, len(ids), size, max_tokens) for column in (tokens, alive_at, log_probs)]
    alive = alive.view(len(ids), size)
    return Completions(ids, mask, columns[0], columns[1], columns[2], ~alive, alive)


def completion_log_probs(
    model: CausalLM,
    completions: Completions,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "B K T"]:
    r"""The log-probability of each token in the decoding distribution, differentiable in the model's parameters.

    The factors of :eq:`eq-completion-probability`, as logarithms. With the arguments that `sample_completions` had, it
    is the distribution that the tokens were drawn from.

    Args:
        model: the language model.
        completions: the prompts and the tokens; the other fields are not read.
        temperature: as in `decoding_logits`, as are the next two.
        top_k: how many tokens are kept.
        top_p: the mass that the kept tokens have to reach.
        batch_size: how many completions are worked on at a time, on the way back too, for which they are then worked
            on twice; None: all at once.

    Returns:
        One number for each token, 0 where the mask is False; :math:`-\infty` for a token that the decoding
        distribution leaves out.

    Raises:
        ValueError: shapes differ; the logits are not finite; a token is outside the vocabulary; as `decoding_logits`.
        TypeError: `completions` is something else; as `decoding_logits`.

    Source:
        As `token_log_probs`; the second working: Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear
        Memory Cost", 2016.

    Example:
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(4, context_length=8, generator=torch.Generator().manual_seed(0))
        >>> drawn = sample_completions(model, [torch.tensor([1, 2])], 3, max_tokens=4, temperature=0.5, top_p=0.9)
        >>> log_probs = completion_log_probs(model, drawn, temperature=0.5, top_p=0.9)
        >>> torch.allclose(log_probs, drawn.log_probs, atol=1e-5), log_probs.requires_grad
        (True, True)
    """

    def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
        return token_log_probs(decoding_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p), tokens)

    return _per_token((model,), completions, log_probs, batch_size)


def completion_entropies(
    model: CausalLM,
    completions: Completions,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "B K T"]:
    r"""The entropy of the decoding distribution that each token is drawn from, exactly: a sum over the vocabulary.

    .. no equation: that of `entropy`, after `decoding_logits`

    Args:
        model: the language model.
        completions: the prompts and the tokens.
        temperature: as in `completion_log_probs`, as are the next three.
        top_k: how many tokens are kept.
        top_p: the mass that the kept tokens have to reach.
        batch_size: how many completions are worked on at a time.

    Returns:
        One number for each token, in nats; 0 where the mask is False.

    Raises:
        ValueError: as `completion_log_probs`.
        TypeError: as `completion_log_probs`.

    Source:
        Shannon, "A Mathematical Theory of Communication", 1948, section 6.

    Example:
        >>> from types import SimpleNamespace
        >>> def uniform(input_ids, attention_mask):
        ...     return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))
        >>> drawn = sample_completions(uniform, [torch.tensor([0])], 1, max_tokens=2)
        >>> completion_entropies(uniform, drawn).exp(), completion_entropies(uniform, drawn, top_k=2).exp()
        (tensor([[[4., 4.]]]), tensor([[[2., 2.]]]))
    """

    def entropies(logits: Tensor, tokens: Tensor) -> Tensor:
        return entropy(decoding_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p))

    return _per_token((model,), completions, entropies, batch_size)


def completion_kl(
    model: CausalLM,
    reference: CausalLM,
    completions: Completions,
    *,
    temperature: float = 1.0,
    batch_size: int | None = None,
) -> Float[Tensor, "B K T"]:
    r"""The Kullback-Leibler divergence of the next token, model from reference, after each prefix: over all tokens.

    :math:`\mathrm{KL}(\pi(\cdot \mid s) \,\|\, \pi_{\mathrm{ref}}(\cdot \mid s))`, both at one temperature. Summed over
    the tokens of completions that the model drew, it is an unbiased estimate of the divergence of the completions, by
    :eq:`eq-kl-by-token`.

    Args:
        model: the language model.
        reference: another with the same vocabulary.
        completions: the prompts and the tokens.
        temperature: of both.
        batch_size: as in `completion_log_probs`.

    Returns:
        One number for each token; 0 where the mask is False.

    Raises:
        ValueError: as `completion_log_probs`; the vocabularies differ.
        TypeError: as `completion_log_probs`.

    Source:
        Kullback and Leibler, "On Information and Sufficiency", 1951.

    Example:
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(4, context_length=8, generator=torch.Generator().manual_seed(0))
        >>> drawn = sample_completions(model, [torch.tensor([1, 2])], 3, max_tokens=4)
        >>> completion_kl(model, model, drawn).abs().max() < 1e-6
        tensor(True)
    """

    def divergence(logits: Tensor, reference_logits: Tensor, tokens: Tensor) -> Tensor:
        if logits.shape[-1] != reference_logits.shape[-1]:
            sizes = f"{reference_logits.shape[-1]} tokens, but model {logits.shape[-1]}"
            raise ValueError(f"reference has a vocabulary of {sizes}")
        both = (decoding_logits(x, temperature=temperature).log_softmax(-1) for x in (logits, reference_logits))
        log_probs, ref_log_probs = both
        return (log_probs.exp() * (log_probs - ref_log_probs)).sum(-1)

    return _per_token((model, reference), completions, divergence, batch_size)


def enumerate_completions(
    model: CausalLM,
    prompt: Int[Tensor, "P"],
    *,
    max_tokens: int,
    end: int | Sequence[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
) -> tuple[Completions, Float[Tensor, "N"]]:
    r"""All completions of positive probability, each once, and their probabilities, which sum to 1.

    For small vocabularies and length limits: every expectation over completions is a sum then. The probabilities are
    those of :eq:`eq-completion-probability`.

    Args:
        model: the language model.
        prompt: the tokens of the prompt.
        max_tokens: the length limit.
        end: the token that ends a completion, or several; None if only the length limit does.
        temperature: as in `completion_log_probs`, as are the next three.
        top_k: how many tokens are kept.
        top_p: the mass that the kept tokens have to reach.
        batch_size: how many completions are worked on at a time.

    Returns:
        The completions, one group of N, the shorter first; and :math:`\pi(y \mid x)` of each, differentiable.

    Raises:
        ValueError: as `sample_completions`; there are too many completions; `end` is not in the vocabulary.
        TypeError: as `sample_completions`.

    Source:
        Ours.

    Example:
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(3, context_length=8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> completions, probabilities = enumerate_completions(model, torch.tensor([1]), max_tokens=2, end=0)
        >>> completions.tokens[0].tolist(), round(float(probabilities.detach().sum()), 12)
        ([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]], 1.0)
    """
    _checks.check_tensor("prompt", prompt)
    ids, prompt_mask = _padded("prompt", [prompt])
    max_tokens, ends = _checks.check_count("max_tokens", max_tokens), _end_tokens(end, ids.device)
    with torch.no_grad():
        n_tokens = _forward(model, ids, prompt_mask, 1).shape[-1]
    tokens, mask = _all_completions(n_tokens, max_tokens, ends)
    terminated = (torch.isin(tokens, ends) & mask).any(-1)
    everything = Completions(
        ids, prompt_mask, tokens[None], mask[None], torch.zeros_like(tokens)[None], terminated[None], ~terminated[None]
    )
    log_probs = completion_log_probs(
        model, everything, temperature=temperature, top_k=top_k, top_p=top_p, batch_size=batch_size
    )
    probabilities = log_probs[0].sum(-1).exp()
    kept = probabilities.detach() > 0
    completions = everything._replace(log_probs=log_probs.detach())
    fields = (field if i < 2 else field[:, kept] for i, field in enumerate(completions))
    return Completions(*fields), probabilities[kept]


def token_tree_logits(
    model: CausalLM,
    prompts: Sequence[Int[Tensor, "P"]],
    *,
    max_tokens: int,
    end: int | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "S V"]:
    r"""The logits of a model at every state of a `token_tree`: the language model as a table of preferences.

    The model becomes a policy of a finite MDP, of which everything can be computed exactly. The result is
    differentiable, so a gradient by the table, such as :math:`\nabla_h J`, is carried on to the parameters by
    `torch.autograd.grad(logits, parameters, gradient)`.

    .. no equation: it calls the model at each state

    Args:
        model: the language model.
        prompts: the prompts: prompt x is state x of the tree.
        max_tokens: the `length` of the tree.
        end: its `eos`.
        batch_size: how many sequences the model reads at a time, as in `completion_log_probs`.

    Returns:
        One row for each state, in the order of `token_sequences`; 0 in terminal states.

    Raises:
        ValueError: as `enumerate_completions`.
        TypeError: as `enumerate_completions`.

    Source:
        Ours.

    Example:
        >>> from pgtheory import gallery
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(3, context_length=8, generator=torch.Generator().manual_seed(0))
        >>> token_tree_logits(model, [torch.tensor([1]), torch.tensor([2, 1])], max_tokens=2, end=0).shape
        torch.Size([20, 3])
        >>> gallery.token_tree(3, 2, eos=0, n_prompts=2).n_states
        20
    """
    ids, prompt_mask = _padded("prompts", prompts)
    max_tokens = _checks.check_count("max_tokens", max_tokens)
    ends = _end_tokens(None if end is None else _checks.check_count("end", end, at_least=0), ids.device)
    with torch.no_grad():
        n_tokens = _forward(model, ids, prompt_mask, 1).shape[-1]
    going_on = torch.arange(n_tokens, device=ids.device)[~_is_end(n_tokens, ends)]
    _checks.check_room("the tree", len(ids), n_tokens, *[n_tokens] * max_tokens, limit=ENUMERATION_LIMIT)
    # The longest prefixes that can still go on, in the order of their tokens: each shorter one begins some of them.
    n_longest, place = len(going_on) ** (max_tokens - 1), torch.arange(max_tokens - 1, device=ids.device)
    digits = torch.arange(n_longest, device=ids.device)[:, None] // len(going_on) ** (max_tokens - 2 - place)
    longest = going_on[digits % len(going_on)]
    tokens = torch.nn.functional.pad(longest, (0, 1)).expand(len(ids), -1, -1)
    nothing = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=ids.device)
    completions = Completions(
        ids, prompt_mask, tokens, torch.ones_like(tokens, dtype=torch.bool), tokens, nothing, nothing
    )
    logits = _per_token((model,), completions, lambda logits, tokens: logits, batch_size)
    levels = [logits[:, 0, 0]]
    for t in range(1, max_tokens + 1):
        children = logits.new_zeros(len(ids) * len(going_on) ** (t - 1), n_tokens, n_tokens)
        if t < max_tokens:
            first = logits[:, :: len(going_on) ** (max_tokens - 1 - t), t]
            children = children.index_copy(1, going_on, first.reshape(len(children), len(going_on), n_tokens))
        levels.append(children.flatten(0, 1))
    return torch.cat(levels)


class _Reader:
    """The logits after all tokens read so far, of each completion."""

    def __init__(self, model: CausalLM, ids: Tensor, mask: Tensor, size: int) -> None:
        self.model = model
        output = _call(model, ids, mask, 1, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        self.cache = cache if hasattr(cache, "batch_repeat_interleave") else None
        if self.cache is not None:
            self.cache.batch_repeat_interleave(size)
        self.ids, self.mask = ids.repeat_interleave(size, 0), mask.repeat_interleave(size, 0)
        self.logits = _last_logits(output, 1)[:, 0].repeat_interleave(size, 0)

    def read(self, tokens: Tensor, alive: Tensor) -> None:
        """Read one token more of each completion that goes on."""
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        self.mask = torch.cat([self.mask, alive[:, None]], 1)
        if self.cache is None:
            self.logits = _forward(self.model, self.ids, self.mask, 1)[:, 0]
        else:
            output = _call(self.model, self.ids[:, -1:], self.mask, 1, use_cache=True, past_key_values=self.cache)
            self.cache, self.logits = output.past_key_values, _last_logits(output, 1)[:, 0]


def _accepted(model: CausalLM) -> Iterable[str]:
    """The names of the arguments that a model takes; those of the model inside, where adapters are around it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(getattr(inner, "forward", inner)).parameters


def _call(model: CausalLM, ids: Tensor, mask: Tensor, n_last: int, *, name: str = "model", **options: Any) -> Any:
    """The answer of the model to the last tokens; the mask is that of all tokens, of those in a cache too."""
    _checks.check_callable(name, model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    options |= {"position_ids": positions, "logits_to_keep": n_last}
    accepted = _accepted(model)
    known = {name: value for name, value in options.items() if name in accepted}
    return model(input_ids=ids, attention_mask=mask.long(), **known)


def _last_logits(output: Any, n_last: int, name: str = "model") -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise TypeError(f"{name} must return an object with logits [N, L, V], not {_checks.named(output)}")
    return wide(logits[:, -n_last:])


def _forward(model: CausalLM, ids: Tensor, mask: Tensor, n_last: int, name: str = "model") -> Tensor:
    """The logits after each of the last tokens, [N, n_last, V], in at least float32."""
    return _last_logits(_call(model, ids, mask, n_last, name=name, use_cache=False), n_last, name)


def _per_token(
    models: tuple[CausalLM, ...], completions: Completions, value: Callable[..., Tensor], batch_size: int | None
) -> Tensor:
    """A value of the logits of each model before each token, and of the token; 0 where the mask is False."""
    ids, mask, tokens_mask = _checked_rows(completions)
    n_rows = len(ids) if batch_size is None else _checks.check_count("batch_size", batch_size)

    def work(ids: Tensor, mask: Tensor) -> Tensor:
        names = zip(models, ("model", "reference"), strict=False)
        logits = [_forward(model, ids[:, :-1], mask[:, :-1], n_last, name) for model, name in names]
        _check_vocabulary(ids[:, -n_last:], mask[:, -n_last:], logits[0].shape[-1])
        values = value(*logits, ids[:, -n_last:])
        return values.where(mask[:, -n_last:].view(*mask[:, -n_last:].shape, *[1] * (values.ndim - 2)), 0.0)

    # Columns that are padding everywhere are not worked on.
    n_tokens = tokens_mask.shape[1]
    n_last = max(1, _last_true(tokens_mask))
    first = int(mask.any(0).long().argmax())
    used = slice(first, ids.shape[1] - (n_tokens - n_last))
    parts = list(zip(torch.split(ids[:, used], n_rows), torch.split(mask[:, used], n_rows), strict=True))
    twice = torch.is_grad_enabled() and len(parts) > 1
    values = torch.cat([checkpoint(work, *part, use_reentrant=False) if twice else work(*part) for part in parts])
    values = torch.nn.functional.pad(values, (0, 0) * (values.ndim - 2) + (0, n_tokens - n_last))
    return values.view(*completions.tokens.shape, *values.shape[2:])


def _last_true(mask: Tensor) -> int:
    """One more than the last column in which some row is True; 0 if there is none."""
    return int((torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask.any(0)).max())


def _checked_rows(completions: Completions) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens and the mask of each completion with its prompt before it, [B K, P + T], and the latter's end."""
    _checks.check_instance("completions", completions, Completions)
    for name in ("prompts", "tokens"):
        _checks.check_integer_tensor(f"completions.{name}", getattr(completions, name))
    for name, ids in (("prompt_mask", completions.prompts), ("mask", completions.tokens)):
        _checks.check_bool(f"completions.{name}", getattr(completions, name))
        _checks.check_same_shape(f"completions.{name}", getattr(completions, name), "its tokens", ids)
    prompts, tokens = completions.prompts, completions.tokens
    if tokens.ndim != 3 or prompts.ndim != 2 or len(prompts) != len(tokens) or 0 in tokens.shape:
        shapes = f"prompts {list(prompts.shape)} and tokens {list(tokens.shape)}"
        raise ValueError(f"completions has {shapes}, expected [B, P] and [B, K, T], none of them empty")
    if not bool(completions.prompt_mask.any(-1).all()):
        raise ValueError(f"completions has an empty prompt at {_checks.first_place(~completions.prompt_mask.any(-1))}")
    mask = torch.cat([completions.prompt_mask.repeat_interleave(tokens.shape[1], 0), completions.mask.flatten(0, 1)], 1)
    ids = torch.cat([prompts.repeat_interleave(tokens.shape[1], 0), tokens.flatten(0, 1)], 1)
    return ids.long().where(mask, 0), mask, completions.mask.flatten(0, 1)


def _check_vocabulary(tokens: Tensor, mask: Tensor, n_tokens: int) -> None:
    _checks.as_indices("completions.tokens", tokens, n_tokens, mask, within="in the vocabulary")


def _padded(name: str, prompts: Any) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as one table, padded on the left, and where it has tokens."""
    _checks.check_prompts(name, prompts)
    for i, prompt in enumerate(prompts):
        _checks.check_same_device(f"{name}[{i}]", prompt, f"{name}[0]", prompts[0])
    backwards = [prompt.long().flip(0) for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(backwards, batch_first=True).flip(1)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=ids.device)
    return ids, torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - lengths


def _end_tokens(end: int | Sequence[int] | None, device: torch.device) -> Tensor:
    if end is None:
        tokens: list[int] = []
    elif isinstance(end, Sequence) and not isinstance(end, (str, bytes)):
        tokens = [_checks.check_count(f"end[{i}]", token, at_least=0) for i, token in enumerate(end)]
    else:
        tokens = [_checks.check_count("end", end, at_least=0)]
    return torch.tensor(tokens, dtype=torch.int64, device=device)


def _is_end(n_tokens: int, ends: Tensor) -> Tensor:
    """Which tokens of the vocabulary end a completion."""
    if bool((ends >= n_tokens).any()):
        raise ValueError(f"end is {int(ends.max())}, not in the vocabulary 0..{n_tokens - 1}")
    return torch.isin(torch.arange(n_tokens, device=ends.device), ends)


def _all_completions(n_tokens: int, max_tokens: int, ends: Tensor) -> tuple[Tensor, Tensor]:
    """All completions, [N, T], the shorter first, and their masks."""
    n_going_on = int((~_is_end(n_tokens, ends)).sum())
    number = sum(n_going_on**t * (n_tokens - n_going_on) for t in range(max_tokens)) + n_going_on**max_tokens
    if number * max_tokens > ENUMERATION_LIMIT:
        raise ValueError(
            f"there are {number:,} completions of up to {max_tokens:,} tokens, more than {ENUMERATION_LIMIT:,} tokens "
            "in all: make max_tokens smaller"
        )
    vocabulary = torch.arange(n_tokens, device=ends.device)
    level, found = vocabulary.new_zeros(1, 0), []
    for t in range(1, max_tokens + 1):
        level = torch.cat([level.repeat_interleave(n_tokens, 0), vocabulary.repeat(len(level))[:, None]], 1)
        complete = torch.isin(level[:, -1], ends) if t < max_tokens else torch.ones_like(level[:, -1], dtype=torch.bool)
        mask = torch.ones_like(level[complete], dtype=torch.bool)
        found.append([torch.nn.functional.pad(x, (0, max_tokens - t)) for x in (level[complete], mask)])
        level = level[~complete]
    tokens, masks = (torch.cat(column) for column in zip(*found, strict=True))
    return tokens, masks


def _in_groups(columns: list[Tensor], n_prompts: int, size: int, max_tokens: int) -> Tensor:
    """Columns of one token each as [B, K, T], padded."""
    table = torch.stack(columns, -1)
    return torch.nn.functional.pad(table, (0, max_tokens - len(columns))).view(n_prompts, size, max_tokens)

r"""Chapter 10: a language model of about 100,000 parameters, two tasks for it, and its training by imitation.

`TinyGPT` is a `CausalLM`. The tasks are to sort digits, and to close brackets in balance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pgtheory import _checks
from pgtheory.language_models import Completions
from pgtheory.token_log_probs import token_log_probs

__all__ = [
    "TinyGPT",
    "TinyGPTOutput",
    "bracket_rewards",
    "is_balanced",
    "pretrain",
    "sorting_prompts",
    "sorting_rewards",
    "sorting_sequences",
]

GO, STOP = 10, 11
"""The tokens after the ten digits, in the task of sorting: "now sorted", and the end."""
OPEN = 0
"""The opening bracket; 1 is the closing one."""


class TinyGPTOutput(NamedTuple):
    r"""What `TinyGPT` returns.

    Attributes:
        logits: of the next token after each of the last tokens.
        past_key_values: the cache, if one was asked for.

    Example:
        >>> TinyGPTOutput._fields
        ('logits', 'past_key_values')
    """

    logits: Float[Tensor, "N L V"]
    past_key_values: Any


class TinyGPT(nn.Module):
    r"""A GPT in plain torch: embeddings of tokens and positions, pre-norm blocks, and the embedding again as output.

    With the defaults about 0.1 M parameters. It starts near the uniform distribution.

    Args:
        vocab_size: the number V of tokens.
        context_length: the largest number of tokens of a sequence.
        width: the number of features of a token.
        n_layers: the number of blocks.
        n_heads: the number of heads of attention, a divisor of `width`.
        generator: the source of the initial weights.
        dtype: the dtype of the weights.
        device: where they are.

    Raises:
        ValueError: a number is less than 1; `n_heads` does not divide `width`.
        TypeError: a number is not an integer; `dtype` is not a floating-point dtype.

    Source:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3; Karpathy, nanoGPT.

    Example:
        >>> model = TinyGPT(12, generator=torch.Generator().manual_seed(0))
        >>> sum(p.numel() for p in model.parameters())
        101888
        >>> model(input_ids=torch.tensor([[3, 1, 2]])).logits.shape
        torch.Size([1, 3, 12])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        context_length: int = 16,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = _checks.check_count("vocab_size", vocab_size)
        self.context_length = _checks.check_count("context_length", context_length)
        width, n_layers = _checks.check_count("width", width), _checks.check_count("n_layers", n_layers)
        if width % _checks.check_count("n_heads", n_heads):
            raise ValueError(f"n_heads is {n_heads}, not a divisor of the width {width}")
        if dtype is not None:
            _checks.check_dtype("dtype", dtype)
        device = torch.get_default_device() if device is None else device
        _checks.check_device("device", device)
        _checks.check_generator("generator", generator, "the model", torch.device(device))
        # Made on the meta device, because torch would draw the weights from the global generator.
        with torch.device("meta"):
            self.tokens = nn.Embedding(self.vocab_size, width, dtype=dtype)
            self.positions = nn.Embedding(self.context_length, width, dtype=dtype)
            self.blocks = nn.ModuleList(_Block(width, n_heads, dtype) for _ in range(n_layers))
            self.norm = nn.LayerNorm(width, dtype=dtype)
        self.to_empty(device=device)
        for name, parameter in self.named_parameters():
            _initialize(name, parameter, n_layers, generator)

    def forward(
        self,
        input_ids: Int[Tensor, "N L"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "N L"] | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> TinyGPTOutput:
        r"""The logits of the next token after each token.

        Args:
            input_ids: the tokens; with a cache, those that it has not read yet.
            attention_mask: `[N, M]`, 0 at padding, for the tokens in the cache too; None: no padding.
            position_ids: the position of each token; None: counted from the first token that is not padding.
            past_key_values: the cache of the tokens before, which is extended.
            use_cache: whether to return a cache.
            logits_to_keep: of how many of the last tokens the logits are wanted; 0: of all.

        Returns:
            The logits and the cache.

        Raises:
            ValueError: a token is outside the vocabulary; a sequence is longer than the context.
        """
        ids = _checks.as_indices("input_ids", input_ids, self.vocab_size, within="in the vocabulary")
        if ids.ndim != 2 or ids.numel() == 0:
            raise ValueError(f"input_ids has shape {list(ids.shape)}, expected [N, L]")
        cache = _Cache() if past_key_values is None else past_key_values
        keep = _checks.check_count("logits_to_keep", logits_to_keep, at_least=0)
        _checks.check_instance("past_key_values", cache, _Cache)
        n_read = cache.keys[0].shape[-2] if cache.keys else 0
        n_all = n_read + ids.shape[1]
        mask = _checked_mask(attention_mask, ids, n_all)
        if position_ids is None:
            position_ids = (mask.cumsum(-1) - 1).clamp(min=0)[:, n_read:]
        positions = _checks.as_indices("position_ids", position_ids, self.context_length, within="in the context")
        _checks.check_same_shape("position_ids", positions, "input_ids", ids)
        place = torch.arange(n_all, device=ids.device)
        before = place <= place[n_read:, None]
        itself = place == place[n_read:, None]  # so that padding has something to attend to
        visible = (mask[:, None, None] & before) | itself
        x = self.tokens(ids) + self.positions(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, visible, lambda k, v, layer=layer: cache.append(layer, k, v))
        logits = self.norm(x[:, -keep:]) @ self.tokens.weight.T
        return TinyGPTOutput(logits, cache if _checks.check_flag("use_cache", use_cache) else None)


class _Cache:
    """The keys and the values of the tokens that a model has read, layer by layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a layer, with some more tokens after them."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], keys], -2)
            self.values[layer] = torch.cat([self.values[layer], values], -2)
        return self.keys[layer], self.values[layer]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Let each row be as many rows."""
        self.keys = [x.repeat_interleave(repeats, 0) for x in self.keys]
        self.values = [x.repeat_interleave(repeats, 0) for x in self.values]


class _Block(nn.Module):
    """Attention and a perceptron, each of the normalised features and added to them."""

    def __init__(self, width: int, n_heads: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, dtype=dtype), nn.LayerNorm(width, dtype=dtype)
        self.query_key_value = nn.Linear(width, 3 * width, dtype=dtype)
        self.project = nn.Linear(width, width, dtype=dtype)
        self.widen, self.narrow = (nn.Linear(m * width, n * width, dtype=dtype) for m, n in ((1, 4), (4, 1)))

    def forward(
        self, x: Tensor, visible: Tensor, remember: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """The features after the block, [N, L, width]."""
        heads = self.query_key_value(self.norm_1(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        keys, values = remember(heads[1], heads[2])
        attended = nn.functional.scaled_dot_product_attention(heads[0], keys, values, attn_mask=visible)
        x = x + self.project(attended.transpose(1, 2).flatten(-2))
        narrowed: Tensor = self.narrow(nn.functional.gelu(self.widen(self.norm_2(x))))
        return x + narrowed


def _checked_mask(mask: Tensor | None, ids: Tensor, length: int) -> Tensor:
    """Where there is no padding."""
    if mask is None:
        return torch.ones(len(ids), length, dtype=torch.bool, device=ids.device)
    _checks.check_tensor("attention_mask", mask)
    _checks.check_has_values("attention_mask", mask)
    _checks.check_same_device("attention_mask", mask, "input_ids", ids)
    if mask.shape != (len(ids), length):
        raise ValueError(f"attention_mask has shape {list(mask.shape)}, expected {[len(ids), length]}")
    return mask.bool()


def _initialize(name: str, parameter: Tensor, n_layers: int, generator: torch.Generator | None) -> None:
    """Biases 0, scales of norms 1, weights N(0, 1/fan-in), embeddings N(0, 0.02²)."""
    with torch.no_grad():
        if "norm" in name or name.endswith("bias"):
            parameter.fill_(float(name.endswith("weight")))
        else:
            inside = name.startswith("blocks")
            parameter.normal_(generator=generator).mul_(1 / math.sqrt(parameter.shape[1]) if inside else 0.02)
            if name.endswith(("project.weight", "narrow.weight")):  # what 2 n blocks add to the features
                parameter.mul_(1 / math.sqrt(2 * n_layers))


def pretrain(
    model: nn.Module,
    sequences: Int[Tensor, "N L"],
    *,
    n_steps: int,
    batch_size: int = 64,
    prompt_length: int = 1,
    learning_rate: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n_steps"]:
    r"""Train a model to continue sequences as they go on, by maximum likelihood; the model is changed.

    Each step draws a batch with replacement, and takes a step of AdamW on minus the mean log-probability of the tokens
    after the prompt. This is imitation, what a language model has behind it before it is rewarded.

    .. no equation: the loss is minus `token_log_probs`

    Args:
        model: a `CausalLM` with parameters.
        sequences: prompts and their right completions, all of one length.
        n_steps: the number of steps.
        batch_size: the number of sequences of a step.
        prompt_length: how many of the first tokens are given; at least 1.
        learning_rate: the step size of AdamW.
        generator: the source of the batches.

    Returns:
        The loss of each step.

    Raises:
        ValueError: a count is less than 1; `prompt_length` leaves no token; a token is outside the vocabulary.
        TypeError: `model` is not a module; `sequences` does not hold integers.

    Source:
        Williams and Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks", 1989
        (teacher forcing); AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    Example:
        >>> model = TinyGPT(4, context_length=4, width=16, generator=torch.Generator().manual_seed(0))
        >>> losses = pretrain(model, torch.tensor([[0, 1, 2, 3]]), n_steps=30, learning_rate=0.01)
        >>> losses[0] > 1, losses[-1] < 0.1
        (tensor(True), tensor(True))
    """
    _checks.check_instance("model", model, nn.Module)
    _checks.check_integer_tensor("sequences", sequences)
    _checks.check_has_values("sequences", sequences)
    n_steps, batch_size = _checks.check_count("n_steps", n_steps), _checks.check_count("batch_size", batch_size)
    if sequences.ndim != 2 or 0 in sequences.shape:
        raise ValueError(f"sequences has shape {list(sequences.shape)}, expected [N, L]")
    start = _checks.check_count("prompt_length", prompt_length)
    if start >= sequences.shape[1]:
        raise ValueError(f"prompt_length is {start}, but the sequences have {sequences.shape[1]} tokens")
    _checks.check_generator("generator", generator, "sequences", sequences.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_checks.check_not_negative("learning_rate", learning_rate))
    losses = []
    for _ in range(n_steps):
        rows = torch.randint(len(sequences), (batch_size,), generator=generator, device=sequences.device)
        batch = sequences[rows].long()
        logits = model(input_ids=batch[:, :-1], attention_mask=torch.ones_like(batch[:, :-1])).logits
        loss = -token_log_probs(logits[:, start - 1 :], batch[:, start:]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sorting_prompts(
    n: int, *, n_digits: int = 4, generator: torch.Generator | None = None
) -> Int[Tensor, "n n_digits+1"]:
    r"""Prompts of the task of sorting: digits, drawn uniformly, and the token 10, which asks for them in order.

    .. no equation: a task of the book

    Args:
        n: the number of prompts.
        n_digits: the number of digits.
        generator: the source of the digits.

    Returns:
        One prompt in each row.

    Raises:
        ValueError: a count is less than 1.
        TypeError: a count is not an integer.

    Source:
        Ours.

    Example:
        >>> sorting_prompts(2, n_digits=3, generator=torch.Generator().manual_seed(0))
        tensor([[ 4,  9,  3, 10],
                [ 0,  3,  9, 10]])
    """
    n, n_digits = _checks.check_count("n", n), _checks.check_count("n_digits", n_digits)
    _checks.check_room("the prompts", n, n_digits)
    _checks.check_generator("generator", generator, "the prompts", torch.device("cpu"))
    return nn.functional.pad(torch.randint(10, (n, n_digits), generator=generator), (0, 1), value=GO)


def sorting_sequences(prompts: Int[Tensor, "n P"]) -> Int[Tensor, "n L"]:
    r"""Each prompt of `sorting_prompts` with the right completion: its digits in order, and the end token 11.

    .. no equation: a task of the book

    Args:
        prompts: digits and the token 10.

    Returns:
        Sequences to imitate.

    Raises:
        ValueError: a prompt has another form.
        TypeError: `prompts` does not hold integers.

    Source:
        Ours.

    Example:
        >>> sorting_sequences(torch.tensor([[3, 1, 2, 10]]))
        tensor([[ 3,  1,  2, 10,  1,  2,  3, 11]])
    """
    prompts = _checks.as_indices("prompts", prompts, GO + 1)
    if prompts.ndim != 2 or prompts.shape[1] < 2:
        raise ValueError(f"prompts has shape {list(prompts.shape)}, expected [n, P] with at least one digit")
    wrong = prompts == GO
    wrong[:, -1] = ~wrong[:, -1]
    if bool(wrong.any()):
        raise ValueError(f"prompts has the token {GO} elsewhere than at its end at {_checks.first_place(wrong)}")
    return torch.cat([prompts, prompts[:, :-1].sort(-1).values, torch.full_like(prompts[:, :1], STOP)], 1)


def sorting_rewards(completions: Completions) -> Float[Tensor, "B K"]:
    r"""1 for a completion that is the digits of its prompt in order and the end token 11, otherwise 0.

    .. no equation: a task of the book

    Args:
        completions: completions of `sorting_prompts`, of any lengths.

    Returns:
        The rewards, in the dtype of the log-probabilities.

    Raises:
        TypeError: `completions` is something else.

    Source:
        Ours.

    Example:
        >>> from types import SimpleNamespace
        >>> def says(*tokens):  # a model whose next token depends on how many there are
        ...     table = torch.nn.functional.one_hot(torch.tensor(tokens), 12) * 100.0
        ...     return lambda input_ids, attention_mask: SimpleNamespace(logits=table[: input_ids.shape[1]].expand(
        ...         len(input_ids), -1, -1))
        >>> from pgtheory.language_models import sample_completions
        >>> drawn = sample_completions(says(0, 0, 1, 3, 11), [torch.tensor([3, 1, 10])], 1, max_tokens=3, end=11)
        >>> sorting_rewards(drawn)
        tensor([[1.]])
    """
    _checks.check_instance("completions", completions, Completions)
    digits = completions.prompts.masked_fill(~completions.prompt_mask, STOP + 1).masked_fill(
        completions.prompts == GO, STOP
    )
    width = max(digits.shape[1], completions.tokens.shape[2])
    right = nn.functional.pad(digits.sort(-1).values, (0, width - digits.shape[1]), value=STOP + 1)
    said = completions.tokens.masked_fill(~completions.mask, STOP + 1)
    said = nn.functional.pad(said, (0, width - said.shape[2]), value=STOP + 1)
    return (said == right.unsqueeze(1)).all(-1).to(completions.log_probs.dtype)


def is_balanced(tokens: Int[Tensor, "*batch T"]) -> Bool[Tensor, "*batch"]:
    r"""Whether brackets, 0 for an opening and 1 for a closing one, are balanced.

    No prefix closes more than it opens, and in the whole there are as many of both.

    .. no equation: a task of the book

    Args:
        tokens: sequences of brackets.

    Returns:
        One answer for each sequence.

    Raises:
        ValueError: a token is neither 0 nor 1; `tokens` is a scalar.
        TypeError: `tokens` does not hold integers.

    Source:
        Sequences of Dyck; of length 2n there are Catalan's number :math:`\binom{2n}{n} / (n + 1)`.

    Example:
        >>> is_balanced(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]]))
        tensor([ True,  True, False])
    """
    tokens = _checks.as_indices("tokens", tokens, 2)
    _checks.check_at_least_1d("tokens", tokens, "the sequence")
    return _returns_to_the_ground(1 - 2 * tokens)


def _returns_to_the_ground(steps: Tensor) -> Tensor:
    """Whether the sums of steps up and down are nowhere below 0, and 0 at the end."""
    height = steps.cumsum(-1)
    return (height >= 0).all(-1) & (steps.sum(-1) == 0)


def bracket_rewards(completions: Completions) -> Float[Tensor, "B K"]:
    r"""1 where the prompt and its completion together are balanced brackets, 0 and 1, otherwise 0.

    .. no equation: a task of the book

    Args:
        completions: prompts and completions of brackets.

    Returns:
        The rewards, in the dtype of the log-probabilities.

    Raises:
        ValueError: a token is neither 0 nor 1.
        TypeError: `completions` is something else.

    Source:
        As `is_balanced`.

    Example:
        >>> from types import SimpleNamespace
        >>> def uniform(input_ids, attention_mask):
        ...     return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 2))
        >>> from pgtheory.language_models import enumerate_completions
        >>> completions, _ = enumerate_completions(uniform, torch.tensor([0, 1]), max_tokens=8)
        >>> bracket_rewards(completions).sum()
        tensor(14.)
    """
    _checks.check_instance("completions", completions, Completions)
    drawn = completions
    before = _checks.as_indices("completions.prompts", drawn.prompts, 2, drawn.prompt_mask)
    after = _checks.as_indices("completions.tokens", drawn.tokens, 2, drawn.mask)
    up_and_down = [(1 - 2 * x).where(mask, 0) for x, mask in ((before, drawn.prompt_mask), (after, drawn.mask))]
    steps = torch.cat([up_and_down[0].unsqueeze(1).expand(-1, after.shape[1], -1), up_and_down[1]], -1)
    return _returns_to_the_ground(steps).to(drawn.log_probs.dtype)

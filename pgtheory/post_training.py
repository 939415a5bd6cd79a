r"""Chapter 10: a language model is changed by policy gradients, on one process or on many.

The losses, the advantages and the penalty are those of chapters 7 to 9, and nothing of them is written again here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from pgtheory import _checks
from pgtheory._post_training import PostTrainingRecord, Run, Settings
from pgtheory._ranks import LostRankError
from pgtheory._rewards import RewardError
from pgtheory.groups import GroupLoss
from pgtheory.language_models import CausalLM
from pgtheory.surrogates import Clip

__all__ = ["LostRankError", "PostTrainingRecord", "RewardError", "post_train"]


def post_train(
    model: nn.Module,
    prompts: Sequence[Int[Tensor, "P"]],
    reward: Callable[..., Any],
    *,
    steps: int,
    max_tokens: int,
    end: int | Sequence[int] | None = None,
    loss: str | GroupLoss = "grpo",
    size: int = 8,
    prompts_per_step: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    kl_weight: float = 0.0,
    reference: CausalLM | None = None,
    epochs: int = 1,
    clip: Clip = 0.2,
    micro_batch: int | None = None,
    decode: Callable[[Tensor], str] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int = 10,
    resume: bool = False,
    progress: bool | None = None,
) -> list[PostTrainingRecord]:
    r"""Change a language model, so that its completions of some prompts earn more: by samples, groups and AdamW.

    A step draws `size` completions of each of `prompts_per_step` prompts with `sample_completions`, has them rated,
    and makes `epochs` updates by the gradient of the loss. The log-probabilities are those of the decoding distribution
    that sampled, temperature, top-k and top-p included. A token that the distribution has come to leave out, in a later
    epoch, has the ratio 0 and no gradient. The model is in evaluation mode meanwhile: dropout would be another policy.

    The losses are `"reinforce"`, `reinforce_loss` without a baseline; the variants `"rloo"`, `"grpo"`, `"dr_grpo"`,
    `"dapo"` and `"gspo"` of `grpo_loss`; `"ppo_clip"`, `ppo_clip_loss` with leave-one-out advantages; or a `GroupLoss`
    of your own. Dr. GRPO divides by `max_tokens`. The penalty is k3 of `kl_estimate`, which says what that pulls to. It
    is averaged as the loss averages; for `"reinforce"` and your own it is summed over tokens. The gradient is that of
    the whole batch, up to rounding, however the batch is cut in pieces or spread over processes.

    Under `torchrun`, once `torch.distributed.init_process_group` was called, each process takes its share of the
    prompts, and all make the same updates. All are called with the same arguments. The first writes the checkpoint;
    each reads it. If one is lost, the others stop, at the latest when the timeout of the process group is over.

    .. no equation: it runs the losses of the earlier chapters

    Args:
        model: a `CausalLM` and a module. Its parameters that require a gradient are changed: with `peft`, the adapters.
        prompts: the tokens of each prompt.
        reward: a function of the `Completions` that returns a tensor `[B, K]`. With `decode`, a function of two lists
            of texts, the prompts and their completions, both of the length B K, that returns B K numbers.
        steps: the number of steps, those of the checkpoint included.
        max_tokens: the length limit of completions.
        end: the token that ends a completion, or several.
        loss: which loss.
        size: the number of completions of each prompt.
        prompts_per_step: how many prompts are drawn, without replacement, for each step; None: all.
        temperature: as in `sample_completions`, but positive.
        top_k: as in `sample_completions`.
        top_p: as in `sample_completions`.
        learning_rate: that of AdamW.
        weight_decay: that of AdamW.
        max_grad_norm: the largest norm of a gradient; None: any.
        kl_weight: the weight of the penalty.
        reference: what the penalty pulls to, a `CausalLM`; it is scored at the temperature, but without top-k and
            top-p. None: of a model by `peft`, the same without its adapters.
        epochs: the number of updates by the same completions.
        clip: as in `grpo_loss`.
        micro_batch: how many completions are differentiated at a time; None: all. It bounds the memory.
        decode: a function from tokens to text, such as the `decode` of a tokenizer.
        seed: the source of all randomness; nothing global is read or changed.
        checkpoint: a file for the state: what is trained, the optimiser, the generator, the history, the arguments.
        save_every: after how many steps it is written; also at the end and, unless the process is killed, when the run
            is stopped, by Ctrl-C too: then with the last step that was made wholly.
        resume: whether to go on from the file, if there is one. The rest of the run is then bit for bit what it would
            have been. The model is to be built as it was; a file of another run is refused.
        progress: whether to write a line of text to stderr after each step; None: if that is a terminal.

    Returns:
        One record for each step.

    Raises:
        ValueError: an argument is out of range; nothing of the model can be trained; there is no reference;
            `RewardError` if a reward is not a finite number, or the function failed; `CheckpointError` if the file is
            damaged or of another run; the processes were given different arguments.
        TypeError: an argument has the wrong type.
        FileExistsError: there is a file already, and `resume` is False.
        LostRankError: another process has stopped.

    Source:
        Shao et al., "DeepSeekMath", 2024, Algorithm 1; AdamW: Loshchilov and Hutter, "Decoupled Weight Decay
        Regularization", 2019.

    Example:
        >>> import torch
        >>> from pgtheory.tiny_gpt import TinyGPT
        >>> model = TinyGPT(4, context_length=8, generator=torch.Generator().manual_seed(0))
        >>> def shortness(completions):
        ...     return -completions.lengths
        >>> history = post_train(model, [torch.tensor([1, 2])], shortness, steps=20, max_tokens=5, end=0)
        >>> history[0].reward < history[-1].reward
        True
    """
    settings = Settings(
        loss=loss,
        size=size,
        prompts_per_step=prompts_per_step,
        max_tokens=max_tokens,
        end=end,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        kl_weight=kl_weight,
        epochs=epochs,
        clip=clip,
        seed=seed,
    )
    run = Run(model, prompts, reward, settings, reference=reference, micro_batch=micro_batch, decode=decode)
    steps, save_every = _checks.check_count("steps", steps), _checks.check_count("save_every", save_every)
    path = _checked_path(checkpoint, _checks.check_flag("resume", resume))
    visible = run.rank == 0 and (sys.stderr.isatty() if progress is None else _checks.check_flag("progress", progress))
    if path is not None and path.exists():
        run.load(path)
    run.check_ranks()
    with run.in_evaluation_mode(), _kept(run, path) as save:
        while len(run.history) < steps:
            record = run.step()
            if record.step % save_every == 0:
                save()
            if visible:
                _show(record, steps)
    return run.history


@contextlib.contextmanager
def _kept(run: Run, path: Path | None) -> Iterator[Callable[[], None]]:
    """A function that writes the checkpoint if there is something new; it is called at the end, whatever that is."""
    written = len(run.history)

    def save() -> None:
        nonlocal written
        if path is not None and run.rank == 0 and len(run.history) > written:
            run.save(path)
        written = len(run.history)

    try:
        yield save
    finally:
        save()


def _checked_path(checkpoint: object, resume: bool) -> Path | None:
    if checkpoint is None:
        if resume:
            raise ValueError("resume is True but checkpoint is None: there is nothing to go on from")
        return None
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a string or a path, not {_checks.named(checkpoint)}")
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(f"checkpoint {path} exists: go on from it by resume=True, or name another file")
    return path


def _show(record: PostTrainingRecord, steps: int) -> None:
    """One line of text; in a terminal it takes the place of the last one."""
    line = f"step {record.step:>{len(str(steps))}}/{steps}  reward {record.reward:.3f}  kl {record.kl:.4f}  "
    line += f"entropy {record.entropy:.3f}  length {record.length:.1f}  {record.completion!r}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line[:width].ljust(width), end="" if record.step < steps else "\n", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)

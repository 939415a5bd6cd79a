"""GRPO by TRL's `GRPOTrainer`, with a reward of ours and advantages of ours, on a llama so small that it takes seconds.

The model is asked a digit and is to repeat it: the reward is the share of its four tokens that are that digit. TRL
subtracts the mean of the group from whatever the reward function returns, and with `scale_rewards="none"` does nothing
else. Advantages that have mean zero in each group, as all of `group_advantages` do, pass through unchanged: so the
reward function hands in advantages, and tells the rewards to the log.

    python examples/grpo_with_trl.py
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

import pgtheory as pg

SIZE = 8  # completions of a prompt


def digits_as_tokens() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each digit, and one for the end."""
    words = Tokenizer(models.WordLevel({**{str(d): d for d in range(10)}, "<end>": 10}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>", padding_side="left")


def share_of_the_digit(prompts: Sequence[str], completions: Sequence[str]) -> torch.Tensor:
    """The reward of each completion."""
    return torch.tensor([c.count(p) / 4 for p, c in zip(prompts, completions, strict=True)])


def leave_one_out(
    prompts: Sequence[str], completions: Sequence[str], log_metric: Callable[[str, float], None], **_: Any
) -> list[float]:
    """Our advantages, in the place of TRL's rewards: each group stands together."""
    rewards = share_of_the_digit(prompts, completions)
    log_metric("true_reward", float(rewards.mean()))
    return pg.group_advantages(rewards.view(-1, SIZE), baseline="leave_one_out", scale="none").flatten().tolist()


def train(steps: int, folder: str) -> GRPOTrainer:
    """A tiny llama, from nothing."""
    torch.manual_seed(0)
    tokenizer = digits_as_tokens()
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=10,
        pad_token_id=10,
    )
    options = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=8 * SIZE,
        num_generations=SIZE,
        max_completion_length=4,
        scale_rewards="none",
        loss_type="dr_grpo",
        beta=0.0,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    prompts = Dataset.from_dict({"prompt": [str(d) for d in range(10)] * 8})
    trainer = GRPOTrainer(
        LlamaForCausalLM(config), leave_one_out, args=options, train_dataset=prompts, processing_class=tokenizer
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for line in train(100, folder).state.log_history:
            if "true_reward" in line:
                print(f"step {line['step']:3}: reward {line['true_reward']:.2f}")

"""Post-train a tiny language model to sort four digits, on one process or on many; about a minute on two cores.

    python examples/post_train.py
    torchrun --nproc-per-node 2 examples/post_train.py --checkpoint sorting.safetensors

With a checkpoint, the same command goes on where the last one stopped. On GPUs each process takes one, by nccl.
"""

import argparse
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from pgtheory.post_training import post_train
from pgtheory.tiny_gpt import TinyGPT, pretrain, sorting_prompts, sorting_rewards, sorting_sequences

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--checkpoint", help="a file to save to and to go on from")
arguments = parser.parse_args()

device = torch.device("cpu")
if "RANK" in os.environ:  # set by torchrun
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # How long a process waits for the others, before it takes them for lost.
    dist.init_process_group(timeout=timedelta(minutes=5))  # gloo for what is on CPUs, nccl on GPUs

generator = torch.Generator().manual_seed(0)
model = TinyGPT(12, context_length=10, generator=generator)
pretrain(
    model,
    sorting_sequences(sorting_prompts(2_000, generator=generator)),
    n_steps=100,
    prompt_length=5,
    generator=generator,
)
history = post_train(
    model.to(device),
    list(sorting_prompts(1_000, generator=generator)),
    sorting_rewards,
    steps=arguments.steps,
    max_tokens=5,
    end=11,
    prompts_per_step=32,
    checkpoint=arguments.checkpoint,
    resume=arguments.checkpoint is not None,
    progress=True,
)
if "RANK" not in os.environ or dist.get_rank() == 0:
    print(f"sorted: {history[0].reward:.2f} at first, {history[-1].reward:.2f} after {len(history)} steps")
if "RANK" in os.environ:
    dist.destroy_process_group()

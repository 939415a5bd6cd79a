"""Post-training on several processes makes the steps of one; where one is lost, the others stop, and a file is left.

The processes are forked, so that `test_mutants` sees them too, and talk over gloo on this machine.
"""

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import ROOT, seeded
from post_training_runs import LOSSES, PROMPTS, run, score, tiny
from torch import Tensor

from pgtheory import _post_training
from pgtheory._checkpoints import read_checkpoint, write_checkpoint
from pgtheory.language_models import Completions, sample_completions

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked"),
    pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.timeout(300),
]


def in_ranks(number: int, work: Callable[[int], Any], folder: Path, *, timeout: float = 120.0) -> list[Any]:
    """What `work` returns in each of some processes; None of one that is killed, or does not end in time."""

    def child(rank: int) -> None:
        torch.set_num_threads(1)  # the threads of the parent are not there
        store = dist.FileStore(str(folder / "store"), number)
        wait = timedelta(seconds=timeout)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=number, timeout=wait)
        try:
            result = work(rank)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        write_checkpoint(folder / f"rank {rank}", result)
        os._exit(0)  # without taking leave of the others, which may be lost

    folder.mkdir()
    processes = [multiprocessing.get_context("fork").Process(target=child, args=(rank,)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=0.0 if timeout < 60 and process is not processes[0] else 200.0)
        if process.is_alive():
            process.kill()
            process.join()
    files = [folder / f"rank {rank}" for rank in range(number)]
    return [read_checkpoint(file) if file.exists() else None for file in files]


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ragged completions of a prompt in every run, on whatever rank: one of them without a token."""
    everything = sample_completions(tiny(), PROMPTS, 4, max_tokens=5, end=(0, 3), generator=seeded())
    for field in (everything.tokens, everything.mask, everything.log_probs):
        field[0, 1] = 0
        field[1] = 0  # and of one prompt none has any
    known = [prompt.tolist() for prompt in PROMPTS]

    def sampled(model: Any, prompts: list[Tensor], size: int, **_: Any) -> Completions:
        return everything.at([known.index(prompt.tolist()) for prompt in prompts])

    monkeypatch.setattr(_post_training, "sample_completions", sampled)


def seed_that_gives_the_last_rank(prompt: int) -> int:
    """A seed with which the last of two ranks has only this prompt."""
    return next(seed for seed in range(100) if int(torch.randperm(3, generator=seeded(seed))[-1]) == prompt)


@pytest.mark.parametrize(("number", "per_step", "last"), [(2, 3, 1), (2, 3, 0), (3, 2, 0)])
def test_the_gradient_of_several_ranks_is_that_of_the_whole_batch(
    number: int, per_step: int, last: int, preset: None, tmp_path: Path
) -> None:
    # Of 3 prompts the first of 2 ranks has 2; in the first case the second has the one of which every token is masked.
    # In the last case 2 prompts are spread over 3 ranks: the third has none.
    seed = seed_that_gives_the_last_rank(last)

    def gradients(rank: int) -> dict[str, Any]:
        found = {}
        for loss in LOSSES:
            model = tiny()
            history = run(
                model,
                loss=loss,
                seed=seed,
                prompts_per_step=per_step,
                kl_weight=0.3,
                reference=tiny(1),
                temperature=0.8,
                micro_batch=3,
            )
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            found[loss] = {"gradient": gradient, "record": list(history[0][1:8])}
        return found

    expected, found = gradients(0), in_ranks(number, gradients, tmp_path / "ranks")
    for of_rank in found:
        for loss in LOSSES:
            gradient, whole = of_rank[loss]["gradient"], expected[loss]["gradient"]
            assert float(whole.abs().max()) > 1e-3
            torch.testing.assert_close(gradient, whole, rtol=1e-6, atol=1e-12)
            assert of_rank[loss]["record"] == pytest.approx(expected[loss]["record"], rel=1e-6)


def test_several_steps_and_epochs_are_those_of_one_process_and_all_ranks_stay_the_same(
    preset: None, tmp_path: Path
) -> None:
    def trained(rank: int) -> Any:
        model = tiny()
        run(model, steps=3, epochs=2, learning_rate=0.01, checkpoint=tmp_path / f"file of {dist.is_initialized()}")
        return list(model.parameters())

    expected, found = trained(0), in_ranks(2, trained, tmp_path / "ranks")
    for p, first, second in zip(expected, *found, strict=True):
        torch.testing.assert_close(first, p.detach(), rtol=1e-6, atol=1e-9)
        assert torch.equal(first, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file of False", "file of True", "ranks"]


def test_a_resumed_run_of_several_ranks_is_the_uninterrupted_one(tmp_path: Path) -> None:
    def whole(rank: int) -> Any:
        model = tiny()
        history = run(model, prompts=PROMPTS[:1] * 2, steps=4, learning_rate=0.01)
        return [list(record) for record in history], list(model.parameters())

    def halves(rank: int) -> Any:
        options = {"prompts": PROMPTS[:1] * 2, "learning_rate": 0.01, "checkpoint": tmp_path / "run", "resume": True}
        run(tiny(), steps=2, **options)
        dist.barrier()
        model = tiny()
        history = run(model, steps=4, **options)
        return [list(record) for record in history], list(model.parameters())

    expected, found = (in_ranks(2, work, tmp_path / work.__name__) for work in (whole, halves))
    for rank in range(2):
        assert str(found[rank][0]) == str(expected[0][0])
        assert all(torch.equal(p, q) for p, q in zip(found[rank][1], expected[0][1], strict=True))


def test_each_rank_draws_its_own_and_the_first_writes_the_file(tmp_path: Path) -> None:
    def drawn(rank: int) -> Any:
        seen = []
        reward = lambda c: (seen.append(c.tokens), score(c))[1]  # noqa: E731
        run(tiny(), prompts=PROMPTS[:1] * 2, reward=reward, checkpoint=tmp_path / f"file of {rank}")
        return seen[0]

    first, second = in_ranks(2, drawn, tmp_path / "drawn")
    assert not torch.equal(first, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "file of 0"]


def test_a_rank_may_be_left_without_prompts_where_groups_are_single_completions(tmp_path: Path) -> None:
    def rewards(rank: int) -> Any:
        return run(tiny(), prompts=PROMPTS[:2], prompts_per_step=2, size=1, loss="reinforce")[0].reward

    found = in_ranks(3, rewards, tmp_path / "ranks")
    assert len({*found}) == 1
    assert isinstance(found[0], float)


def test_ranks_with_different_arguments_all_stop(tmp_path: Path) -> None:
    def differing(rank: int) -> Any:
        return run(tiny(seed=rank), learning_rate=0.01 * (1 + rank))

    for said in in_ranks(2, differing, tmp_path / "ranks"):
        assert said == "ValueError: rank 1 was given something else than rank 0: learning_rate, trained"


def test_a_reward_that_fails_on_one_rank_stops_all_of_them(tmp_path: Path) -> None:
    def failing(rank: int) -> Any:
        return run(tiny(), reward=lambda c: score(c) * (math.nan if rank == 1 else 1.0))

    first, second = in_ranks(2, failing, tmp_path / "ranks")
    assert re.match(r"RewardError: reward is wrong for the completion .* it is nan, not a finite number", second)
    assert first == f"LostRankError: rank 1 has failed, so rank 0 stops: {second}"


def test_a_killed_rank_ends_the_run_with_an_error_and_a_file_to_go_on_from(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def killed(rank: int) -> Any:
        steps = 0

        def reward(completions: Completions) -> Tensor:
            nonlocal steps
            steps += 1
            if rank == 1 and steps == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return score(completions)

        return run(tiny(), reward=reward, steps=4, checkpoint=path, save_every=100, learning_rate=0.01)

    def resumed(rank: int) -> Any:
        model = tiny()
        run(model, steps=4, checkpoint=path, resume=True, learning_rate=0.01)
        return list(model.parameters())

    def whole(rank: int) -> Any:
        model = tiny()
        run(model, steps=4, learning_rate=0.01)
        return list(model.parameters())

    said, nothing = in_ranks(2, killed, tmp_path / "killed")
    assert nothing is None
    assert said.startswith("LostRankError: rank 0 of 2 waited for the others in vain, one has stopped or hangs: ")
    assert len(read_checkpoint(path)["history"]) == 2
    for found, expected in zip(in_ranks(2, resumed, tmp_path / "b"), in_ranks(2, whole, tmp_path / "c"), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))


def test_a_rank_that_hangs_is_waited_for_only_as_long_as_the_timeout(tmp_path: Path) -> None:
    def hanging(rank: int) -> Any:
        def reward(completions: Completions) -> Tensor:
            if rank == 1:
                time.sleep(100)
            return score(completions)

        return run(tiny(), reward=reward)

    said, _ = in_ranks(2, hanging, tmp_path / "ranks", timeout=6.0)
    assert said.startswith("LostRankError: rank 0 of 2 waited for the others in vain")


def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "examples" / "post_train.py"), "--checkpoint", str(tmp_path / "run"), "--steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sorted: 0\.\d\d at first, 0\.\d\d after 2 steps\n", done.stdout), done.stdout
    assert len(read_checkpoint(tmp_path / "run")["history"]) == 2

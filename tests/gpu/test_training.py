"""A step of LoRA on NCCL, by one worker and by as many as there are cards, two at most."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from factory.finetune.run import loop_of, prepare, training_of
from factory.finetune.train import follow_here
from factory.finetune.workers import Workers
from factory.real.sources import open_dataset
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator
from tests.finetune import test_run

pytestmark = pytest.mark.gpu


def worker(rank: int, world_size: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=world_size)
    cells = open_dataset("smear:60?size=16")
    training = {"steps": 3, "batch_size": 4, "warmup_steps": 1}
    names = tuple(sorted(set(cells.labels)))
    base = tiny_generator(Path(folder) / f"base-{rank}", class_names=names)
    config = test_run.config(base, training=training)
    split = split_of(cells, train=0.6, val=0.2, test=0.2)
    plan = prepare(config, cells, split, Path(folder) / str(rank))
    training_of(plan).first_stage(plan, device="cuda", follow=follow_here)
    workers = Workers(rank=rank, world_size=world_size, sharding="ddp", device=f"cuda:{rank}")
    loop = loop_of(training_of(plan).task(plan, plan.targets[0], workers), config, None)
    losses = [progress.losses["loss"] for progress in loop.run()]
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == 3
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_lora_is_trained_on_nccl(tmp_path: Path, world_size: int) -> None:
    if torch.cuda.device_count() < world_size:
        pytest.skip(f"{world_size} GPUs are needed, there is {torch.cuda.device_count()}")
    mp.spawn(worker, args=(world_size, str(tmp_path)), nprocs=world_size)

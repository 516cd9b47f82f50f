"""A group of training processes on this machine, without Ray: the pure loop over gloo."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from factory.finetune.cluster import Sharding
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.losses import add_noise, denoising_loss, training_scheduler
from factory.finetune.order import Part, step_indices
from factory.finetune.workers import Workers, place
from factory.models.unets import small_unet

IMAGES = torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(24, 3, 16, generator=torch.Generator().manual_seed(1))
BATCH = 8


def make_loop(workers: Workers, steps: int, folder: Path | None, **changes: object) -> Loop:
    torch.manual_seed(7)  # noqa: TID251
    unet = small_unet(sample_size_latent=8, channels=(32, 32), cross_attention_dim=16)
    scheduler = training_scheduler()

    def loss_of(module: nn.Module, part: Part) -> dict[str, Tensor]:
        indices = step_indices(part.step, batch_size=BATCH, num_images=len(IMAGES), seed=0)
        mine = part.take(torch.from_numpy(indices))
        noised = add_noise(scheduler, IMAGES[mine], part, batch_size=BATCH, seed=0)
        prediction = module(noised.noisy, noised.timesteps, CONTEXT[mine]).sample
        return {"loss": denoising_loss(scheduler, noised, prediction, snr_gamma=5.0)}

    known = {
        "steps": steps,
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "warmup_steps": 5,
        "decay_steps": steps // 2,
        "weight_decay": 0.01,
        "ema_decay": 0.99,
        "precision": "float32",
        "checkpoint_dir": folder,
    }
    return Loop(place(unet, workers), loss_of, LoopConfig(**(known | changes)), workers)


def _work(rank: int, count: int, sharding: Sharding, steps: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=count)
    workers = Workers(rank=rank, world_size=count, sharding=sharding)
    stop = int(os.environ.get("STOP_AFTER", "0"))
    loop = make_loop(workers, steps, Path(folder) / "checkpoints")
    for progress in loop.run(save_now=lambda: loop.step + 1 == stop - 1):
        if rank == 0:
            with (Path(folder) / "losses.jsonl").open("a") as file:
                file.write(json.dumps([progress.step, progress.losses["loss"]]) + "\n")
        if progress.step == stop:
            loop.wait()
            os.kill(os.getpid(), signal.SIGKILL)
    dist.destroy_process_group()


def main() -> None:
    count, sharding, steps, folder, port = sys.argv[1:]
    mp.start_processes(
        _work,
        (int(count), sharding, int(steps), folder, int(port)),
        nprocs=int(count),
        start_method="fork",  # what was imported is there: torch alone takes seconds
    )


if __name__ == "__main__":
    main()

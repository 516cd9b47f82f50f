"""A killed training goes on as if it had never stopped: equal losses and weights, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factory.config import load_config
from factory.errors import DataError, ModelError
from factory.finetune.autoencoder import Lesson, train_first_stage
from factory.finetune.checkpoint import Checkpoints, Notes, checkpoints, load_checkpoint
from factory.finetune.data import Material, load_material, save_material
from factory.finetune.latents import TURNS, turn
from factory.finetune.loop import Loop
from factory.finetune.method import task_of
from factory.finetune.order import Part, parts, step_indices, warmup_hold_decay
from factory.finetune.run import loop_of
from factory.methods.text.base import resumable
from factory.methods.text.config import BaseConfig
from factory.methods.text.pretraining import pretraining
from factory.models.autoencoder import small_autoencoder

DATA = Material(
    images=torch.arange(12 * 16 * 16 * 3).remainder(251).to(torch.uint8).view(12, 16, 16, 3),
    ids=tuple(map(str, range(12))),
    labels=("monocyte", "eosinophil") * 6,
    attributes=({"cell_size": "big"}, {"cell_size": "small"}) * 6,
    dataset_fingerprint="d",
    split_digest="s",
)
AUTOENCODER = small_autoencoder(sample_size_px=16)
AUTOENCODER.register_to_config(scaling_factor=1.0)
LATENTS = torch.linspace(-1, 1, 12 * TURNS * 4 * 16).view(12, TURNS, 4, 4, 4).half()


def config(**changes: object) -> BaseConfig:
    base = load_config(BaseConfig, "wbc_base")
    denoiser = base.denoiser.model_copy(
        update={"steps": 6, "batch_size": 4, "warmup_steps": 2, "decay_steps": 2}
        | {"channels": (32, 32)}
        | changes
    )
    autoencoder = base.autoencoder.model_copy(update={"steps": 3, "batch_size": 2})
    return base.model_copy(update={"denoiser": denoiser, "autoencoder": autoencoder, "size_px": 16})


def make_loop(output: Path, cfg: BaseConfig) -> Loop:
    learn = replace(DATA, latents=LATENTS)
    training = pretraining(learn, cfg, AUTOENCODER)
    task = task_of(training, learn, depends_on=resumable(cfg))
    return loop_of(task, cfg, output / "checkpoints")


def state(loop: Loop) -> dict[str, torch.Tensor]:
    return {**loop.model.state_dict(), **{f"ema.{k}": v for k, v in loop.ema.values.items()}}


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole", config())
    expected = [p.losses["loss"] for p in whole.run()]

    broken = make_loop(tmp_path / "broken", config())
    steps = broken.run()
    got = [next(steps).losses["loss"] for _ in range(3)]
    broken.save()
    broken.wait()
    steps.close()

    resumed = make_loop(tmp_path / "broken", config())
    got += [p.losses["loss"] for p in resumed.run()]
    assert got == expected
    for name, value in state(whole).items():
        assert torch.equal(value, state(resumed)[name]), name


def test_a_run_can_be_extended_but_not_changed(tmp_path: Path) -> None:
    first = make_loop(tmp_path, config())
    list(first.run())
    assert make_loop(tmp_path, config(steps=9)).resume() == 6
    with pytest.raises(ModelError, match=r"snr_gamma 5\.0 there, 1\.0 here"):
        make_loop(tmp_path, config(snr_gamma=1.0)).resume()


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    list(make_loop(tmp_path, config()).run())
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    shard = next(newest.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ModelError, match=f"{newest.name} cannot be read"):
        make_loop(tmp_path, config()).resume()


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, config())
    for loop.step in (1, 2, 3, 4):
        loop.save()
    loop.wait()
    names = [p.name for p in checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000003", "step-00000004"]


def test_the_loss_falls(tmp_path: Path) -> None:
    cfg = config(steps=60, learning_rate=2e-3, ema_decay=0.9, condition_dropout=0.0)
    losses = [p.losses["loss"] for p in make_loop(tmp_path, cfg).run()]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_finished_autoencoder_is_loaded_not_trained_again(tmp_path: Path) -> None:
    stage, steps = config().autoencoder, []
    for _ in range(2):
        autoencoder = train_first_stage(
            stage,
            Lesson(images=DATA.images, seed=0),
            tmp_path / "autoencoder",
            follow=lambda loop: steps.extend(progress.step for progress in loop.run()),
        )
    assert steps == [1, 2, 3]
    assert autoencoder.config.scaling_factor > 0


def test_workers_share_a_step_without_overlap() -> None:
    indices = step_indices(5, batch_size=12, num_images=20, seed=0)
    taken = [
        int(i)
        for rank in range(3)
        for part in parts(5, rank=rank, world_size=3, accumulate=2)
        for i in part.take(indices)
    ]
    assert sorted(taken) == sorted(indices)


def test_the_best_checkpoint_is_spared(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1, best_by="val_loss")
    for step, loss in enumerate((0.5, 0.2, 0.4, 0.3)):
        store.save({"x": torch.ones(2)}, Notes(step=step, config={}, metrics={"val_loss": loss}))
    store.wait()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001", "step-00000003"]
    assert store.best() == tmp_path / "step-00000001"


def test_what_is_saved_does_not_change_with_the_training(tmp_path: Path) -> None:
    value = torch.zeros(1_000_000)
    store = Checkpoints(tmp_path)
    store.save({"x": value}, Notes(step=1, config={}))
    value += 1
    store.wait()
    loaded = torch.full_like(value, 7)
    load_checkpoint(store.newest(), {"x": loaded}, config={})
    assert loaded.eq(0).all()


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    store.save({"x": torch.zeros(3)}, Notes(step=1, config={}))
    store.wait()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", full)
    store.save({"x": torch.ones(3)}, Notes(step=2, config={}))
    with pytest.raises(ModelError, match=r"could not be written .*No space left"):
        store.wait()
    assert store.newest() == tmp_path / "step-00000001"


def test_a_loss_that_is_not_finite_stops_before_it_spoils_weights(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, config())
    good = loop.loss_of

    def bad(model: torch.nn.Module, part: Part) -> dict[str, torch.Tensor]:
        losses = good(model, part)
        return {"loss": losses["loss"] * (float("nan") if part.step == 3 else 1.0)}

    loop.loss_of = bad
    with pytest.raises(ModelError, match="step 3: loss nan"):
        list(loop.run())
    assert all(p.isfinite().all() for p in loop.model.parameters())


def test_accumulated_parts_give_the_whole_batchs_losses(tmp_path: Path) -> None:
    cfg = config(steps=4)
    whole = [p.losses["loss"] for p in make_loop(tmp_path / "a", cfg).run()]
    loop = make_loop(tmp_path / "b", cfg)
    loop.config = replace(loop.config, accumulate=2)
    assert [p.losses["loss"] for p in loop.run()] == pytest.approx(whole, rel=2e-3)  # bfloat16


def test_an_epoch_shows_no_image_twice() -> None:
    epoch = [step_indices(s, batch_size=5, num_images=20, seed=0) for s in range(4)]
    assert sorted(i for step in epoch for i in step) == list(range(20))
    assert list(step_indices(4, batch_size=5, num_images=20, seed=0)) != list(epoch[0])


def test_all_eight_turns_differ() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert len({tuple(turn(image, n).flatten().tolist()) for n in range(TURNS)}) == TURNS


def test_the_rate_warms_up_holds_and_decays_to_two_percent() -> None:
    rates = [warmup_hold_decay(s, steps=100, warmup_steps=10, decay_steps=20) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[79] == 1
    assert rates[100] == pytest.approx(0.02)
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_damaged_images_of_a_training_are_named(tmp_path: Path) -> None:
    path = save_material(DATA, tmp_path)
    found = load_material(path)
    assert (found.labels, found.attributes) == (DATA.labels, DATA.attributes)
    assert torch.equal(found.images, DATA.images)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=f"{path.name} cannot be read"):
        load_material(path)

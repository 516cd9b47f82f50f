"""The parts of a pair generator as diffusers saves, moves and loads them."""

from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline

from factory.models.pair_unet import PairUNet


class PairPipeline(DiffusionPipeline):  # type: ignore[misc]
    """U-Net and scheduler, and an autoencoder where the image part is latents.

    It draws nothing: `factory.sample.methods.pairs` does. Import this module before
    `from_pretrained`: diffusers only uses classes of ours that are already imported.
    """

    _optional_components = ["vae"]

    def __init__(
        self, unet: PairUNet, scheduler: DDPMScheduler, vae: AutoencoderKL | None = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)


def pair_scheduler(
    *, prediction_type: str = "v_prediction", beta_schedule: str = "squaredcos_cap_v2"
) -> DDPMScheduler:
    """Return the training schedule of pairs: 1000 steps; 'linear' is diffuse-gen's.

    'linspace' spacing is respacing as A. Nichol and P. Dhariwal do it (Improved Denoising Diffusion
    Probabilistic Models, 2021): n steps, evenly, first and last included.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        timestep_spacing="linspace",
        clip_sample=False,  # the method clips, the same for every solver
    )

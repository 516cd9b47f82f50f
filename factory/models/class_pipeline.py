"""The parts of a class-conditional generator as diffusers saves, moves and loads them."""

from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from factory.models.class_unet import ClassUNet


class ClassConditionalPipeline(DiffusionPipeline):  # type: ignore[misc]
    """U-Net, autoencoder and scheduler; a text encoder only if the conditioning is 'text'.

    It draws nothing: `factory.sample.methods.class_conditional` does. Import this module before
    `from_pretrained`: diffusers only uses classes of ours that are already imported.
    """

    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        unet: ClassUNet,
        vae: AutoencoderKL,
        scheduler: DDPMScheduler,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, vae=vae, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )

"""The checkpoints that OpenAI published, by the names of their files: what their READMEs' flags say of each."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """preset: in conf/network. classes: of labels, None for an unconditional model. schedule: in conf/schedule.

    rescaled: the network's time is (t - 1) * 1000 / T ("rescale_timesteps"). kind: "diffusion", "classifier" or "upsampler".
    dropout: in place of the preset's.
    """

    preset: str
    image_size: int
    classes: int | None
    schedule: str
    T: int
    rescaled: bool
    new_attention_order: bool = False
    kind: str = "diffusion"
    dropout: float | None = None

    @property
    def time_scale(self) -> float:
        """Of the network's time."""
        return 1000 / self.T if self.rescaled else 1.0


def _improved(
    preset: str, image_size: int, classes: int | None, schedule: str = "cosine", T: int = 4000, *, rescaled: bool = True
) -> Published:
    return Published(preset, image_size, classes, schedule, T, rescaled)


def _guided(
    preset: str,
    image_size: int,
    classes: int | None,
    schedule: str = "linear",
    *,
    new: bool = False,
    kind: str = "diffusion",
) -> Published:
    return Published(preset, image_size, classes, schedule, 1000, False, new, kind)


PUBLISHED = {
    # Nichol & Dhariwal 2021, some without the rescaled timesteps that are their code's default.
    # "vlb" was trained on the bound, all others by the hybrid objective.
    "imagenet64_uncond_100M_1500K": _improved("improved_imagenet64", 64, None),
    "imagenet64_uncond_vlb_100M_1500K": _improved("improved_imagenet64", 64, None),
    "cifar10_uncond_50M_500K": _improved("improved_cifar10", 32, None),
    "cifar10_uncond_vlb_50M_500K": _improved("improved_cifar10", 32, None),
    "imagenet64_cond_270M_250K": _improved("improved_imagenet64_270m", 64, 1000, rescaled=False),
    "upsample_cond_500K": _improved("improved_upsampler_256", 256, 1000, "linear", rescaled=False)._replace(
        kind="upsampler"
    ),
    "lsun_uncond_100M_1200K_bs128": _improved("improved_lsun256", 256, None, "linear", 1000, rescaled=False),
    "lsun_uncond_100M_2400K_bs64": _improved("improved_lsun256", 256, None, "linear", 1000, rescaled=False),
    # Dhariwal & Nichol 2021.
    "64x64_diffusion": _guided("adm_64", 64, 1000, "cosine", new=True),
    "128x128_diffusion": _guided("adm_128", 128, 1000),
    "256x256_diffusion": _guided("adm_256", 256, 1000),
    "256x256_diffusion_uncond": _guided("adm_256", 256, None),
    "512x512_diffusion": _guided("adm_512", 512, 1000),
    "lsun_bedroom": _guided("adm_256", 256, None)._replace(dropout=0.1),
    "lsun_cat": _guided("adm_256", 256, None)._replace(dropout=0.1),
    "lsun_horse": _guided("adm_256", 256, None)._replace(dropout=0.1),
    "lsun_horse_nodropout": _guided("adm_256", 256, None),
    "64x64_classifier": _guided("adm_classifier_64", 64, 1000, "cosine", kind="classifier"),
    "128x128_classifier": _guided("adm_classifier_128", 128, 1000, kind="classifier"),
    "256x256_classifier": _guided("adm_classifier_256", 256, 1000, kind="classifier"),
    "512x512_classifier": _guided("adm_classifier_512", 512, 1000, kind="classifier"),
    "64_256_upsampler": _guided("adm_upsampler_256", 256, 1000, kind="upsampler"),
    "128_512_upsampler": _guided("adm_upsampler_512", 512, 1000, kind="upsampler"),
}

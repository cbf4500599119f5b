"""Train a diffusion model: `python train.py schedule=cosine objective=hybrid`; every option: `python train.py --help`."""

from ddpm_lab.cli import door

if __name__ == "__main__":
    door("train", "fit")

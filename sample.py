"""Draw images from a trained run: `python sample.py run=outputs/… sampler=ddim sampler.steps=50 n=64 seed=0`."""

from ddpm_lab.cli import door

if __name__ == "__main__":
    door("sample", "sample")

"""Bring a model into another form: `python convert.py from=outputs/… to=diffusers out=exported`."""

from ddpm_lab.cli import door

if __name__ == "__main__":
    door("convert", "convert")

"""Evaluate a trained run: `python evaluate.py run=outputs/…`; reference statistics: `python evaluate.py stats data=…`."""

from ddpm_lab.cli import door

if __name__ == "__main__":
    door("evaluate", "evaluate", "stats")

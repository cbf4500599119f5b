"""Show what a sweep or a run has found: `python report.py sweep=outputs/sweeps/…` or `run=outputs/…`."""

from ddpm_lab.cli import door

if __name__ == "__main__":
    door("report", "report")

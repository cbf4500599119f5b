"""What guidance costs and gives on digits: agreement with the requested class, fidelity and diversity over the scale.

    python -m benchmarks.guidance out=FOLDER scales=0,1,2 run=RUN guidance=classifier_free [any option of sample.py]

An independent judge, scikit-learn's SVC fitted on the training split's pixels, says how many images are of the class that
was asked for; FID, precision and recall are those of evaluate.py with features=classifier. Writes tradeoff.png and .csv.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.svm import SVC

from ddpm_lab.data.digits import digits

ROOT = Path(__file__).parent.parent
METRICS = ("fid", "precision", "recall")


def judge() -> tuple[SVC, float]:
    """The SVC on pixels 0..255, and the share of the test split that it names rightly."""
    train, test = digits("train"), digits("test")
    fitted = SVC(gamma=0.001 * (16 / 255) ** 2, C=10).fit(train.images.flatten(1).double(), train.labels)
    return fitted, fitted.score(test.images.flatten(1).double(), test.labels)


def door(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def measure(folder: Path, scale: str, options: list[str], svc: SVC) -> dict[str, float]:
    """Images at this scale, and all numbers of them."""
    here = folder / f"scale_{scale}"
    door("sample.py", *options, f"guidance.scale={scale}", f"hydra.run.dir={here}")
    with np.load(here / "samples.npz") as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    door(
        *("evaluate.py", f"samples={here / 'samples.npz'}", "data=digits", "features=classifier", "dashboard=none"),
        *("metrics.kid=null", f"hydra.run.dir={here}"),
    )
    found = json.loads((here / "metrics.json").read_text())
    of = {name: next(v for k, v in found.items() if k.startswith(name) and isinstance(v, float)) for name in METRICS}
    named = svc.predict(images.reshape(len(images), -1).astype(float))
    spread = np.mean([images[labels == y].std(0).mean() for y in np.unique(labels)])
    return {"scale": float(scale), "agreement": float((named == labels).mean()), "spread": float(spread), **of}


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    folder, scales = Path(given.pop("out")).resolve(), given.pop("scales").split(",")
    options = [f"{key}={value}" for key, value in given.items()]
    svc, real = judge()
    rows = []
    for scale in scales:
        rows.append(measure(folder, scale, options, svc))
        print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    with (folder / "tradeoff.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    over, against, fid = figure.subplots(1, 3)
    x = [row["scale"] for row in rows]
    for name, label in (
        ("agreement", "class agreement (SVC)"),
        ("precision", "precision"),
        ("recall", "recall (diversity)"),
    ):
        over.plot(x, [row[name] for row in rows], marker="o", label=label)
    over.axhline(real, color="grey", linestyle=":", label="SVC on real test images")
    over.set(title="over the scale", xlabel="guidance scale", ylim=(0, 1.03))
    over.legend()
    against.plot([row["recall"] for row in rows], [row["agreement"] for row in rows], marker="o")
    for row in rows:
        against.annotate(
            f"{row['scale']:g}", (row["recall"], row["agreement"]), textcoords="offset points", xytext=(5, 5)
        )
    against.set(title="the trade, each point a scale", xlabel="recall (diversity)", ylabel="class agreement")
    fid.plot(x, [row["fid"] for row in rows], marker="o")
    fid.set(title="FID (classifier's features)", xlabel="guidance scale")
    fid.set_ylim(bottom=0)
    for axes in (over, against, fid):
        axes.grid(alpha=0.3)
    figure.savefig(folder / "tradeoff.png", dpi=110)
    print(f"SVC on real test images: {real:.4f} -> {folder}/tradeoff.png")


if __name__ == "__main__":
    main()

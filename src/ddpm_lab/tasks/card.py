"""The model card that travels with a converted model."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import runs
from ddpm_lab.tasks.foreign import Foreign

ANCESTRAL = """\
import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")  # the folder of this card
unet, scheduler = pipeline.unet.eval(), pipeline.scheduler
{labels}generator = torch.Generator().manual_seed(0)
x_T = torch.randn({n}, {shape}, generator=generator)
x = x_T
scheduler.set_timesteps({T})
for t in scheduler.timesteps:
    with torch.no_grad():
        output = unet(x, t{y}).sample
    x = scheduler.step(output, t, x, generator=generator).prev_sample
images = (x / 2 + 0.5).clamp(0, 1)  # [{n}, {shape}]
"""
DDIM = """\
from diffusers import DDIMScheduler

ddim = DDIMScheduler.from_config(scheduler.config)
ddim.set_timesteps({steps})
x = x_T
for t in ddim.timesteps:
    with torch.no_grad():
        output = unet(x, t{y}).sample[:, :{channels}]
    x = ddim.step(output, t, x, use_clipped_model_output=True).prev_sample
images = (x / 2 + 0.5).clamp(0, 1)
"""
CLIPPED = (
    " ddpm-lab's DDIM derives eps again from the clamped x_0, which is `use_clipped_model_output=True` there; diffusers' "
    "default keeps the network's eps and draws other images (x differed by up to 0.33 in one measurement)."
)


def card(config: DictConfig, source: Foreign) -> str:
    """Markdown: what the model is, how it is called, its options, its numbers."""
    lines = [f"# {source.about}", "", f"Written by ddpm-lab, commit {runs.commit()}, from `{config['from']}`.", ""]
    labels = "no labels" if source.num_classes is None else f"{source.num_classes} labels"
    lines.append(f"Images of {source.channels}x{source.image_size}x{source.image_size} in [-1, 1], {labels}.")
    lines += _labels(source)
    if source.scheduled is not None:
        betas, prediction, variance, _ = source.scheduled
        names = type(prediction).__name__, type(variance).__name__
        lines.append(f"T = {len(betas)}; the network predicts {names[0]}, variance {names[1]}.")
    if config.to == "diffusers":
        lines += ["", *_in_diffusers(source)]
    if source.folder is not None:
        numbers = {k: v for k, v in runs.read_metrics(source.folder).items() if isinstance(v, (int, float))}
        rates = runs.load_config(source.folder).ema_rates
        lines += [
            "",
            f"Weights here: {config.weights}. Numbers of the run, of its {'averaged' if rates else 'raw'} weights:",
        ]
        lines += ["", *(f"- {name}: {value}" for name, value in sorted(numbers.items()))]
        options = (source.folder / "config.yaml").read_text()
    else:
        options = OmegaConf.to_yaml(OmegaConf.create({"network": source.node}))
    return "\n".join([*lines, "", "Options:", "", "```yaml", options.rstrip(), "```", ""])


def _labels(source: Foreign) -> list[str]:
    """What each label stands for, as far as it is known."""
    if source.num_classes is None or source.folder is None:
        return []
    classes = source.num_classes - (source.null_label is not None)
    names = list(source.class_names or ())
    numbered = names == [str(label) for label in range(len(names))]  # digits, for instance
    known = [f"0 to {classes - 1}"] if numbered else [f"{label} = {name}" for label, name in enumerate(names)]
    none = "" if source.null_label is None else f"; {source.null_label} stands for none (the unconditional half)"
    return [f"Labels: {', '.join(known)}{none}."]


def _in_diffusers(source: Foreign) -> list[str]:
    """Code that draws images there: this project's ancestral sampler, and its DDIM."""
    assert source.scheduled is not None
    T, classes = len(source.scheduled.betas), source.num_classes
    chosen = [] if classes is None else list(range(min(4, classes - (source.null_label is not None))))
    there = {
        "n": len(chosen) or 4,
        "shape": f"{source.channels}, {source.image_size}, {source.image_size}",
        "channels": source.channels,
        "T": T,
        "steps": min(50, max(1, T // 4)),
        "y": ", y" if chosen else "",
        "labels": f"y = torch.tensor({chosen})  # the labels that are drawn\n" if chosen else "",
    }
    whole = (
        "`DDPMPipeline` alone gives no labels to the network; this loop does"
        if chosen
        else f"`pipeline({there['n']}, num_inference_steps={T})` does the same"
    )
    return [
        f"In diffusers, all T steps ({whole}):",
        "",
        f"```python\n{ANCESTRAL.format(**there)}```",
        "",
        "The same noise by DDIM in fewer steps, as `sampler=ddim sampler.spacing=ddim` walks in ddpm-lab."
        + (CLIPPED if source.scheduled.clip else ""),
        "",
        f"```python\n{DDIM.format(**there)}```",
    ]

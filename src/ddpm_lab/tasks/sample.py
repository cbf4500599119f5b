"""Draw images of a run, freely or steered."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from ddpm_lab import runs
from ddpm_lab.data.images import read_images, transparent_of
from ddpm_lab.errors import UserError
from ddpm_lab.folders import shown
from ddpm_lab.parts import named, part
from ddpm_lab.pixels import WITH_ALPHA, to_float
from ddpm_lab.provenance import origin
from ddpm_lab.tasks import cautions
from ddpm_lab.tasks.building import background_of, dataset_of, find_device, set_threads, to_draw
from ddpm_lab.tasks.contracts import check_methods
from ddpm_lab.tasks.foreign import load_model, weights_of
from ddpm_lab.tasks.guiding import Steered, chosen_labels, guidance_of, guide, guiding_runs
from ddpm_lab.tasks.precisions import settle_drawing


def sample(config: DictConfig) -> None:
    """Do config.task: a .png, an .npz (arr_0: uint8 [m, H, W, C]) and a .json of its name."""
    from ddpm_lab.evaluation.generation import Samples
    from ddpm_lab.pictures import save_npz
    from ddpm_lab.steering.job import Job, whole

    for option in ("n", "batch_size"):
        whole(option, config[option], 1)
    set_threads(config.threads)
    folder = runs.results_folder(HydraConfig.get().runtime.output_dir)
    task = instantiate(config.task, _convert_="all")
    sampler = instantiate(config.sampler, _convert_="all")
    check_methods("sampler", sampler)
    run, denoiser, step = load_model(config)
    device = find_device(config.accelerator)
    denoiser.to(device)
    note = settle_drawing(config)
    if note is not None:
        print(note, flush=True)
    steered = guide(config.guidance, run, to_draw(denoiser, config.precision, config.compile))
    shape = (run.data.channels, run.data.image_size, run.data.image_size)
    chosen = chosen_labels(config.labels, steered)
    samples = Samples(
        steered.denoiser.eval(),
        sampler,
        shape,
        config.seed,
        chosen,
        device,
        steered.about,
        steered.class_names,
        steered.null_label,
    )
    used: list[str] = []
    job = Job(
        samples,
        config.n,
        config.batch_size,
        sources=lambda n: _sources(config, run, n, steered, used),
        labels_given=config.labels is not None,
        null_label=steered.null_label,
        about=f"{guidance_of(steered.about)}seed {config.seed}, step {step}",
    )
    for sentence in cautions.of_drawing(denoiser):  # the job says it of the samplers that it takes
        print(f"warning: {sentence}", flush=True)
    with job.bar:
        done = task(job)
    if config.images is not None and not used:
        print(f"note: images={config.images} has no part in task={task.name}, which starts from none")
    save_npz(folder / f"{task.name}.npz", done.images, done.labels, **done.arrays)
    done.sheet.save(folder / f"{task.name}.png")
    protocol = {
        **samples.protocol(),
        "task": {"name": task.name, **vars(task)},
        "images": config.images if used else None,
        "sources": used[0] if used else None,
        "weights": weights_of(config),
        "precision": config.precision,
        "compile": config.compile,
        "step": step,
        **origin(run, config, *guiding_runs(config.guidance)),
        **done.protocol,
    }
    if used and done.labels is not None and not job.labels_given:
        none = steered.null_label is not None and bool((done.labels == steered.null_label).all())
        protocol["labels"] = "none" if none else "those of the images"
    overrides = list(HydraConfig.get().overrides.task)
    runs.write_json(folder / f"{task.name}.json", {**done.numbers, "protocol": protocol, "overrides": overrides})
    names = [f"{task.name}.{kind}" for kind in ("png", "npz", "json")]
    if done.draw_error is not None:
        done.draw_error(folder / f"{task.name}_error.png")
        names.append(f"{task.name}_error.png")
    print(f"{done.told}\n{job.caption} -> {shown(folder)}/{', '.join(names)}")


def _sources(
    config: DictConfig, run: DictConfig, n: int, steered: Steered, used: list[str]
) -> tuple[Tensor, Tensor | None]:
    """n images of config.images, without labels, or of the run's test split, with labels if those are meant.

    Where there are more, the seed chooses them; which they are is added to `used`.

    Raises ValueError if there are none or fewer, or of another shape than the model's.
    """
    if config.images is None:
        if "dataset" not in run.data:
            raise UserError("this task starts from images: add images=… (files), or data=… for its test split")
        images, name = dataset_of(run)(split="test"), f"the test split of {run.data.name}"
    else:
        background, name = background_of(config, run.data), f"images={config.images}"
        images = read_images(config.images, background, alpha=run.data.channels in WITH_ALPHA)
        for note in getattr(images, "notes", ()):
            print(f"note: {note}", flush=True)
    if n > len(images):
        raise UserError(f"{n} images are needed and {name} has {len(images)}: take a smaller n")
    chosen = part(len(images), n, config.seed)
    used.append(f"{named(len(images), n, config.seed)}, of {name}")
    if config.images is not None and run.data.channels not in WITH_ALPHA and (clear := transparent_of(images, chosen)):
        used[-1] += f", {clear} with transparency over {background}"
        print(
            f"note: {clear} of {n} images have transparency and are composited over {background} (background=…)",
            flush=True,
        )
    pixels, labels = images.__getitems__(chosen)
    wanted = (run.data.channels, run.data.image_size, run.data.image_size)
    if tuple(pixels.shape[1:]) != wanted:
        raise UserError(
            f"{name} has images of (C, H, W) = {tuple(pixels.shape[1:])} and the model makes {wanted}: resize or convert "
            "them first"
        )
    same = run.data.name == steered.data and list(run.data.get("class_names") or ()) == list(steered.class_names)
    known = config.images is None and same and run.data.num_classes is not None
    return to_float(pixels), labels if known else None

"""The model card of an exported model: what it learned from, how, how well, and what it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from pydantic import TypeAdapter

from dataset import DataContract
from errors import UserError, in_one_line
from ldm.checkpoint_file import LDMFile
from ldm.pipeline import SpectrogramPipeline
from radar.metadata import RadarMetadata
from spectrograms.contract import FLOAT_MODES
from spectrograms.listing import printable
from training.files import read_object

TAGS = ["micro-doppler", "radar", "spectrogram", "data-augmentation", "latent-diffusion", "vq-gan", "class-conditional"]
GROUPING = ("group_by", "group_csv", "run_gap")
# Say where files lay or how the run was watched, not how the model was made; paths tell of the machine and its user.
LEFT_OUT = {
    *("data_dir", "output_dir", "vqgan_path", "splits", "group_csv", "lpips_weights", "init_from"),
    *("restart", "resplit", "dry_run", "skip_unreadable", "num_workers", "device", "keep_checkpoints"),
    *("logging_steps", "validation_epochs", "save_epochs", "save_steps"),
    *("use_wandb", "wandb_project", "wandb_name", "use_tensorboard"),
}
LIMITS = """\
- It knows the classes above as this data set shows them, this radar's settings, and these people, places and angles;
  of others it says nothing. Its images carry no more information than its training images did.
- The values are what the data set's pixels were. It has no notion of range, phase or power beyond them.
- Whether its images help a classifier has to be measured on held-out recordings, for every use anew.
- **Privacy**: gait identifies people. Images of this model can resemble the recordings of the people it learned from,
  and so can the weights give them away; treat both as you treat the recordings. This folder holds no training images\
"""
CONDITIONS_KEPT = (
    ", but the\n  noise floor, the level and the mean Doppler of each, as seven figures in `model_index.json`"
)


def model_card(
    pipeline: SpectrogramPipeline, payload: LDMFile, name: str, licence: str | None, report: dict[str, Any] | None
) -> str:
    """The whole card, metadata first.

    Args:
        pipeline, payload: from ``load_ldm``.
        name: of the folder, which the example loads.
        licence: an identifier such as ``cc-by-4.0``; None leaves it out.
        report: of this model's images, from ``read_report``, or None.

    Raises:
        ValueError: the radar's facts mean nothing.
    """
    metadata = ModelCardData(
        library_name="diffusers", pipeline_tag="unconditional-image-generation", license=licence, tags=TAGS
    )
    contract = payload["contract"]
    sections = [
        f"# {name}",
        "Class-conditional latent diffusion over the codes of a VQ-GAN: draws labelled micro-Doppler spectrograms of "
        f"{len(contract.classes)} classes.",
        "## Use",
        _example(pipeline, name),
        "## Data",
        _data(payload),
        "## Radar",
        _radar(contract),
        "## Training",
        _training(pipeline, payload),
        "## Figures",
        _figures(payload, report),
        "## Limits",
        LIMITS + (CONDITIONS_KEPT if pipeline.conditions else "") + ".",
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in sections) + "\n"))


def read_report(path: Path, contract: DataContract) -> dict[str, Any]:
    """What ``evaluate.py`` wrote to ``path`` of images of a model with this ``contract``.

    Raises:
        UserError: it is no such report, or one of other classes.
    """
    report = read_object(path, "give the report.json that evaluate.py wrote")
    try:
        _evaluation(report)
        classes = [str(name) for name in report["classes"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"--report {path}: not a report.json of evaluate.py ({in_one_line(error)})") from error
    if sorted(classes) != sorted(contract.classes):
        raise UserError(
            f"--report {path}: judges images of {', '.join(classes)}; this model knows {', '.join(contract.classes)}"
        )
    return report


def _example(pipeline: SpectrogramPipeline, name: str) -> str:
    contract = pipeline.contract
    guide = (
        " A worse UNet lies beside the good one: with `guidance_scale=1.5` samples lead away from what it makes of "
        "their class."
    )
    told = (
        " Images are asked for at noise floors, levels and mean Dopplers that any of the training images has; "
        '`conditions="own"` for those of their class alone.'
    )
    ending = "tiff" if contract.native_mode in FLOAT_MODES else "png"
    return f"""\
From the folder that holds this one, with the project that wrote it on `PYTHONPATH` and its `requirements.txt`
installed (the classes are the project's; the folder holds no code, and `trust_remote_code` is not needed):

```python
import torch

from ldm.pipeline import SpectrogramPipeline

pipe = SpectrogramPipeline.from_pretrained({name!r}, use_safetensors=True)
generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
images = pipe([{contract.classes[0]!r}] * 4, num_inference_steps=20, generator=generators).images
for number, image in enumerate(images):
    image.save(f"sample_{{number}}.{ending}")
```

Once `ldm.pipeline` is imported, `DiffusionPipeline.from_pretrained` finds the class, too. Generators from
`ldm.pipeline.image_generator(seed, label, index)` give the images that `sample.py` numbers so.\
{guide if pipeline.guide is not None else ""}{told if pipeline.conditions else ""}"""


def _data(payload: LDMFile) -> str:
    contract, arguments = payload["contract"], _stage1(payload).get("identity", {}).get("arguments", {})
    counts = torch.bincount(payload["reference_labels"], minlength=len(contract.classes)).tolist()
    numbers = payload["identity"].get("images")
    others = f", {numbers['val']} for validation, {numbers['test']} held out" if numbers else ""
    given = [f"--{flag}" for flag in GROUPING if arguments.get(flag) is not None]
    grouping = (
        f"images of a group stay in one part ({', '.join(given)})"
        if given
        else "stage 1 was given no grouping flag; a `splits.json` that was there before may have had one"
    )
    low, high = contract.value_range
    channels = "one channel" if contract.channels == 1 else "three channels"
    unit = "the files' whole range" if (low, high) == (0.0, 1.0) else f"{_range(low, high, '')} in the files' unit"
    return "\n\n".join(
        [
            _table(["class", "training images"], list(zip(map(_cell, contract.classes), counts, strict=True))),
            f"{sum(counts)} training images{others}. Split: {grouping}.",
            _table(
                ["", ""],
                [
                    ["files", f"{_size(contract.native_size)} pixels (rows x columns), mode {contract.native_mode}"],
                    ["learned at", f"{_size(contract.image_size)}, {channels}"],
                    ["colour map", contract.colormap or "none: values as stored"],
                    ["-1 to 1 in the model", unit],
                ],
            ),
        ]
    )


def _radar(contract: DataContract) -> str:
    if contract.radar is None:
        return "The data set had no `radar.json`: what rows, columns and values mean in hertz and seconds is not known."
    radar = TypeAdapter(RadarMetadata).validate_python(contract.radar)
    rows = [
        ["carrier", "not known" if radar.carrier_hz is None else f"{radar.carrier_hz / 1e9:g} GHz"],
        ["PRF", f"{radar.prf_hz:g} Hz"],
        ["rows, first to last", _range(radar.doppler_top_hz, radar.doppler_bottom_hz, " Hz of Doppler")],
        ["columns", f"{radar.duration_s:g} s of slow time"],
        ["values, 0 to 1", _range(radar.floor_db, radar.ceiling_db, f" dB over {_cell(radar.reference)}")],
        ["STFT", f"{_cell(radar.window)} of {radar.window_length}, hop {radar.hop}, {radar.fft_size} points"],
        ["clutter filter", _cell(radar.mti)],
    ]
    if radar.carrier_hz is not None:
        speeds = (radar.velocity(hertz) for hertz in (radar.doppler_top_hz, radar.doppler_bottom_hz))
        rows.insert(3, ["the same", _range(*speeds, " m/s (positive: approaching)")])
    return _table(["", ""], rows)


def _stage1(payload: LDMFile) -> dict[str, Any]:
    return payload["identity"].get("stage1", {})


def _training(pipeline: SpectrogramPipeline, payload: LDMFile) -> str:
    stage1, quantizer = _stage1(payload), pipeline.vqvae.quantize
    images = len(payload["reference_labels"])
    parts = []
    for title, arguments, epoch, more in (
        (
            "Stage 1, VQ-GAN",
            stage1.get("identity", {}).get("arguments"),
            stage1.get("epoch"),
            f"{int(quantizer.live)} codes are searched, of {quantizer.n_e} in the book.",
        ),
        ("Stage 2, latent diffusion", payload["identity"].get("arguments"), payload["epoch"], ""),
    ):
        parts.append(f"### {title}")
        if not arguments:
            parts.append(f"Its arguments are not stored in the checkpoint. {more}")
            continue
        batch = min(arguments["batch_size"], images)
        parts.append(f"{epoch} epochs, {epoch * (images // batch)} steps of {batch} images. {more}".strip())
        rows = [[f"`--{flag}`", _value(value)] for flag, value in arguments.items() if flag not in LEFT_OUT]
        parts.append(_table(["flag", "value"], rows))
    networks = {"VQ-GAN": pipeline.vqvae, "UNet": pipeline.unet}
    sizes = (f"{name} {network.num_parameters() / 1e6:.2f} M" for name, network in networks.items())
    return "\n\n".join([*parts, f"Parameters: {', '.join(sizes)}."])


def _figures(payload: LDMFile, report: dict[str, Any] | None) -> str:
    parts = []
    numbers = payload["identity"].get("images")
    whose = "training" if numbers and not numbers["val"] else "held-out"
    if whose == "training":
        parts.append("There was no validation part, so the figures of both stages tell nothing of images new to them.")
    for title, figures in (
        (f"Stage 1 on {whose} images", _stage1(payload).get("figures")),
        (f"Stage 2 on {whose} latents", payload.get("figures")),
    ):
        stored = _table(["figure", "value"], [[name, f"{value:.4g}"] for name, value in (figures or {}).items()])
        parts += [f"### {title}", stored if figures else "Not stored in the checkpoint."]
    parts.append("### What the images are worth")
    return "\n\n".join(parts + (_evaluation(report) if report else ["Not measured: no report of `evaluate.py` given."]))


def _evaluation(report: dict[str, Any]) -> list[str]:
    agreement, novelty, fidelity = report["agreement"], report["novelty"], report["fidelity"]
    arms = [
        [
            arm,
            _percent(row["accuracy"], row["accuracy_half_interval"]),
            _percent(row["difference_to_baseline"], row["difference_half_interval"]),
        ]
        for arm, row in report["gain"].items()
    ]
    distances = (_number(novelty[name]) for name in ("median_distance", "median_distance_held_out"))
    return [
        f"{report['headline']} {report['setting']}",
        _table(["training images", "accuracy %", "points over real + classical"], arms),
        f"Labels: a classifier of real images gives {_percent(agreement['synthetic'])}% of the images the label they "
        f"were drawn for, and {_percent(agreement['held_out'])}% of held-out real images theirs.",
        f"Copies: {novelty['copies']} of the images judged are copies of a training image "
        f"({_percent(novelty['copied_share'])}%), pixel by pixel.",
        _table(
            ["figure", "synthetic", "held-out real (the floor)"],
            [
                ["median distance to the nearest training image", *distances],
                *(
                    [f"{name} (features of classifiers)", _number(value), _number(fidelity["floor"][name])]
                    for name, value in fidelity["synthetic"].items()
                ),
            ],
        ),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _value(value: Any) -> str:
    words = value if isinstance(value, list) else ["none" if value is None else value]
    return _cell(" ".join(map(str, words)))


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _range(low: float, high: float, unit: str) -> str:
    return f"{low:.4g} to {high:.4g}{unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None, half: float | None = None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")

"""Train stage 2: the latent diffusion model that learns stage 1's latents, class by class."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from training.arguments import (
    Parser,
    count,
    existing_dir,
    existing_file,
    fraction,
    integer,
    positive_int,
    positive_real,
    real,
    run_script,
    weight,
)
from training.data_arguments import (
    add_augmentation_arguments,
    add_split_arguments,
    augmentation,
    check_data_arguments,
    split_options,
)
from training.norm_groups import add_groups_argument, settle_groups
from training.setup import (
    add_run_arguments,
    data_order,
    held_run_folder,
    make_accelerator,
    plain,
    refuse_another_run,
    run_task,
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", type=existing_dir, required=True, help="folder that stage 1 was trained on")
    parser.add_argument(
        "--vqgan_path",
        type=existing_file,
        default="vqgan_model_output/vqgan_epoch_300.pt",
        help="stage 1's checkpoint; image size, channels, colour map and classes come from it",
    )
    add_run_arguments(parser, "ldm_model_output", "micro-doppler-ldm")
    add_split_arguments(parser)
    augmentations = add_augmentation_arguments(parser)
    augmentations.add_argument(
        "--augment_encodings", type=integer(2), default=8, help="per image: one as it is, the others changed"
    )
    augmentations.add_argument(
        "--no_told_changes", action="store_true", help="do not tell the UNet which encodings were changed"
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--unet_channels", type=positive_int, nargs="+", default=[128, 256, 384], help="width of each level of the UNet"
    )
    group.add_argument("--unet_layers_per_block", type=integer(1, 8), default=2, help="residual blocks per level")
    group.add_argument("--attention_levels", type=count, default=2, help="coarsest levels that have self-attention")
    group.add_argument("--dropout", type=real(0, 0.9), default=0.0, help="in the UNet's residual blocks")
    add_groups_argument(group)
    group.add_argument(
        "--no_doppler_planes", action="store_true", help="do not tell the UNet the Doppler of each row of its input"
    )
    group.add_argument(
        "--no_told_conditions",
        action="store_true",
        help="do not tell the UNet each image's noise floor, level and mean Doppler beside its class",
    )
    group.add_argument(
        "--init_from",
        type=existing_file,
        default=None,
        help="begin with this stage 2's weights; classes by their names",
    )

    group = parser.add_argument_group("training")
    group.add_argument("--batch_size", type=positive_int, default=4, help="latents per step, over all processes")
    group.add_argument("--epochs", type=positive_int, default=500, help="passes over the training latents")
    group.add_argument("--lr", type=positive_real, default=1e-4, help="learning rate")
    group.add_argument("--lr_schedule", choices=("cosine", "constant"), default="cosine", help="after the warm-up")
    group.add_argument("--warmup", type=fraction, default=0.02, help="fraction of the run with a rising rate")
    group.add_argument("--weight_decay", type=weight, default=0.01, help="of AdamW")
    group.add_argument("--label_dropout", type=fraction, default=0.1, help="share of items trained without class")
    group.add_argument("--min_snr_gamma", type=positive_real, default=5.0, help="cap of the loss weight, as an SNR")
    group.add_argument("--least_loss_weight", type=weight, default=0.1, help="no noise level has a smaller weight")
    group.add_argument(
        "--noise_shift",
        type=positive_real,
        default=None,
        help="how many times stronger than the cosine schedule's the noise is (default: latents a side / 16)",
    )
    group.add_argument("--ema_decay", type=real(0, 0.99999), default=0.999, help="of the averaged weights")
    group.add_argument(
        "--guide_at", type=fraction, default=0.25, help="part of the run that ldm_guide.pt is kept of; 0: none"
    )
    group.add_argument("--max_grad_norm", type=positive_real, default=1.0, help="gradients are clipped to this norm")
    group.add_argument("--guidance_scale", type=weight, default=1.0, help="of the pictures drawn while training")
    args = parser.parse_args(argv)
    check_data_arguments(parser, args)
    settle_groups(parser, args, "--unet_channels", args.unet_channels)
    if args.attention_levels > len(args.unet_channels):
        parser.error(f"--attention_levels {args.attention_levels}: the UNet has {len(args.unet_channels)} levels")
    if not augmentation(args):
        args.no_told_changes = True  # there is nothing to tell: the run is one from before the flag was there
    return args


def train(args: argparse.Namespace) -> int:
    """Encode the data with stage 1, build stage 2 from the arguments and train it to its last epoch."""
    from dataclasses import asdict, replace

    import torch

    from dataset import open_data
    from ldm.conditions import FIGURES, PLANES
    from ldm.diffusion import DOPPLER_PLANES, build_unet
    from ldm.latents import LatentNormaliser, cached_latents, pad_to_multiple
    from ldm.ldm_trainer import LDMOptions, LDMTask
    from spectrograms.splits import FILE_NAME as SPLITS_FILE
    from spectrograms.splits import content_marks
    from training import processes
    from training.checkpoint import digest, state_digest
    from training.order import ChangedItems, SeededItems
    from vqvae.utils import division_warning, load_vqgan

    accelerator = make_accelerator(args.device, args.mixed_precision)
    refuse_another_run(args)
    vqgan, stage1 = load_vqgan(args.vqgan_path)
    contract = stage1["contract"]
    # Stage 1's own parts where they are not beside the data: its validation images must not be trained on here.
    split = split_options(args)
    of_stage1 = args.vqgan_path.parent / SPLITS_FILE
    if args.splits is None and not args.resplit and of_stage1.is_file():
        split = replace(split, path=of_stage1)
    with processes.first_goes_ahead():
        data = open_data(
            args.data_dir,
            image_size=contract.image_size,
            channels=contract.channels,
            colormap=contract.colormap,
            multiple_of=vqgan.factor,
            split=split,
            class_level=args.class_level,
            skip_unreadable=args.skip_unreadable,
            output_dir=args.output_dir,
            augmentation=augmentation(args),
            save_split=not args.dry_run,
            cache=not args.no_data_cache,
            contract=contract,
        )
    for note in data.notes:
        print(note)
    told = division_warning(stage1, args.data_dir, data.train.paths)
    if told and processes.is_first():
        print(f"warning: {told}", file=sys.stderr)
    vqgan_digest = state_digest(vqgan.state_dict())
    identity = {
        "arguments": plain(args),
        "vqgan": vqgan_digest,
        "train_images": digest(data.train.paths),
        "val_images": digest(data.val.paths),
        "train_content": content_marks(args.data_dir, data.train.paths),
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "stage1": {name: stage1[name] for name in ("epoch", "identity", "figures") if name in stage1},
    }
    torch.manual_seed(args.seed)
    grid = [side // vqgan.factor for side in contract.padded_size]
    padded = pad_to_multiple(torch.zeros(1, vqgan.config.latent_channels, *grid), 2 ** (len(args.unet_channels) - 1))
    unet = build_unet(
        padded.shape[1],
        tuple(padded.shape[-2:]),
        len(contract.classes),
        args.unet_channels,
        args.unet_layers_per_block,
        args.attention_levels,
        args.dropout,
        args.norm_num_groups,
        0 if args.no_doppler_planes else DOPPLER_PLANES,
        not args.no_told_changes,
        0 if args.no_told_conditions else PLANES,
    )
    if args.init_from is not None:
        begin_with(unet, args.init_from, list(contract.classes))
    order = data_order(len(data.train), args)
    total_steps = args.epochs * len(order)
    print(
        f"{len(data.train)} training, {len(data.val)} validation latents of {len(contract.classes)} classes, "
        f"{(vqgan.config.latent_channels, *grid)} each; {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M "
        f"parameters; {len(order)} steps an epoch, {total_steps} in all; device {accelerator.device}",
        flush=True,
    )
    if args.dry_run:
        return 0
    with held_run_folder(args) as folder:
        vqgan.to(accelerator.device)
        key = {"vqgan": vqgan_digest, "contract": contract.to_dict(), "images": data.fingerprint}
        key["conditions"] = list(FIGURES)
        changed = []
        if changes := augmentation(args):
            key |= {"augmentation": asdict(changes), "encodings": args.augment_encodings, "seed": args.seed}
            items = SeededItems(data.train, args.seed)
            changed = [ChangedItems(items, number, len(data.train)) for number in range(1, args.augment_encodings)]
        cached = cached_latents(
            folder.path / "latents.safetensors",
            key,
            vqgan,
            data.train.without_augmentation(),
            data.val,
            accelerator.device,
            contract.image_size,
            args.num_workers,
            changed,
        )
        normaliser = LatentNormaliser(**stage1["latent_statistics"])
        options = LDMOptions(**{name: getattr(args, name) for name in LDMOptions.__dataclass_fields__})
        task = LDMTask(
            accelerator,
            unet,
            vqgan,
            cached,
            normaliser,
            options,
            contract,
            identity,
            total_steps,
            args.seed,
        )
        return run_task(task, order, task.batches(order), folder, args)


def begin_with(unet: Any, path: Path, classes: list[str]) -> None:
    """Give ``unet`` the weights of the stage 2 checkpoint at ``path``, whose classes may be others.

    Raises:
        UserError: no such checkpoint, or one of another form.
    """
    import torch

    from ldm.checkpoint_file import load_ldm
    from ldm.diffusion import planes_told
    from training.warm_start import (
        CLASS_TABLE,
        FIRST_LAYER,
        fitted_classes,
        fitted_inputs,
        refuse_another_network,
        take_weights,
    )

    pipeline, _ = load_ldm(path)
    weights, fresh = pipeline.unet.state_dict(), unet.state_dict()
    tables = fresh[CLASS_TABLE].split(len(classes) + 1)
    weights[CLASS_TABLE] = torch.cat(
        [fitted_classes(weights[CLASS_TABLE], pipeline.class_names, table, classes) for table in tables]
    )
    # One that was not told the Doppler, or conditions, may be now.
    known, wanted = ((network.config.out_channels, *planes_told(network)) for network in (pipeline.unet, unet))
    weights[FIRST_LAYER] = fitted_inputs(weights[FIRST_LAYER], known, wanted)
    flags = "latent channels, widths, --no_doppler_planes and --no_told_conditions of the UNet"
    take_weights(unet, weights, path, flags)
    refuse_another_network(path, pipeline.unet.config, unet.config, "norm_num_groups")


if __name__ == "__main__":
    run_script(lambda: train(parse()))

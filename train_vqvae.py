"""Train stage 1: the VQ-GAN that compresses spectrograms to a small grid of codes."""

from __future__ import annotations

import argparse

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
    add_data_arguments,
    augmentation,
    check_data_arguments,
    split_options,
)
from training.norm_groups import add_groups_argument, settle_groups, single_channels
from training.setup import (
    add_run_arguments,
    data_order,
    held_run_folder,
    make_accelerator,
    plain,
    refuse_another_run,
    run_task,
)

LEAST_LPIPS_SIDE = {"vgg": 16, "alex": 31, "squeeze": 17}  # pixels; a smaller image is pooled to nothing


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", type=existing_dir, required=True, help="folder of class folders of images")
    add_run_arguments(parser, "vqgan_model_output", "micro-doppler-vqgan")
    add_data_arguments(parser)
    add_augmentation_arguments(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--in_channels", type=int, choices=(1, 3), default=None, help="image channels (default: 3; 1 with --colormap)"
    )
    group.add_argument(
        "--out_channels", type=int, choices=(1, 3), default=None, help="must equal --in_channels (default: the same)"
    )
    group.add_argument("--latent_channels", type=integer(1, 64), default=4, help="channels of the latent grid")
    group.add_argument("--num_vq_embeddings", type=integer(2, 2**20), default=8192, help="codes, live ones at most")
    group.add_argument(
        "--block_out_channels",
        type=positive_int,
        nargs="+",
        default=[64, 128, 256],
        help="width of each level; n levels shrink each side 2**(n-1) times",
    )
    group.add_argument("--layers_per_block", type=integer(1, 8), default=2, help="residual blocks per level")
    add_groups_argument(group)
    group.add_argument("--no_mid_attention", action="store_true", help="leave out the attention in the middle")
    modes = ("partial", "time", "replicate", "zeros")
    group.add_argument("--padding_mode", choices=modes, default="partial", help="beyond the images' edges")
    group.add_argument("--disc_channels", type=integer(4), default=64, help="width of the critic's first layer")
    group.add_argument("--disc_layers", type=integer(1, 6), default=3, help="strided layers of the critic")

    group.add_argument(
        "--init_from", type=existing_file, default=None, help="begin with this stage 1's weights, its codes apart"
    )

    group = parser.add_argument_group("training")
    group.add_argument("--batch_size", type=positive_int, default=8, help="images per step, over all processes")
    group.add_argument("--epochs", type=positive_int, default=300, help="passes over the training images")
    group.add_argument("--lr", type=positive_real, default=1e-4, help="learning rate of the model")
    group.add_argument("--disc_lr", type=positive_real, default=1e-4, help="learning rate of the critic")
    group.add_argument("--lr_schedule", choices=("cosine", "constant"), default="cosine", help="after the warm-up")
    group.add_argument("--warmup", type=fraction, default=0.02, help="fraction of the run with rising rates")
    group.add_argument("--reconstruction_loss_weight", type=weight, default=1.0, help="of the L1 distance")
    group.add_argument("--perceptual_loss_weight", type=weight, default=1.0, help="of LPIPS; 0: LPIPS is not loaded")
    group.add_argument("--spectral_loss_weight", type=weight, default=0.1, help="of the log power spectra's distance")
    group.add_argument("--vq_embed_loss_weight", type=weight, default=1.0, help="of the commitment to the codes")
    group.add_argument(
        "--g_loss_adv_weight", type=weight, default=0.1, help="of the critic, relative to the reconstruction's pull"
    )
    group.add_argument("--gradient_penalty_weight", type=weight, default=10.0, help="of the critic's penalty")
    group.add_argument("--penalty_every", type=positive_int, default=1, help="critic steps between penalties")
    group.add_argument("--latent_noise", type=weight, default=0.0, help="most noise on what is decoded in training")
    group.add_argument("--latent_scaling", type=fraction, default=0.0, help="share of the steps at another scale")
    group.add_argument("--codebook_start", type=real(0, 0.9), default=0.03, help="fraction of the run without codes")
    group.add_argument(
        "--codebook_idle", type=real(0, 0.9), default=0.4, help="under this part of an even share codes move"
    )
    group.add_argument("--disc_start", type=fraction, default=0.3, help="fraction of the run before the critic")
    group.add_argument("--disc_ramp", type=fraction, default=0.1, help="fraction over which its weight then rises")
    group.add_argument("--ema_decay", type=real(0, 0.99999), default=0.999, help="of the averaged weights")
    group.add_argument("--max_grad_norm", type=positive_real, default=1.0, help="gradients are clipped to this norm")
    group.add_argument("--lpips_net", choices=("vgg", "alex", "squeeze"), default="vgg", help="backbone of LPIPS")
    group.add_argument(
        "--lpips_weights", type=existing_file, default=None, help="torchvision's weights of it as a local file"
    )
    group.add_argument(
        "--calibration_images", type=count, default=256, help="training images on which the codes are placed, at most"
    )
    args = parser.parse_args(argv)
    check_data_arguments(parser, args)
    check(parser, args)
    return args


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse flags that cannot go together, and fill in those that follow from others."""
    if args.in_channels is None:
        args.in_channels = 1 if args.colormap else 3
    if args.out_channels is None:
        args.out_channels = args.in_channels
    if args.out_channels != args.in_channels:
        parser.error(f"--out_channels {args.out_channels}: must equal --in_channels {args.in_channels}")
    if args.colormap and args.in_channels != 1:
        parser.error(f"--in_channels {args.in_channels}: --colormap makes one channel of the colours; leave it out")
    settle_groups(parser, args, "--block_out_channels", args.block_out_channels)
    factor = 2 ** (len(args.block_out_channels) - 1)
    side = -(-min(args.image_size) // factor) * factor
    given = "--image_size gives"
    if args.latent_scaling:
        side, given = factor * max(1, side // factor // 2), "--latent_scaling shrinks --image_size to"
    least = 3 * 2**args.disc_layers  # with fewer, its last layers have nothing left to look at
    if args.g_loss_adv_weight and side < least:
        parser.error(f"--disc_layers {args.disc_layers}: needs {least} pixels a side, {given} {side}")
    if args.perceptual_loss_weight and side < LEAST_LPIPS_SIDE[args.lpips_net]:
        parser.error(
            f"--lpips_net {args.lpips_net}: needs {LEAST_LPIPS_SIDE[args.lpips_net]} pixels a side, {given} "
            f"{side}; --perceptual_loss_weight 0 goes without"
        )
    if args.calibration_images == 0:
        parser.error("--calibration_images 0: the codes need images to be placed on")


def train(args: argparse.Namespace) -> int:
    """Build stage 1 from the arguments and train it to its last epoch."""
    import torch

    from dataset import open_data
    from spectrograms.splits import content_marks
    from training import processes
    from training.checkpoint import digest
    from training.loader import calibration_images, fixed_batches, training_batches
    from training.warm_start import refuse_another_network, take_weights
    from vqvae.custom_vqgan import CustomVQGAN
    from vqvae.discriminator import PatchDiscriminator
    from vqvae.losses import load_lpips
    from vqvae.utils import load_vqgan
    from vqvae.vqgan_trainer import VQGANOptions, VQGANTask

    accelerator = make_accelerator(args.device, args.mixed_precision)
    refuse_another_run(args)
    lpips = load_lpips(args.lpips_net, args.lpips_weights) if args.perceptual_loss_weight else None
    with processes.first_goes_ahead():
        data = open_data(
            args.data_dir,
            image_size=args.image_size,
            channels=args.in_channels,
            colormap=args.colormap,
            multiple_of=2 ** (len(args.block_out_channels) - 1),
            split=split_options(args),
            class_level=args.class_level,
            skip_unreadable=args.skip_unreadable,
            output_dir=args.output_dir,
            augmentation=augmentation(args),
            save_split=not args.dry_run,
            cache=not args.no_data_cache,
        )
    torch.manual_seed(args.seed)
    model = CustomVQGAN(
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        latent_channels=args.latent_channels,
        num_vq_embeddings=args.num_vq_embeddings,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        norm_num_groups=args.norm_num_groups,
        mid_block_add_attention=not args.no_mid_attention,
        padding_mode=args.padding_mode,
    )
    if args.init_from is not None:
        learned, _ = load_vqgan(args.init_from)
        # Its codes belong to the data it was trained on.
        weights = {name: part for name, part in learned.state_dict().items() if not name.startswith("quantize.")}
        take_weights(model, weights, args.init_from, "--in_channels, --latent_channels and widths of the model")
        refuse_another_network(args.init_from, learned.config, model.config, "norm_num_groups", "padding_mode")
    critic = PatchDiscriminator(args.out_channels, args.disc_channels, args.disc_layers)
    order = data_order(len(data.train), args)
    options = VQGANOptions(**{name: getattr(args, name) for name in VQGANOptions.__dataclass_fields__})
    held_out = data.val if len(data.val) else data.train.without_augmentation()
    task = VQGANTask(
        accelerator,
        model,
        critic,
        lpips,
        options,
        calibration_images(data.train.without_augmentation(), args.calibration_images, args.seed),
        fixed_batches(data.train.without_augmentation(), args.batch_size, args.num_workers),
        fixed_batches(held_out, args.batch_size, args.num_workers),
        data.contract,
        {
            "arguments": plain(args),
            "train_images": digest(data.train.paths),
            "val_images": digest(data.val.paths),
            "train_content": content_marks(args.data_dir, data.train.paths),
        },
        args.epochs * len(order),
        args.seed,
        "held-out" if len(data.val) else "training",
    )
    for note in filter(None, [*data.notes, single_channels(args.norm_num_groups, args.block_out_channels)]):
        print(note)
    print(
        f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images of "
        f"{len(data.contract.classes)} classes at {data.contract.image_size}; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; "
        f"{task.live} of {args.num_vq_embeddings} codes live (the data has enough latents for so many); "
        f"{len(order)} steps an epoch, {task.total_steps} in all, the critic from step {task.critic_start}; "
        f"device {accelerator.device}",
        flush=True,
    )
    if not len(data.val):
        print("no validation images: the figures below are of training images (see --val_fraction)")
    if args.dry_run:
        return 0
    with held_run_folder(args) as folder:
        return run_task(task, order, training_batches(data.train, order, args.num_workers), folder, args)


if __name__ == "__main__":
    run_script(lambda: train(parse()))

"""Stage 1: the VQ-GAN that compresses spectrograms to a small grid of codes. It knows nothing of diffusion."""

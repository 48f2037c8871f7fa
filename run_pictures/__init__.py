"""A run in pictures: spectrograms with their axes, the codebook, the latents; what plot_run.py draws. No torch."""

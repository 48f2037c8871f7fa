"""Stage 2: diffusion over stage 1's frozen latents, class by class. Of stage 1 it knows encode and decode."""

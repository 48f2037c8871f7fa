"""The solvers that take noise to latents: those that have a name here, and which others of diffusers may stand in."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from ldm.diffusion import noise_schedule

SAMPLERS = ("dpm++", "ddim", "unipc")
_LEFT_OF_THE_SIGNAL = 0.01  # amplitude; what a solver may begin with and still be given pure noise
_GIVEN = ("model_output", "timestep", "sample")  # to a solver's step
# Their step goes T // N timesteps back, wherever the next timestep is: they meet only where N divides T.
_EVEN_STEPS = (DDIMScheduler, DDIMParallelScheduler, CogVideoXDDIMScheduler, PNDMScheduler)


def make_sampler(name: str, training: SchedulerMixin) -> SchedulerMixin:
    """The sampler called ``name`` on the noise schedule that ``training`` was built with.

    All of them are deterministic once the first noise is drawn, and start at the last timestep, where the
    latents are pure noise, as they were trained to be ("trailing" spacing).
    """
    common = dict(timestep_spacing="trailing")
    if name in ("dpm++", "ddim"):
        # Of first order, predicting the latents, it is DDIM (Lu et al. 2022, arXiv:2211.01095, section 4.1), and steps
        # to the next timestep for every number of steps, which diffusers' own DDIMScheduler does not.
        return DPMSolverMultistepScheduler.from_config(
            training.config, algorithm_type="dpmsolver++", solver_order=1 if name == "ddim" else 2, **common
        )
    return UniPCMultistepScheduler.from_config(training.config, solver_order=2, **common)


def check_solver(scheduler: Any, noise_shift: float) -> None:
    """Refuse a scheduler that does not undo the noise that the network was trained on.

    Args:
        scheduler: anything that was put in the place of a pipeline's.
        noise_shift: see ``ldm.diffusion.noise_schedule``.

    Raises:
        ValueError: in one sentence, what it does otherwise and how to make one that fits.
    """
    name = type(scheduler).__name__
    remedy = f"make it with {name}.from_config(pipe.scheduler.config)"
    kept = getattr(scheduler, "alphas_cumprod", None)
    trained = noise_schedule(noise_shift)
    if kept is None or not hasattr(scheduler, "init_noise_sigma"):
        raise ValueError(f"{name} is no solver of a variance-preserving process, which this model learned; use another")
    if len(kept) != len(trained.alphas_cumprod) or not torch.allclose(
        torch.as_tensor(kept).float().cpu(), trained.alphas_cumprod, atol=1e-3
    ):
        raise ValueError(f"{name} has another noise schedule than this model learned; {remedy}")
    if scheduler.config.prediction_type != trained.config.prediction_type:
        found = scheduler.config.prediction_type
        raise ValueError(f"{name} expects {found}, this model gives {trained.config.prediction_type}; {remedy}")
    if scheduler.config.get("clip_sample") or scheduler.config.get("thresholding"):
        raise ValueError(f"{name} clips to the range of images, which latents leave; {remedy} and clip_sample=False")
    asked = inspect.signature(scheduler.step).parameters.values()
    needed = [part.name for part in asked if part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD]
    if extra := [name for name in needed if name not in _GIVEN]:
        raise ValueError(f"{name} needs {' and '.join(extra)} at every step, which this model has not; use another")


def set_timesteps(scheduler: Any, number: int, device: torch.device | str | None = None) -> None:
    """Set ``number`` timesteps on the way from noise to latents, each of them one that the network knows.

    For some numbers (61, 103, ...) rounding makes the trailing spacing of diffusers one step longer, and that step
    leads to timestep -1; it goes, where ``scheduler`` is of a kind that ``make_sampler`` makes.

    Raises:
        ValueError: in one sentence, for another kind where the timesteps do not lead to the latents.
    """
    scheduler.set_timesteps(number, device=device)
    name, total = type(scheduler).__name__, len(scheduler.alphas_cumprod)
    if isinstance(scheduler, _EVEN_STEPS) and total % number:
        raise ValueError(
            f"{name} steps past its own timesteps with {number} steps, which do not divide {total}; choose another "
            "num_inference_steps, or DPMSolverMultistepScheduler with solver_order=1, which is DDIM for every number"
        )
    if float(scheduler.timesteps[-1]) >= 0:
        return
    if not isinstance(scheduler, (DPMSolverMultistepScheduler, UniPCMultistepScheduler)):
        raise ValueError(
            f"{name} makes {number} steps to {len(scheduler.timesteps)}, the last at timestep "
            f"{float(scheduler.timesteps[-1]):g}, which does not exist; choose another num_inference_steps"
        )
    scheduler.timesteps = scheduler.timesteps[:number]
    scheduler.sigmas = torch.cat([scheduler.sigmas[:number], scheduler.sigmas[-1:]])
    scheduler.num_inference_steps = number


def check_start(scheduler: Any, noise_shift: float) -> None:
    """Refuse timesteps, already set, that begin where the latents are not pure noise yet.

    Args:
        scheduler: see ``check_solver``.
        noise_shift: under stronger noise less is left of the signal at every timestep, and as much can be seen in it.

    Raises:
        ValueError: in one sentence, naming the first timestep.
    """
    first = float(scheduler.timesteps[0])
    if scheduler.alphas_cumprod[int(first)] ** 0.5 > _LEFT_OF_THE_SIGNAL / noise_shift:
        raise ValueError(
            f"{type(scheduler).__name__} begins at timestep {first:g} of {len(scheduler.alphas_cumprod)}, where this "
            'model does not expect pure noise; make it with timestep_spacing="trailing"'
        )

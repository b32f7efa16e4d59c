"""torch.compile where it works, the model as it is where it does not."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .checkpoints import reason_of
from .head import HeadOutput


def compile_model(
    model: nn.Module, images: Tensor, autocast: torch.autocast
) -> tuple[Callable[[Tensor], HeadOutput], str]:
    """The compiled model and a line that says how long that took; or the model itself and a line that says why.

    images: a batch of the shape that training will use. It goes forwards and backwards once, so that compiling is done
    when this returns; the model's buffers, its gradients and the random generators are left as they were found.
    """
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    started = time.perf_counter()
    try:
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            compiled = torch.compile(model)
            with autocast:
                output = compiled(images)
            sum(part.float().sum() for part in output[:2] if part is not None).backward()
    # No C++ compiler, no Triton, a model that cannot be traced: dynamo and inductor raise many types for it.
    except Exception as error:
        torch.compiler.reset()
        return model, f"--compile is not possible here ({reason_of(error)[:160]}): the model runs as it is"
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return compiled, f"compiled in {seconds:.0f} s; PyTorch keeps what it compiled, the next run needs less"

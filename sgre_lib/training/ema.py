"""The exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class MovingAverage:
    """A copy of a model that follows it: e <- decay * e + (1 - decay) * m, over the whole state dict.

    Buffers are averaged too, as in the release; integer buffers truncate. `model` is the averaged copy, in evaluation
    mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs_of = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards `model`, after its optimiser step."""
        if self._pairs_of is not model:
            ours, theirs = self.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
            floats = [name for name in ours if ours[name].is_floating_point()]
            # state_dict(keep_vars=True) returns the live tensors: the lists stay right as long as the model does.
            self._averages = [ours[name].detach() for name in floats]
            self._sources = [theirs[name].detach() for name in floats]
            self._integers = [(ours[name], theirs[name]) for name in ours if not ours[name].is_floating_point()]
            self._pairs_of = model
        # e + (1 - decay) * (m - e), in one pass over the memory.
        torch._foreach_lerp_(self._averages, self._sources, 1 - self.decay)
        for average, source in self._integers:
            average.copy_((self.decay * average + (1 - self.decay) * source).to(average.dtype))

"""What workers begin with (`workers.LOADED`): what computes. All that it is made of stays, so that the collector need not look through it meanwhile."""

import gc
from importlib import import_module

gc.disable()
for name in ("spillover.training.lora", "spillover.pipeline.road", "spillover.miniature.testbed"):
    import_module(name)
gc.freeze()
gc.enable()

"""What should be where: pure decisions, values to values.

>>> from app.model import Tensor, group
>>> ups = [Tensor(f"blk.{n}.ffn_up.weight", "F16", (500,), 500, 1000, 0, 1000 * n, layer=n) for n in range(4)]
>>> budgets = [Budget("sim:0", 2048), Budget("sim:1", 1024)]
>>> two = plan(group(ups), budgets, PlacementRequest(n_gpu_layers=2))
>>> [(layer.layer, layer.device) for layer in two.layers]
[(0, 'sim:0'), (1, 'sim:0'), (2, 'cpu'), (3, 'cpu')]
>>> most = plan(group(ups), budgets, PlacementRequest(n_gpu_layers="auto"), current=two.placement)
>>> most.n_gpu_layers, [(device.id, device.weights_bytes, device.padding_bytes) for device in most.devices]
(3, [('sim:0', 2000, 48), ('sim:1', 1000, 24), ('cpu', 1000, 0)])
>>> change = moves(two.placement.slabs, most.placement.slabs, {"sim:0": 2048, "sim:1": 1024})
>>> [([slab.layer for slab in step.stage], [slab.layer for slab in step.release]) for step in change.steps]
[([2], [])]

Knows layers and numbers of bytes; has never seen a device, a file or a clock. Read `slabs.py` first (what a placement
is), then `planner.py` (how one is chosen) and `moves.py` (how to get there without overflowing on the way).
"""

from app.placement.activations import output_matrix
from app.placement.context import ContextRequest
from app.placement.deal import Budget
from app.placement.memory import Needs, model_needs
from app.placement.moves import MoveMode, Moves, Step, claims, moves
from app.placement.overrides import Override, Overrides
from app.placement.plan import Advice, DevicePlan, LayerPlan, Plan, Row
from app.placement.planner import fits, plan
from app.placement.request import HostMode, PlacementRequest, SplitMode, Strategy
from app.placement.shrinking import counted, is_shrinkable, shrunk, without
from app.placement.slabs import ALIGNMENT, HOST, Part, Placement, Slab, Slice, slab_of, slab_sums, slab_with

__all__ = [
    "ALIGNMENT",
    "HOST",
    "Advice",
    "Budget",
    "ContextRequest",
    "DevicePlan",
    "HostMode",
    "LayerPlan",
    "MoveMode",
    "Moves",
    "Needs",
    "Override",
    "Overrides",
    "Part",
    "Placement",
    "PlacementRequest",
    "Plan",
    "Row",
    "Slab",
    "Slice",
    "SplitMode",
    "Step",
    "Strategy",
    "claims",
    "counted",
    "fits",
    "is_shrinkable",
    "model_needs",
    "moves",
    "output_matrix",
    "plan",
    "shrunk",
    "slab_of",
    "slab_sums",
    "slab_with",
    "without",
]

"""What should be where: pure decisions, values to values.

>>> decided = plan(model.layers, budgets, PlacementRequest(n_gpu_layers="auto"))
>>> decided.fits, decided.placement.slabs
>>> moves(current.slabs, decided.placement.slabs, budgets)

Knows layers and numbers of bytes; has never seen a device, a file or a clock. Read `slabs.py` first (what a placement
is), then `plan.py` (how one is chosen) and `moves.py` (how to get there without overflowing on the way).
"""

from app.placement.deal import Budget
from app.placement.moves import MoveMode, Moves, Step, claims, moves
from app.placement.plan import DevicePlan, LayerPlan, Plan, plan
from app.placement.request import HostMode, PlacementRequest, SplitMode, Strategy
from app.placement.slabs import ALIGNMENT, HOST, Placement, Slab, Slice, slab_of, slab_sums

__all__ = [
    "ALIGNMENT",
    "HOST",
    "Budget",
    "DevicePlan",
    "HostMode",
    "LayerPlan",
    "MoveMode",
    "Moves",
    "Placement",
    "PlacementRequest",
    "Plan",
    "Slab",
    "Slice",
    "SplitMode",
    "Step",
    "Strategy",
    "claims",
    "moves",
    "plan",
    "slab_of",
    "slab_sums",
]

"""The grids of a study that have a name: what the paper ran, and smaller ones of the same shape."""

from ldm_project.config import TASKS
from ldm_project.paper import BATCH_SIZE, ITERATIONS_PER_EPOCH, NUM_EPOCHS, REFERENCE_SIZE
from ldm_project.study.cells import Axes

# The paper's sizes and models; a window is an epoch, and a batch is one image. The paper prints no
# size for Fig. 4b; which model Fig. 1 shows it does not say: we take the middle.
PAPER = Axes(
    tasks=TASKS,
    sizes={
        2: ((192, 192), (256, 256), (320, 320), (512, 512)),
        3: ((64, 64, 64), (128, 128, 128), (192, 192, 192), (256, 256, 192)),
    },
    reference_size=REFERENCE_SIZE,
    model_sizes=("small", "medium", "large"),
    base_model_size="medium",
    steps=(50, 100, 200, 500, 1000),
    num_processes=(1, 4),
    batch_size=BATCH_SIZE,
    num_windows=NUM_EPOCHS,
    num_warmup_windows=2,
    iterations_per_window=ITERATIONS_PER_EPOCH,
)

# The same shape where there is no GPU: smaller images and networks, and fewer steps.
LAPTOP = Axes(
    tasks=TASKS,
    sizes={
        2: ((64, 64), (96, 96), (128, 128), (192, 192)),
        3: ((16, 16, 16), (32, 32, 32), (48, 48, 48), (64, 64, 64)),
    },
    reference_size={2: (64, 64), 3: (32, 32, 32)},
    model_sizes=("tiny", "small", "medium"),
    base_model_size="tiny",
    steps=(5, 10, 20, 50),
    num_processes=(1, 4),
    batch_size=1,
    num_windows=10,
    num_warmup_windows=1,
    iterations_per_window=10,
)

# Enough to see that every part works, in minutes; too short to learn much from.
CI = Axes(
    tasks=TASKS,
    sizes={
        2: ((32, 32), (64, 64), (96, 96)),
        3: ((16, 16, 16), (24, 24, 24), (32, 32, 32)),
    },
    reference_size={2: (64, 64), 3: (32, 32, 32)},
    model_sizes=("tiny", "small"),
    base_model_size="tiny",
    steps=(2, 5, 10),
    num_processes=(1, 4),
    batch_size=1,
    num_windows=4,
    num_warmup_windows=1,
    iterations_per_window=3,
)

STUDIES = {"ci": CI, "laptop": LAPTOP, "paper": PAPER}

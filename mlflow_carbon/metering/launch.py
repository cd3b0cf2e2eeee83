"""A process's place among those of one launch: its rank, its node, and the node's leader."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

_KEY_LENGTH = 16
_ADDRESS_DIGITS = 3  # hexadecimal


@dataclass(frozen=True)
class Place:
    """A process's place in a launch; the defaults are those of a process on its own.

    Attributes:
        rank: the process's number among all processes.
        local_rank: its number among the processes of its node.
        num_ranks: processes of the launch, on all nodes.
        node_index: from 0; rank 0 is on node 0.
        num_nodes: nodes of the launch.
        launch_key: the same for all processes of the launch, and over restarts if the launcher
            names the launch; a hash, so that no host shows in a store.
        num_restarts: how often the launcher has started the processes anew.
    """

    rank: int = 0
    local_rank: int = 0
    num_ranks: int = 1
    node_index: int = 0
    num_nodes: int = 1
    launch_key: str = ""
    num_restarts: int = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process measures its node; not where the launcher hides the node count."""
        return self.local_rank == 0 and self.node_index < self.num_nodes

    @property
    def is_first(self) -> bool:
        """Whether this process leads the first node, whose run is the launch's run."""
        return self.is_leader and self.node_index == 0


ALONE = Place()


def find_place(environment: Mapping[str, str]) -> Place:
    """Returns a process's place by its launcher's environment variables.

    First come the variables of torchrun and others that set ``RANK`` and ``LOCAL_RANK``
    (accelerate, DeepSpeed, Lightning), then Slurm's, then Open MPI's. Invalid values are ignored.
    """
    for find in (_torch_place, _slurm_place, _open_mpi_place):
        place = find(environment)
        if place is not None and place.num_ranks > 1:
            return place
    return ALONE


def _torch_place(environment: Mapping[str, str]) -> Place | None:
    rank, local_rank = _number(environment, "RANK"), _number(environment, "LOCAL_RANK")
    num_ranks = _number(environment, "WORLD_SIZE")
    if local_rank is None or num_ranks is None:
        return None
    local_size = _number(environment, "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    node_index = _number(environment, "GROUP_RANK", "NODE_RANK", "CROSS_RANK")
    num_nodes = _number(environment, "GROUP_WORLD_SIZE", "CROSS_SIZE")
    return _place(
        local_rank if rank is None else rank,  # Lightning tells its children no rank
        local_rank,
        num_ranks,
        local_size=local_size,
        node_index=node_index,
        num_nodes=num_nodes,
        launch_name=_torch_launch_name(environment),
        num_restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT") or 0,
    )


def _torch_launch_name(environment: Mapping[str, str]) -> str:
    """Returns the rendezvous's name; if it has none, its port, which may change with a restart.

    Only twelve bits of the address are used, as a reader of the store could find a whole address
    by trying all. Thousands of addresses share these bits; two launches hardly ever do.
    """
    run_id = environment.get("TORCHELASTIC_RUN_ID", "none")
    if run_id != "none":
        return f"torchelastic {run_id}"
    job = environment.get("SLURM_JOB_ID", "")
    address = environment.get("MASTER_ADDR", "")
    bits = hashlib.sha256(address.encode()).hexdigest()[:_ADDRESS_DIGITS]
    return f"{bits}:{environment.get('MASTER_PORT')} {job}"


def _slurm_place(environment: Mapping[str, str]) -> Place | None:
    is_step = "SLURM_STEP_ID" in environment
    if environment.get("ENVIRONMENT") == "BATCH" and not is_step:
        return None  # the batch script itself: one process, whatever the job has asked for
    rank, local_rank = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
    num_ranks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if rank is None or local_rank is None or num_ranks is None:
        return None
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return _place(
        rank,
        local_rank,
        num_ranks,
        local_size=None,
        node_index=_number(environment, "SLURM_NODEID"),
        num_nodes=_number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
        launch_name=" ".join(["slurm", *(environment.get(name, "") for name in names)]),
        num_restarts=_number(environment, "SLURM_RESTART_COUNT") or 0,
    )


def _open_mpi_place(environment: Mapping[str, str]) -> Place | None:
    prefix = "OMPI_COMM_WORLD_"
    rank, local_rank = (_number(environment, prefix + name) for name in ("RANK", "LOCAL_RANK"))
    num_ranks = _number(environment, f"{prefix}SIZE")
    if rank is None or local_rank is None or num_ranks is None:
        return None
    names = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID")
    return _place(
        rank,
        local_rank,
        num_ranks,
        local_size=_number(environment, f"{prefix}LOCAL_SIZE"),
        node_index=None,
        num_nodes=None,
        launch_name=" ".join(["mpi", *(environment.get(name, "") for name in names)]),
        num_restarts=0,
    )


def _place(
    rank: int,
    local_rank: int,
    num_ranks: int,
    *,
    local_size: int | None,
    node_index: int | None,
    num_nodes: int | None,
    launch_name: str,
    num_restarts: int,
) -> Place:
    """Returns a place; where the launcher does not number nodes, ranks fill them in order."""
    if node_index is None:
        node_index = rank // local_size if local_size else 0
    if num_nodes is None:
        num_nodes = math.ceil(num_ranks / local_size) if local_size else 1
    key = hashlib.sha256(launch_name.encode()).hexdigest()[:_KEY_LENGTH]
    return Place(
        rank=rank,
        local_rank=local_rank,
        num_ranks=num_ranks,
        node_index=node_index,
        num_nodes=num_nodes,
        launch_key=key,
        num_restarts=num_restarts,
    )


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    """Returns the value of the first variable that holds a whole number of 0 or more."""
    for name in names:
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text)
    return None

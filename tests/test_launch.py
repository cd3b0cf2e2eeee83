"""Where a process stands in a launch, by the variables that each launcher sets."""

import pytest

from mlflow_carbon.metering.launch import ALONE, find_place

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0.example",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "job-7",
    "TORCHELASTIC_RESTART_COUNT": "1",
}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "prterun-node0.example-1@1",
}
# What launchers that are no torchrun set of its variables.
DEEPSPEED = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"}
NO_GROUP_SIZE = {
    key: value
    for key, value in TORCHRUN.items()
    if key not in ("GROUP_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID")
}
LIGHTNING_CHILD = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}


@pytest.mark.parametrize("environment", [TORCHRUN, NO_GROUP_SIZE, SLURM, OPEN_MPI, DEEPSPEED])
def test_second_rank_of_the_second_node_is_told_by_every_launcher(environment):
    place = find_place(environment)
    assert (place.rank, place.local_rank, place.num_ranks) == (5, 1, 8)
    assert (place.node_index, place.num_nodes) == (1, 2)
    assert not place.is_leader


@pytest.mark.parametrize(
    ("environment", "rank_variable", "local_variable"),
    [
        (TORCHRUN, "RANK", "LOCAL_RANK"),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ],
)
def test_first_rank_of_a_node_leads_it(environment, rank_variable, local_variable):
    leader = find_place({**environment, rank_variable: "4", local_variable: "0"})
    assert leader.is_leader
    assert not leader.is_first


def test_rank_zero_leads_the_first_node():
    slurm = {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    torchrun = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
    assert find_place(slurm).is_first
    assert find_place(torchrun).is_first


def test_child_that_lightning_starts_leads_nothing():
    place = find_place(LIGHTNING_CHILD)
    assert (place.rank, place.node_index, place.is_leader) == (1, 0, False)


def test_further_node_of_an_unknown_number_is_not_measured():
    # node 0 of this launch cannot know that there is another one, so nobody would add them up
    hidden = {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "NODE_RANK": "1"}
    assert not find_place(hidden).is_leader


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"RANK": "1", "WORLD_SIZE": "2"},  # may be of a node or of a process
        {**TORCHRUN, "LOCAL_RANK": "first"},
        {**TORCHRUN, "WORLD_SIZE": "-2"},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"},  # salloc's shell
        {**{key: SLURM[key] for key in SLURM if key != "SLURM_STEP_ID"}, "ENVIRONMENT": "BATCH"},
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"},
    ],
)
def test_process_on_its_own_is_told_from_a_launch(environment):
    assert find_place(environment) == ALONE
    assert find_place(environment).is_first


def test_torchrun_inside_a_slurm_job_counts_by_torchrun():
    assert find_place({**SLURM, **TORCHRUN, "LOCAL_RANK": "3"}).local_rank == 3


def test_processes_of_a_launch_share_a_key_that_shows_no_host():
    first = find_place({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"})
    assert first.launch_key == find_place(TORCHRUN).launch_key
    assert len(first.launch_key) == 16
    assert "node0" not in first.launch_key


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        (TORCHRUN, "TORCHELASTIC_RUN_ID"),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, "MASTER_PORT"),
        (SLURM, "SLURM_JOB_ID"),
        (SLURM, "SLURM_STEP_ID"),
        (OPEN_MPI, "PMIX_NAMESPACE"),
    ],
)
def test_another_launch_has_another_key(environment, variable):
    other = find_place({**environment, variable: "77"})
    assert other.launch_key != find_place(environment).launch_key


def test_restart_keeps_the_key_though_the_port_changes():
    again = {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2", "MASTER_PORT": "31234"}
    assert find_place(again).launch_key == find_place(TORCHRUN).launch_key
    assert find_place(again).num_restarts == 2


@pytest.mark.slow
def test_address_of_a_launch_cannot_be_found_from_its_key():
    def key(address):
        return find_place(
            {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": address}
        ).launch_key

    # twelve bits: 4096 classes, so among 30,000 addresses some 7 share those of the first
    addresses = [f"10.{high}.{low}.1" for high in range(118) for low in range(256)]
    assert sum(key(address) == key("10.0.0.1") for address in addresses) > 1
    assert len({key(address) for address in addresses}) > 4000

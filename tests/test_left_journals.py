"""Journals are read without trust: nothing hangs, ends the rest, is lost, or comes from others."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.recording import left_journals
from mlflow_carbon.recording.delivery import Delivery
from mlflow_carbon.recording.journal import Batch, Journal, Point
from mlflow_carbon.recording.left_journals import LeftBehind, Living, Unusable, journals
from mlflow_carbon.recording.process_identity import ProcessIdentity, is_alive, this_process
from mlflow_carbon.recording.recovery import MAY_LIVE, recover

DEAD = [2**31 - 1, 1.0]
TIME_MS = 1_700_000_000_000


def point(step, key="carbon/window/energy_kwh"):
    return [key, 1.0, TIME_MS + step, step]


def lines_of(run_id, uri, *, num_windows=6, tags=None, **header):
    """Returns the lines of a journal whose process is gone, as an older release wrote it."""
    first = {"run_id": run_id, "tracking_uri": uri, "machine": "m", "process": DEAD, **header}
    batches = [{"points": [point(step)], "tags": tags or {}} for step in range(1, num_windows + 1)]
    return [json.dumps(line) for line in (first, *batches)]


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "journals"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def run_id(store):
    return MlflowClient().create_run("0").info.run_id


def steps(run_id):
    history = MlflowClient().get_metric_history(run_id, "carbon/window/energy_kwh")
    return [one.step for one in history]


def recover_all(folder):
    return list(recover(MlflowClient(), folder))


# Each line for itself


@pytest.mark.parametrize(
    "bad", ['{"poi', "5", "[]", "null", "\\ud800", "[" * 100_000, "", "9" * 9999]
)
def test_bad_line_in_the_middle_costs_that_line_only_and_is_kept(store, folder, run_id, bad):
    lines = lines_of(run_id, store)
    path = write(folder / "a.journal.jsonl", [*lines[:3], bad, *lines[3:]])
    (recovery,) = recover_all(folder)
    assert (recovery.reason, recovery.num_batches, recovery.num_bad_lines) == (None, 6, 1)
    assert steps(run_id) == [1, 2, 3, 4, 5, 6]
    assert not path.exists()
    assert bad in recovery.kept.read_text()
    assert recover_all(folder) == []


@pytest.mark.parametrize(
    "points",
    [
        [["carbon/x", "1", TIME_MS, 1]],
        [["carbon/x", True, TIME_MS, 1]],
        [["carbon/x", float("nan"), TIME_MS, 1]],
        [["carbon/x", 10**400, TIME_MS, 1]],
        [["carbon/x", -1.0, TIME_MS, 1]],
        [["carbon/x", 1e308, TIME_MS, 1]],  # two of them would sum to infinity
        [["carbon/" + "x" * 300, 1.0, TIME_MS, 1]],
        [["carbon/a\nb", 1.0, TIME_MS, 1]],
        [["carbon/../x", 1.0, TIME_MS, 1]],
        [["carbon//x", 1.0, TIME_MS, 1]],
        [["carbon/x/", 1.0, TIME_MS, 1]],
        [["carbon/x", 1.0, 10**18, 1]],
        [["carbon/x", 1.0, -1, 1]],
        [["carbon/x", 1.0, TIME_MS, 2**70]],
        [["carbon/x", 1.0, TIME_MS]],
        [[None, 1.0, TIME_MS, 1]],
        [["carbon/\0", 1.0, TIME_MS, 1]],
        "carbon",
    ],
)
def test_point_that_is_none_is_a_bad_line(store, folder, run_id, points):
    lines = [*lines_of(run_id, store, num_windows=1), json.dumps({"points": points, "tags": {}})]
    write(folder / "a.journal.jsonl", lines)
    (recovery,) = recover_all(folder)
    assert (recovery.reason, recovery.num_bad_lines) == (None, 1)
    assert steps(run_id) == [1]


@pytest.mark.parametrize("key", ["carbon." + "x" * 300, "carbon.a\nb", "carbon./../x"])
def test_tag_that_mlflow_refuses_costs_its_line_only(store, folder, run_id, key):
    lines = lines_of(run_id, store, num_windows=2)
    write(folder / "a.journal.jsonl", [*lines, json.dumps({"points": [], "tags": {key: "v"}})])
    (recovery,) = recover_all(folder)
    assert (recovery.reason, recovery.num_bad_lines) == (None, 1)
    assert steps(run_id) == [1, 2]


def test_file_of_one_endless_line_takes_no_memory(store, folder, run_id, monkeypatch):
    monkeypatch.setattr(left_journals, "MAX_LINE_BYTES", 2**16)
    lines = lines_of(run_id, store, num_windows=2)
    write(folder / "a.journal.jsonl", [lines[0], "x" * 2**24, *lines[1:]])
    tracemalloc.start()
    (found,) = journals(folder)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.num_bad_lines, len(found.batches)) == (1, 2)
    assert peak_bytes < 2**22  # a quarter of the file


def test_line_that_counts_too_much_loses_nothing(store, folder, run_id):
    lines = lines_of(run_id, store)
    write(folder / "a.journal.jsonl", [*lines[:2], '{"delivered": 5}', *lines[2:]])
    assert recover_all(folder)[0].num_bad_lines == 1
    assert steps(run_id) == [1, 2, 3, 4, 5, 6]


def test_bad_line_before_a_count_loses_nothing(store, folder, run_id):
    lines = lines_of(run_id, store)  # the store has the first two, and the first cannot be read
    write(folder / "a.journal.jsonl", [lines[0], "?", *lines[2:], '{"delivered": 2}'])
    recover_all(folder)
    assert steps(run_id) == [2, 3, 4, 5, 6]


# Each file for itself


def make_fifo(path):
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/nonexistent"),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("5\n"),
        lambda path: path.write_text('{"run_id":"a"}\n'),
        lambda path: path.write_text('{"run_id": ["a"], "process": [1, 1.0]}\n'),
        lambda path: path.write_text('{"run_id": "../a", "tracking_uri": "", "process": [1, 1]}\n'),
        lambda path: path.mkdir(),
        make_fifo,
    ],
)
def test_file_that_is_no_journal_is_named_and_the_others_are_sent(store, folder, run_id, make):
    make(folder / "0.journal.jsonl")
    if (folder / "0.journal.jsonl").is_file():
        (folder / "0.journal.jsonl").chmod(0o600)
    write(folder / "1.journal.jsonl", lines_of(run_id, store))
    by_name = {recovery.path.name: recovery for recovery in recover_all(folder)}
    assert by_name["0.journal.jsonl"].reason
    assert by_name["1.journal.jsonl"].reason is None
    assert steps(run_id) == [1, 2, 3, 4, 5, 6]
    assert (folder / "0.journal.jsonl").lstat()  # left where it is


def test_journal_that_another_recovery_removes_meanwhile_is_not_sent_again(
    store, folder, run_id, monkeypatch
):
    write(folder / "a.journal.jsonl", lines_of(run_id, store))
    lock = left_journals.lock

    def lock_when_gone(file):  # we get the lock when the other recovery has let go of it
        (folder / "a.journal.jsonl").unlink()
        return lock(file)

    monkeypatch.setattr(left_journals, "lock", lock_when_gone)
    assert list(journals(folder)) == []


def test_link_to_a_journal_is_not_followed(store, folder, run_id, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", lines_of(run_id, store))
    (folder / "a.journal.jsonl").symlink_to(elsewhere)
    assert [one.reason for one in recover_all(folder)] == ["it is no regular file"]
    assert steps(run_id) == []
    assert elsewhere.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_file_of_another_user_is_not_sent(store, folder, run_id):
    path = write(folder / "a.journal.jsonl", lines_of(run_id, store))
    os.chown(path, 12_345, -1)
    assert [one.reason for one in recover_all(folder)] == ["it belongs to another user"]
    assert steps(run_id) == []


def test_file_that_others_may_write_is_not_sent(store, folder, run_id):
    write(folder / "a.journal.jsonl", lines_of(run_id, store)).chmod(0o666)
    assert [one.reason for one in recover_all(folder)] == ["other users may write to it"]
    assert steps(run_id) == []


@pytest.mark.parametrize("tag", ["approved", "mlflow.runName", "carbon", ""])
def test_journal_sets_no_tag_that_is_not_ours(store, folder, run_id, tag):
    write(folder / "a.journal.jsonl", lines_of(run_id, store, num_windows=2, tags={tag: "yes"}))
    assert recover_all(folder)[0].num_bad_lines == 2
    assert MlflowClient().get_run(run_id).data.tags.get(tag) != "yes"
    assert steps(run_id) == []


def test_journal_writes_no_metric_that_is_not_ours(store, folder, run_id):
    line = json.dumps({"points": [point(1, key="accuracy")], "tags": {}})
    write(folder / "a.journal.jsonl", [*lines_of(run_id, store), line])
    recover_all(folder)
    assert "accuracy" not in MlflowClient().get_run(run_id).data.metrics


def test_command_names_what_it_leaves(store, folder, run_id, monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(folder))
    (folder / "dir.journal.jsonl").mkdir()
    write(folder / "x.journal.jsonl", [*lines_of(run_id, store), "?"])
    printed = CliRunner().invoke(cli, ["recover"], catch_exceptions=False).stdout
    assert f"'dir.journal.jsonl' left in {folder}: it is no regular file.\n" in printed
    kept = folder / "x.journal.jsonl.bad"
    assert f"run {run_id}: 6 sets of figures sent; 1 unreadable line kept in {kept}.\n" in printed


def test_two_recoveries_at_once_both_end_well(store, folder, run_id):
    for number in range(5):
        write(folder / f"{number}.journal.jsonl", lines_of(run_id, store))
    first = recover(MlflowClient(), folder)
    next(first)  # has listed the files and works on the first one
    assert [one.reason for one in recover_all(folder)] == [None] * 4
    assert [one.reason for one in first] == []
    assert steps(run_id) == [1, 2, 3, 4, 5, 6]
    assert list(folder.iterdir()) == []


# Who lives


SLEEPER = """
import os, sys
from pathlib import Path
from mlflow_carbon.recording.journal import Journal
journal = Journal(Path(sys.argv[1]), run_id="a" * 32, tracking_uri="sqlite:///x.db")
if sys.argv[2] == "fork" and os.fork() == 0:
    os.execvp("sleep", ["sleep", "60"]) if sys.argv[3] == "exec" else sys.stdin.read()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def start(folder, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    return process


def kinds(folder):
    return [type(found) for found in journals(folder)]


def test_journal_is_living_while_its_process_is(folder):
    with start(folder, "", "") as process:
        assert kinds(folder) == [Living]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kinds(folder) == [LeftBehind]


def test_child_that_outlives_a_killed_process_does_not_keep_its_journal_living(folder):
    with start(folder, "fork", "") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kinds(folder) == [LeftBehind]


@pytest.mark.parametrize("run_id", ["../out", "/out", "a/b", "..", "\0", "x" * 300])
def test_journal_stays_in_its_folder_whatever_the_id_of_its_run(tmp_path, run_id):
    folder = tmp_path / "journals"
    journal = Journal(folder, run_id=run_id, tracking_uri="x")
    assert journal.path.is_file()
    assert list(folder.iterdir()) == [journal.path]
    journal.close(is_delivered=True)


@pytest.mark.parametrize("run_id", ["*", "?", "[a-f]", "../journals/"])
def test_an_id_that_is_a_pattern_finds_no_other_runs_journal(tmp_path, run_id):
    folder = tmp_path / "journals"
    journal = Journal(folder, run_id="a" * 32, tracking_uri="x")
    assert len(list(journals(folder, run_id="a" * 32))) == 1
    assert list(journals(folder, run_id=run_id)) == []
    journal.close(is_delivered=True)


def test_journal_of_our_own_process_is_living(folder):
    journal = Journal(folder, run_id="a" * 32, tracking_uri="sqlite:///x.db")
    assert kinds(folder) == [Living]
    assert kinds(folder) == [Living]  # looking at it has not taken its lock away
    journal.close(is_delivered=True)
    assert kinds(folder) == []


def identity(**changes):
    known = vars(this_process()) | {"is_locked": True} | changes
    return ProcessIdentity(**known)


def test_clock_step_leaves_a_process_living():
    stepped = this_process().create_time_s + 3600  # as psutil tells after the clock was set
    alone = {"has_lock": False, "is_shared": False}
    assert is_alive(identity(create_time_s=stepped), **alone)
    assert is_alive(identity(create_time_s=stepped, is_locked=False), **alone)


@pytest.mark.parametrize(
    ("changes", "has_lock", "is_shared", "expected"),
    [
        ({}, True, True, False),  # its lock would be held
        ({"machine": "another"}, False, True, True),
        ({"machine": "another"}, True, True, None),  # that machine's lock may not be seen here
        ({"machine": "another"}, True, False, False),  # a machine that was renamed
        ({"machine": "another", "is_locked": False}, True, True, None),
        ({"start_ticks": 1}, False, False, False),  # the lock is a child's
        ({"boot": "another boot"}, False, False, False),
        ({"boot": None, "start_ticks": None}, False, False, True),
    ],
)
def test_process_lives_as_far_as_it_can_be_told(changes, has_lock, is_shared, expected):
    found = is_alive(identity(**changes), has_lock=has_lock, is_shared=is_shared)
    assert found is expected


def test_journal_of_a_machine_that_shares_the_folder_is_sent_and_stays(store, folder, run_id):
    path = write(folder / "a.journal.jsonl", lines_of(run_id, store))
    found = list(recover(MlflowClient(), folder, is_shared_folder=lambda _: True))
    assert [one.reason for one in found] == [MAY_LIVE]
    assert steps(run_id) == [1, 2, 3, 4, 5, 6]
    assert path.exists()


# What is written


def test_journal_is_closed_to_others(tmp_path):
    folder = tmp_path / "state" / "mlflow-carbon"
    journal = Journal(folder, run_id="a" * 32, tracking_uri="x")
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    journal.close(is_delivered=True)


def test_folder_of_an_earlier_release_is_closed_to_others(tmp_path):
    folder = tmp_path / "mlflow-carbon"
    folder.mkdir(mode=0o755)
    Journal(folder, run_id="a" * 32, tracking_uri="x").close(is_delivered=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class FullDisk(Journal):
    """A journal on a disk that is full, from the line of that number on."""

    def __init__(self, folder, num_lines):
        self._num_left = num_lines
        super().__init__(folder, run_id="a" * 32, tracking_uri="x")

    def _write(self, record):
        if self._num_left == 0:
            self.is_whole = False
            raise OSError(28, "No space left on device")
        self._num_left -= 1
        super()._write(record)


@pytest.mark.parametrize("num_lines", [1, 2, 3, 4])
def test_full_disk_ends_no_delivery_and_is_told_once(folder, caplog, num_lines):
    received, all_sent = [], threading.Event()

    def send(batch):
        received.extend(one.step for one in batch.points)
        if received == [1, 2, 3, 4, 5]:
            all_sent.set()

    delivery = Delivery(send, FullDisk(folder, num_lines))
    for step in range(1, 6):
        delivery.put(Batch((Point("carbon/x", 1.0, TIME_MS, step),)))
    assert all_sent.wait(30)  # while the process lives, not at its end only
    assert delivery.close()
    assert caplog.text.count("No space left on device") == 1
    assert list(folder.iterdir()) == []  # nothing is left to deliver


def test_folder_that_cannot_be_written_is_one_warning(store, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "file" / "below"))
    from mlflow_carbon.testing.meter import FakeMeter, reading
    from mlflow_carbon.tracking.track import track

    for _ in range(2):
        with mlflow.start_run() as run, track(meter=FakeMeter([reading(cpu_joules=36)])):
            pass
    assert caplog.text.count("No journal can be kept in") == 1
    energy_kwh = MlflowClient().get_run(run.info.run_id).data.metrics["carbon/energy_kwh"]
    assert energy_kwh == pytest.approx(1e-5)


# Fuzz


def mutated(journal, source):
    """Returns a journal with a few bytes, lines or values changed."""
    data = bytearray(journal)
    for _ in range(source.randint(1, 6)):
        place = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0:
                data[place : place + 1] = bytes([source.randrange(256)])
            case 1:
                del data[place : place + source.randint(1, 80)]
            case 2:
                data[place:place] = bytes(source.randrange(256) for _ in range(5))
            case 3:
                data[place:place] = source.choice(
                    [b"\n", b"\0", b'"', b"[", b"]" * 9, b"1e999", b"-", b"NaN", b"9" * 400]
                )
            case 4:
                lines = bytes(data).split(b"\n")
                source.shuffle(lines)
                data = bytearray(b"\n".join(lines))
            case 5:
                old = source.choice(
                    [b"1.0", b"carbon", b"points", b"delivered", b"tags", b"run_id"]
                )
                new = source.choice([b"{}", b"null", b"[[[[", b"\xff\xfe", b"true", b'"\\ud800"'])
                data = bytearray(bytes(data).replace(old, new, source.randint(1, 3)))
    return bytes(data)


def fuzz(folder, num_files):
    lines = lines_of("a" * 32, "sqlite:///x.db", tags={"carbon.unit": "epoch"})
    journal = "\n".join([*lines, '{"delivered": 2}', ""]).encode()
    source = random.Random(13)
    path = folder / "f.journal.jsonl"
    for _ in range(num_files):
        path.write_bytes(mutated(journal, source))
        path.chmod(0o600)
        for found in journals(folder):
            assert isinstance(found, LeftBehind | Unusable | Living)
            if isinstance(found, LeftBehind):
                assert all(
                    one.key.startswith("carbon/") and one.timestamp_ms > 0
                    for batch in found.batches
                    for one in batch.points
                )
                assert all(key.startswith("carbon.") for b in found.batches for key in b.tags)


def test_mutated_journals_let_nothing_escape(folder):
    fuzz(folder, 300)


@pytest.mark.slow
def test_ten_thousand_mutated_journals_let_nothing_escape(folder):
    fuzz(folder, 10_000)


@pytest.mark.slow
def test_mutated_journals_are_sent_without_an_escape(store, folder, run_id):
    journal = "\n".join([*lines_of(run_id, store), '{"delivered": 2}', ""]).encode()
    source = random.Random(7)
    for number in range(300):
        path = Path(folder / f"{number}.journal.jsonl")
        path.write_bytes(mutated(journal, source))
        path.chmod(0o600)
    recover_all(folder)

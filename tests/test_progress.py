"""A long reading says how far it has come."""

from mlflow_carbon.commands.progress import ReadingProgress


def test_progress_speaks_after_two_seconds_and_then_every_five(capsys):
    times_s = iter([0.0, 1.9, 2.1, 3.0, 7.2])
    progress = ReadingProgress(lambda: next(times_s))
    for num_read in (1000, 2000, 3000, 4000):
        progress(num_read, 5000 if num_read < 4000 else None)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "Reading runs: 2,000 of 5,000.\nReading runs: 4,000.\n"

"""CT of the Medical Segmentation Decathlon: a task's images, which MONAI downloads at first use.

Source: http://medicaldecathlon.com and arXiv:1902.09063.
"""

import shutil
import sys
from pathlib import Path

from monai.apps.datasets import DecathlonDataset
from monai.apps.utils import check_hash

from ldm_project.cache import cache_folder, filled_alone
from ldm_project.errors import DataError

# The tasks, of ten, whose images are CT: an MR task is refused before gigabytes are downloaded.
CT_TASKS = (
    "Task03_Liver",
    "Task06_Lung",
    "Task07_Pancreas",
    "Task08_HepaticVessel",
    "Task09_Spleen",
    "Task10_Colon",
)
CT = "CT"  # the name of the modality in dataset.json
SECTIONS = ("training", "test")
LICENCE = "CC BY-SA 4.0"


def task_images(
    task: str, *, dataset_class: type[DecathlonDataset] = DecathlonDataset
) -> list[Path]:
    """Returns the image files of a task's training and test sets, without the labels.

    Args:
        task: its name, ``Task09_Spleen``.
        dataset_class: MONAI's class, which knows the address of each task.

    Raises:
        DataError: the task is not CT, cannot be downloaded, or is incomplete.
        CacheError: the folder for the download cannot be made.
    """
    if task not in CT_TASKS:
        kind = "a task of MR, not CT" if task in dataset_class.resource else "no task"
        raise DataError(
            f"data=msd:{task}: {task!r} is {kind} of the Medical Segmentation Decathlon. "
            f"Its tasks of CT: {', '.join(CT_TASKS)}."
        )
    tasks = cache_folder() / "data" / "msd"
    if not (tasks / task).is_dir():
        with filled_alone(tasks):
            if not (tasks / task).is_dir():  # another process may have downloaded it meanwhile
                _download(task, tasks, dataset_class)
    return _listed_images(task, tasks, dataset_class)


def _download(task: str, tasks: Path, dataset_class: type[DecathlonDataset]) -> None:
    """Downloads a task into the folder of tasks, where it appears only when complete."""
    unfinished = tasks / "unfinished"
    unfinished.mkdir(exist_ok=True)
    shutil.rmtree(unfinished / task, ignore_errors=True)  # half unpacked
    archive = unfinished / f"{task}.tar"
    if archive.exists() and not check_hash(archive, dataset_class.md5[task]):
        archive.unlink()  # half downloaded
    url = dataset_class.resource[task]
    print(f"Downloading {task} from {url} to {tasks}. Licence: {LICENCE}.", file=sys.stderr)
    try:
        _open(task, unfinished, "training", dataset_class, is_downloaded=True)
        (unfinished / task).rename(tasks / task)
    except Exception as error:  # MONAI wraps network failures in a bare Exception
        raise DataError(
            f"data=msd:{task} cannot be downloaded from {url} to {tasks}: {error}. "
            f"Try again with a network and free disk space there and where temporary files go "
            f"(TMPDIR); or download it by hand, unpack it, and give data=FOLDER/imagesTr."
        ) from error
    archive.unlink()


def _listed_images(task: str, tasks: Path, dataset_class: type[DecathlonDataset]) -> list[Path]:
    """Returns the images that a task's ``dataset.json`` lists."""
    try:
        sections = [_open(task, tasks, section, dataset_class) for section in SECTIONS]
        modalities = set(sections[0].get_properties("modality")["modality"].values())
        images = sorted(Path(item["image"]) for section in sections for item in section.data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(tasks / task, f"its dataset.json cannot be read ({error!r})") from error
    if modalities != {CT}:
        raise DataError(
            f"data=msd:{task}: {tasks / task} is of modality {', '.join(modalities)}, not CT. "
            f"Give a task of CT: {', '.join(CT_TASKS)}."
        )
    missing = [image for image in images if not image.is_file()]
    if missing:
        reason = f"it lacks {len(missing)} of {len(images)} images, {missing[0].name} first"
        raise _damaged(tasks / task, reason)
    return images


def _open(
    task: str,
    tasks: Path,
    section: str,
    dataset_class: type[DecathlonDataset],
    *,
    is_downloaded: bool = False,
) -> DecathlonDataset:
    """Returns the data set of a section; no image is read yet."""
    return dataset_class(
        tasks, task, section, download=is_downloaded, val_frac=0.0, cache_num=0, progress=True
    )


def _damaged(folder: Path, reason: str) -> DataError:
    return DataError(f"{folder} is no whole task: {reason}. Delete it, and it is downloaded again.")

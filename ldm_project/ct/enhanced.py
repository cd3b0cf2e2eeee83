"""Enhanced multi-frame CT: reads each frame's values from the file's functional groups.

A classic file is one frame without groups: its values stand in the file itself.

Source: DICOM PS3.3, C.7.6.16 (Multi-frame Functional Groups).
"""

from typing import Any

from pydicom import Dataset

from ldm_project.errors import DataError

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def num_frames(header: Dataset) -> int:
    """Returns the number of frames of a file; 1 if the header does not give it.

    Raises:
        DataError: the number is negative, or the file has several frames and does not give the
            position of each.
    """
    number = int(header.get("NumberOfFrames") or 1)
    if number < 1:
        raise DataError(f"{number} frames (NumberOfFrames); an image has at least one.")
    num_described = len(header.get(PER_FRAME) or ())
    if num_described != number and (number > 1 or num_described > 1):
        raise DataError(
            f"{number} frames, of which its functional groups describe {num_described}: "
            f"a multi-frame file is read where it is enhanced CT, which says where each frame "
            f"lies. Convert it to enhanced CT or to one file per slice."
        )
    return number


def frame_value(header: Dataset, frame: int, group: str, keyword: str) -> Any:
    """Returns a frame's value: from its own group, else the shared group, else the file.

    Args:
        header: of a classic or an enhanced file.
        frame: number of the frame in the file, from 0.
        group: keyword of the sequence that holds the value, ``PlanePositionSequence``.
        keyword: of the value.

    Returns:
        ``None`` if the value is in none of the three places.
    """
    if PER_FRAME not in header and SHARED not in header:
        return header.get(keyword)
    per_frame = header.get(PER_FRAME) or ()
    for groups in (*per_frame[frame : frame + 1], *(header.get(SHARED) or ())):
        for item in groups.get(group) or ():
            if (value := item.get(keyword)) is not None:
                return value
    return header.get(keyword)

"""Lobes of a brain: coronal slices of the Colin27 T1 scan with the AAL atlas, 116 regions joined to eight.

Both come in Debian's mricron-data (BSD-3). It is one brain: training, validation and test slices are blocks
of neighbours with unused slices between them, so scores say how well a network fills in a brain that it
partly knows, and nothing about other people's.
"""

from __future__ import annotations

import gzip
from functools import cache

import numpy as np

from kdfast.recipes.common.debian import fetch_debian

SOURCE = "lobes of the Colin27 brain, coronal slices (mricron-data, AAL atlas)"
PACKAGE = (
    "mricron-data",
    "1.2.20211006+dfsg-4",
    "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
)
SCAN, ATLAS = "usr/share/mricron/templates/ch2.nii.gz", "usr/share/mricron/templates/aal.nii.gz"
LOBES = {  # first and last AAL region of each piece
    "frontal lobe": ((1, 28), (69, 70)),
    "insula": ((29, 30),),
    "limbic lobe": ((31, 42),),
    "occipital lobe": ((43, 56),),
    "parietal lobe": ((57, 68),),
    "deep nuclei": ((71, 78),),
    "temporal lobe": ((79, 90),),
    "cerebellum": ((91, 116),),
}
CLASSES = ("background", *LOBES)
PERIOD = "t" * 12 + "-" + "vvv" + "-" + "eee" + "-"  # of neighbouring slices: train, val, test, unused
PARTS = {"train": "t", "val": "v", "test": "e"}


@cache
def slices() -> dict[str, list[tuple[int, tuple[np.ndarray, np.ndarray]]]]:
    """Part -> (slice number, (image uint8 [181, 181, 3], labels uint8 [181, 181])), those with a label.

    Raises:
        DataUnavailable: the package is neither in the cache nor to be had.
    """
    files = fetch_debian(*PACKAGE, (SCAN, ATLAS))
    scan, atlas = (_volume(files[member]) for member in (SCAN, ATLAS))
    table = np.zeros(117, dtype=np.uint8)
    for label, pieces in enumerate(LOBES.values(), 1):
        for first, last in pieces:
            table[first : last + 1] = label
    lobes = table[atlas.astype(np.int64)]
    numbers = [y for y in range(scan.shape[1]) if lobes[:, y].any()]
    return {
        part: [
            (y, (_upright(scan[:, y])[..., None].repeat(3, 2), _upright(lobes[:, y])))
            for place, y in enumerate(numbers)
            if PERIOD[place % len(PERIOD)] == sign
        ]
        for part, sign in PARTS.items()
    }


def _volume(content: bytes) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


def _upright(plane: np.ndarray) -> np.ndarray:
    """[x, z] -> rows from the crown down, uint8."""
    return np.ascontiguousarray(plane.T[::-1]).astype(np.uint8)

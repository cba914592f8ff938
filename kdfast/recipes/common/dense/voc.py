"""PASCAL VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/{train,val,test}.txt."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image

from kdfast.recipes.common.dense.annotations import Annotated, Findings, annotated, label_of
from kdfast.recipes.common.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png")


def read_voc(
    root: Path, split: str, classes: tuple[str, ...], findings: Findings, *, skip_bad: bool = False
) -> list[Annotated]:
    """The images of ImageSets/Main/`split`.txt with their boxes; `difficult` objects count as crowd.

    skip_bad: leave out images whose annotation or picture cannot be read, and note them.

    Raises:
        UserError: a file is missing or is not what it should be, or names another class.
    """
    images = []
    for name in split_names(root, split):
        try:
            images.append(_image(root, name, classes, findings))
        except UserError:
            if not skip_bad:
                raise
            findings.add("images left out that could not be read", name)
    return images


def split_names(root: Path, split: str, kind: str = "Main") -> list[str]:
    """The names in ImageSets/`kind`/`split`.txt. Raises UserError where there is no such file."""
    path = root / "ImageSets" / kind / f"{split}.txt"
    if not path.is_file():
        raise UserError(f"{path} is missing; a VOC folder has ImageSets/{kind}/{split}.txt, a name a line")
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of names: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} is empty; one image name a line is needed")
    return names


def voc_classes(root: Path) -> tuple[str, ...]:
    """The class names that occur in Annotations, sorted."""
    names = set()
    for path in sorted((root / "Annotations").glob("*.xml")):
        names |= {_text(each, "name", path) for each in _parse(path).iter("object")}
    if not names:
        raise UserError(f"{root / 'Annotations'} holds no xml file with an object; a VOC folder is needed")
    return tuple(sorted(names))


def find_image(folder: Path, name: str) -> Path:
    """`name` with the extension that is there."""
    for extension in EXTENSIONS:
        if (path := folder / f"{name}{extension}").is_file():
            return path
    raise UserError(f"{folder / name} is there with none of the extensions {', '.join(EXTENSIONS)}")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header. Raises UserError where it is no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def _image(root: Path, name: str, classes: tuple[str, ...], findings: Findings) -> Annotated:
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    picture = find_image(root / "JPEGImages", name)
    rows = []
    for each in tree.iter("object"):
        label = label_of(_text(each, "name", path), classes, str(path))
        box = each.find("bndbox")
        if box is None:
            raise UserError(f"{path}: an object has no bndbox; this is no VOC detection annotation")
        corners = [_number(box, corner, path) for corner in ("xmin", "ymin", "xmax", "ymax")]
        rows.append((*corners, label, (each.findtext("difficult") or "0").strip() == "1", None))
    return annotated(picture, image_size(picture), rows, findings)


def _parse(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path} cannot be read as a VOC annotation: {error}") from error
    if root.tag != "annotation":
        raise UserError(f"{path} is no VOC annotation: its root is <{root.tag}>, <annotation> is needed")
    return root


def _text(each: ElementTree.Element, tag: str, path: Path) -> str:
    text = (each.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{path}: an object lacks <{tag}>")
    return text


def _number(each: ElementTree.Element, tag: str, path: Path) -> float:
    text = _text(each, tag, path)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}: <{tag}> is {text!r}, a number is needed") from None

"""Code sets: which diagnosis and procedure codes mean CKD, ESRD, dialysis, transplant, a comorbidity.

The sets live in `codes.yaml`, a file a clinical coder can read and change. Codes are matched by prefix after
normalisation (upper case, no dots, no blanks), each within its own coding system.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from kdfast.recipes.common.errors import why
from kdfast.recipes.esrd.tables import DataError

DEFAULT_CODES = Path(__file__).with_name("codes.yaml")
ROLES = ("stage", "outcome", "comorbidity")
OUTCOME_SETS = ("esrd", "transplant", "dialysis")  # timeline.py needs these three by name
INDEX_SETS = ("ckd_stage_3", "ckd_stage_4", "ckd_stage_5")


@dataclass(frozen=True)
class CodeSet:
    """One set: `prefixes` maps a coding system to the normalised prefixes that belong to it."""

    name: str
    title: str
    role: str
    prefixes: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class CodeBook:
    """All sets, and the pattern of a well-formed code of each system."""

    patterns: dict[str, re.Pattern[str]]
    sets: dict[str, CodeSet]

    def known(self, system: str, code: str) -> bool:
        """Whether `code` is well-formed in a system this book knows."""
        pattern = self.patterns.get(normalise(system))
        return bool(pattern and pattern.fullmatch(normalise(code).upper()))

    def sets_of(self, system: str, code: str) -> tuple[str, ...]:
        """Names of the sets `code` belongs to; empty for none."""
        key, text = normalise(system), normalise(code).upper()
        return tuple(s.name for s in self.sets.values() if text.startswith(s.prefixes.get(key, ("\0",))))

    def with_role(self, role: str) -> tuple[str, ...]:
        """Names of the sets of one role, in the file's order."""
        return tuple(s.name for s in self.sets.values() if s.role == role)


def normalise(text: str) -> str:
    """Lower case without dots, dashes, underscores and blanks: " ICD-10-CM" and "icd10cm" are one system."""
    return re.sub(r"[\s.\-_]", "", text).lower()


def load_codes(path: str | Path | None = None) -> CodeBook:
    """The code book in `path` (YAML), or the recipe's own. DataError names what is wrong with the file."""
    return _load(Path(path) if path is not None else DEFAULT_CODES)


@lru_cache(maxsize=4)
def _load(path: Path) -> CodeBook:
    content = _read(path)
    patterns = {normalise(name): _pattern(path, name, entry) for name, entry in content["systems"].items()}
    sets = {name: _read_set(path, name, entry, patterns) for name, entry in content["sets"].items()}
    if missing := sorted({*OUTCOME_SETS, *INDEX_SETS} - sets.keys()):
        raise DataError(f"codes: {path.name} lacks the sets {missing}, which the cohort needs")
    return CodeBook(patterns, sets)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"codes: {path} cannot be read: {why(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"codes: {path} is no YAML: {' '.join(str(error).split())}") from error
    parts = [content.get(name) for name in ("systems", "sets")] if isinstance(content, dict) else []
    entries = [entry for part in parts if isinstance(part, dict) for entry in part.values()]
    if not entries or not all(isinstance(found, dict) for found in [*parts, *entries]):
        raise DataError(f"codes: {path} must hold the mappings 'systems' and 'sets' of mappings")
    return content


def _pattern(path: Path, name: str, entry: dict[str, Any]) -> re.Pattern[str]:
    try:
        return re.compile(entry["pattern"])
    except (KeyError, TypeError, re.error) as error:
        raise DataError(
            f"codes: system {name!r} in {path.name} needs a pattern, a regular expression"
        ) from error


def _read_set(path: Path, name: str, entry: dict[str, Any], patterns: dict[str, re.Pattern[str]]) -> CodeSet:
    systems = {k: v for k, v in entry.items() if k not in ("role", "title")}
    if entry.get("role") not in ROLES:
        raise DataError(
            f"codes: set {name!r} in {path.name} needs a role out of {ROLES}, got {entry.get('role')!r}"
        )
    if unknown := sorted(s for s in systems if normalise(s) not in patterns):
        raise DataError(f"codes: set {name!r} in {path.name} uses the undeclared systems {unknown}")
    if bare := [p for prefixes in systems.values() for p in prefixes if not isinstance(p, str)]:
        raise DataError(f"codes: set {name!r} in {path.name} has unquoted numbers {bare}; write '{bare[0]}'")
    prefixes = {normalise(s): tuple(normalise(p).upper() for p in codes) for s, codes in systems.items()}
    return CodeSet(name, entry.get("title", name), entry["role"], prefixes)

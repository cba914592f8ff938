"""A recipe's `Options` as command-line flags (jsonargparse): `parser_for`, `parse`, and one-line errors.

jsonargparse reads types, YAML files (`--config`) and writes the config back; here are only the dashes in the
flags, `--no-...` for bools, help from the strings under the fields, and messages on one line.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import docstring_parser
import yaml
from jsonargparse import (
    SUPPRESS,
    ActionConfigFile,
    ActionYesNo,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
)

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import CONFIG

FRAME = ("recipe", "config", "out", "resume")  # arguments that are not fields of Options


class OneLineParser(ArgumentParser):
    """Raises UserError with one line instead of printing usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(plain(message))


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the recipe's docstring."""


def plain(message: object) -> str:
    """jsonargparse's message on one line, in the person's words.

    >>> plain("Parser key \\"batch_size\\":\\n  Expected a <class 'int'>. Got value: x")
    'option --batch-size: expected int, got x'
    """
    text = " ".join(str(message).split())
    text = re.sub(r'Parser key "(\w+)":', lambda m: f"option --{m[1].replace('_', '-')}:", text)
    text = re.sub(
        r"Expected a (?:<class '(\w+)'>|typing\.(\S+(?: \S+)*?))\. Got value: ", r"expected \1\2, got ", text
    )
    text = re.sub(r"expected Literal\[(.*?)\], got", r"expected one of \1, got", text).replace("'", "")
    text = re.sub(r"^argument (--[\w-]+):", r"option \1:", text)
    return re.sub(r"Option (\w+) is not accepted", r"there is no option \1", text)


def parser_for(name: str, recipe: ModuleType) -> ArgumentParser:
    """The parser of `kdfast distill NAME`."""
    parser = OneLineParser(
        prog=f"kdfast distill {name}",
        description=recipe.__doc__,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=typing.Literal[name], default=name, help=SUPPRESS)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="read options from a YAML file; later flags win"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help=f"folder to write, runs/{name} if not given"
    )
    parser.add_argument(
        "--resume", type=str | None, default=None, metavar="OUT", help="continue the run in OUT"
    )
    types, texts = typing.get_type_hints(recipe.Options), _help(recipe.Options)
    for field in dataclasses.fields(recipe.Options):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        how: dict[str, Any] = {"type": types[field.name]}
        if types[field.name] in (bool, bool | None):
            how = {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, default=default, help=texts.get(field.name, ""), **how)
    return parser


def _help(options: type) -> dict[str, str]:
    """Field name -> the string under it, base classes first."""
    texts: dict[str, str] = {}
    for cls in reversed(options.__mro__[:-1]):
        parsed = docstring_parser.parse_from_object(cls)
        texts |= {each.arg_name: each.description or "" for each in parsed.params}
    return texts


def parse(name: str, recipe: ModuleType, arguments: list[str]) -> tuple[Any, Namespace]:
    """Options and the frame's arguments (out, resume) from the command line.

    With --resume the options come from OUT/config.yaml; of the others only those that do not change what is
    computed may be given.

    Raises:
        UserError: one line for the person.
    """
    parser = parser_for(name, recipe)
    given = parser.parse_args(arguments)
    if given.resume is not None:
        given = _resumed(parser, recipe, given, arguments)
    fields = {field.name: given[field.name] for field in dataclasses.fields(recipe.Options)}
    try:
        return recipe.Options(**fields), given
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _resumed(parser: ArgumentParser, recipe: ModuleType, given: Namespace, arguments: list[str]) -> Namespace:
    config = Path(given.resume) / CONFIG
    if not config.is_file():
        raise UserError(f"--resume {given.resume} holds no run ({CONFIG} is missing)")
    if given.out is not None or given.config is not None:
        raise UserError("--resume takes its folder and its options from OUT; drop --out and --config")
    kept = parser.parse_args(["--config", str(config), *arguments])
    stored = parser.parse_args(["--config", str(config)])
    for field in dataclasses.fields(recipe.Options):
        if kept[field.name] != stored[field.name] and not field.metadata.get("runtime"):
            flag = "--" + field.name.replace("_", "-")
            raise UserError(f"option {flag} cannot change on resume: {config} says {stored[field.name]}")
    return kept


def config_of(name: str, options: Any) -> dict[str, Any]:
    """What config.yaml holds: the recipe's name and every option, in plain YAML types."""
    plain_types = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(options).items()
    }
    config = {"recipe": name} | plain_types
    yaml.safe_dump(config)  # an option that YAML cannot hold is a fault of the recipe: fail before the run
    return config

"""Loads a config file, and says where in the user's own files a mistake is."""

import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from contrastive_jax.config.find import find_config
from contrastive_jax.errors import UserError

LONGEST = 300  # characters of an error's message

_MODULE = 'contrastive_jax_config'  # the name under which the file is imported


def load(given: str) -> ConfigDict:
    """The config that a file makes: `get_config(variant)`.

    Args:
      given: the path of a file or the name of a recipe, and after a colon perhaps the variant: see `find.find_config`.

    Raises:
      UserError: the file does not exist, something in it fails, or it returns no config.
    """
    path, colon, variant = given.partition(':')
    file, _ = find_config(given)
    if file == Path(path).expanduser():  # not a recipe of the package
        # A config may import its neighbors, as `folder.name` or as `name`, wherever the command is started. Its own
        # folder comes last, so that no file in it takes the place of an installed module.
        folder = file.resolve().parent
        sys.path[:] = [str(folder.parent), *(place for place in sys.path if place != str(folder.parent)), str(folder)]
    try:
        loader = importlib.machinery.SourceFileLoader(_MODULE, str(file))
        spec = importlib.util.spec_from_loader(_MODULE, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module  # dataclasses in the file look for it
        loader.exec_module(module)
        if not callable(get_config := getattr(module, 'get_config', None)):
            raise UserError('there is no function get_config', remedy="define get_config(variant='')")
        arguments = (variant,) if colon else ()
        if not _takes(get_config, arguments):
            what, remedy = ('takes no', path) if colon else ('needs a', f'{path}:VARIANT')
            raise UserError(f'get_config {what} variant', remedy=f'give {remedy}')
        config = get_config(*arguments)
    except UserError as error:
        raise UserError(f'config {given}: {error}') from error
    except (Exception, SystemExit) as error:
        raise UserError(f'config {given} fails at {_line_of(file, error)}: {_reason(error)}') from error
    if not isinstance(config, ConfigDict):
        what = type(config).__name__
        raise UserError(f'get_config of {given} returns {what}', remedy='return the config that it makes')
    return config.lock()


def one_line(error: BaseException) -> str:
    """The message of an error in one line; its type if there is no message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(text).split()) or type(error).__name__


def _reason(error: BaseException) -> str:
    """The message of an error, with its type if it is a single word.

    Messages of ml_collections are in quotes and end with the whole config, which is cut off.
    """
    if isinstance(error, SyntaxError):  # its text repeats file and line
        return error.msg
    kind, text = type(error).__name__, one_line(error)
    if text[0] == text[-1] and text[0] in '\'"':
        text = text.strip('\'"')
    if len(text) > LONGEST:
        text = f'{text[:LONGEST]}...'
    return text if ' ' in text or text == kind else f'{kind}: {text}'


def _takes(function: Callable[..., object], arguments: Sequence[str]) -> bool:
    """Whether a function can be called with these arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _line_of(file: Path, error: BaseException) -> str:
    """file:line of an error: the last line in the config file or in its folder; the file if it cannot be read."""
    if isinstance(error, SyntaxError) and error.filename:
        return f'{error.filename}:{error.lineno}'
    frames = traceback.extract_tb(error.__traceback__)
    folder = file.resolve().parent
    own = [frame for frame in frames if Path(frame.filename).resolve().parent == folder]
    return f'{own[-1].filename}:{own[-1].lineno}' if own else str(file)

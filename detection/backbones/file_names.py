"""Gives tensors names in files that differ from the names of a module's attributes.

Saved models, kept constants and digests of weights have these names, so the names in files stay when an
attribute is renamed.
"""

from functools import partial
from typing import Any

from torch import nn


def keep_file_names(module: nn.Module, names: dict[str, str]) -> None:
    """Makes ``state_dict`` and ``load_state_dict`` of a module use the names of files.

    Args:
        module: a module whose attributes were renamed.
        names: the beginning of a name in the module to its beginning in files; the first match is used.
    """
    module.register_state_dict_post_hook(partial(_rename, names))  # type: ignore[no-untyped-call]
    from_files = {file_name: name for name, file_name in names.items()}
    module.register_load_state_dict_pre_hook(partial(_rename, from_files))  # type: ignore[no-untyped-call]


def _rename(names: dict[str, str], _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Changes the beginnings of names in place; the order of the entries stays."""
    entries = list(state.items())
    state.clear()
    for name, value in entries:
        old = next((begin for begin in names if name.startswith(prefix + begin)), None)
        if old is not None:
            name = prefix + names[old] + name.removeprefix(prefix + old)
        state[name] = value

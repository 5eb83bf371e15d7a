"""Says which packages to install where one is missing, as in an installation without torch."""

import re
from importlib.metadata import PackageNotFoundError, distribution, requires


def missing_packages() -> list[str]:
    """Lists the requirements of this project that are not installed, without its extras.

    Example:
        >>> missing_packages()
        []
    """
    lines = [line for line in requires("sppnet") or () if "extra ==" not in line]
    return [line for line in lines if not _is_installed(re.split(r"[^\w.-]", line, maxsplit=1)[0])]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """Explains a failed import by what has to be installed; None if nothing that is required is missing.

    Args:
        error: of the import.
    """
    missing = missing_packages()
    if not missing:
        return None
    packages = " ".join(f'"{line}"' for line in missing)
    return f"this needs {error.name}, which is not installed; install what is missing: pip install {packages}"

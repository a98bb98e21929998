"""Reading a study's file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pns.recipe_files import as_user_error, read_yaml
from pns.study.spec import Study


def load_study(path: Path) -> Study:
    """A study from its YAML file. Raises UserError: missing file, broken YAML, unknown key, wrong type, broken rule."""
    data = read_yaml(path)
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise as_user_error(error, path, {}, Study) from None

"""The tree of exceptions: as its docstring draws it, and caught by what a caller expects."""

import ast
import inspect
import re

import pytest

import ldm_project.errors
import mlflow_carbon.errors
from mlflow_carbon.errors import InvalidInputError, MlflowCarbonError, NoIntensityError
from mlflow_carbon.grid.intensity import lookup_intensity
from tests.conftest import ROOT


def classes_of(module):
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__
    ]


def test_docstring_draws_every_exception_and_its_builtin_parent():
    text = mlflow_carbon.errors.__doc__
    drawn = dict(re.findall(r"── (\w+) .* also an? (\w+)", text))
    children = [found for found in classes_of(mlflow_carbon.errors) if found != MlflowCarbonError]
    direct = [found for found in children if found.__bases__[0] is MlflowCarbonError]
    assert drawn == {found.__name__: found.__bases__[1].__name__ for found in direct}
    for found in set(children) - set(direct):
        assert f"── {found.__name__} " in text
        assert found.__bases__[0] in direct


def test_no_other_file_defines_an_exception_of_the_tree():
    tree = {found.__name__ for found in classes_of(mlflow_carbon.errors)}
    for package in ("mlflow_carbon", "ldm_project"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "errors.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    parents = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    assert not parents & tree, f"{path.name} defines {node.name}"


def test_errors_of_the_project_hang_below_those_of_the_plugin():
    assert all(issubclass(found, MlflowCarbonError) for found in classes_of(ldm_project.errors))


def test_a_caller_may_catch_a_bad_value_as_a_value_error():
    with pytest.raises(ValueError, match="month is 'May'"):
        lookup_intensity("DE", month="May")


def test_advice_names_the_argument_and_stands_apart_for_the_command_line():
    error = NoIntensityError("No carbon intensity for XQ.", instead="carbon_intensity_g_per_kwh")
    assert str(error) == "No carbon intensity for XQ. Or give carbon_intensity_g_per_kwh."
    assert (error.message, error.arguments) == ("No carbon intensity for XQ.", ())


def test_no_message_of_the_library_speaks_of_an_option():
    with pytest.raises(NoIntensityError) as caught:
        lookup_intensity("Atlantis")
    assert "--" not in str(caught.value)
    with pytest.raises(InvalidInputError) as bad:
        lookup_intensity("DE", month="May")
    assert bad.value.arguments == ("month",)

"""The project's exceptions: one tree below the plugin's, children of what callers expect."""

from ldm_project import errors
from mlflow_carbon.errors import MlflowCarbonError


def test_every_exception_hangs_below_one_and_is_drawn():
    own = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert len(own) == 5
    for value in own:
        assert issubclass(value, errors.LdmProjectError)
        assert issubclass(value, MlflowCarbonError)
        assert value.__name__ in errors.__doc__


def test_bad_parameter_is_a_value_error():
    assert issubclass(errors.InvalidInputError, ValueError)

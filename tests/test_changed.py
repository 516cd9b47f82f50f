"""`make check` runs the tests that matter."""

from tests.changed import ALWAYS, relevant_tests


def test_a_module_leads_to_its_tests_and_a_test_to_itself() -> None:
    found = relevant_tests(["catalog/sink.py", "tests/gate/test_pixel.py", "docs/scale.md"])
    assert {"tests/catalog/test_sink.py", "tests/gate/test_pixel.py", *ALWAYS} <= set(found)
    assert "tests/test_readme.py" in found
    assert set(relevant_tests([])) == set(ALWAYS)


def test_a_module_that_all_import_does_not_bring_them_all() -> None:
    assert len(relevant_tests(["factory/errors.py"])) <= len(ALWAYS) + 8

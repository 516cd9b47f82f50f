"""Test images of another hospital are scored apart, by the same trainings."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from factory.config import parse_config
from factory.errors import ConfigError
from factory.evaluate.arms import Drawn
from factory.evaluate.config import StudyConfig
from factory.evaluate.study import plan_units, subgroup_values
from factory.evaluate.study_html import to_html
from factory.evaluate.study_report import StudyReport, make_report, to_markdown
from factory.evaluate.tasks import metrics
from factory.evaluate.units import Material, Result, Unit
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset
from factory.real.smear import smear_items
from tests.fakes.splits import split_of

HOSPITALS = ("here", "there")


@pytest.fixture(scope="module")
def cells() -> RealDataset:
    items = [
        replace(item, attributes={"hospital": HOSPITALS[number % 2]})
        for number, item in enumerate(smear_items(120, seed=4, size_px=32))
    ]
    return build_dataset(items)


@pytest.fixture(scope="module")
def report(cells: RealDataset) -> StudyReport:
    """The arm without drawn cells is right at home alone, the other one elsewhere alone."""
    config = parse_config(
        StudyConfig,
        {
            "arms": {"real": {"design": "real"}, "mixed": {"design": "add", "per_class": 1}},
            "seeds": [0, 1],
            "subgroups": "hospital",
        },
        where="test",
    )
    names = cells.class_names
    drawn = [
        Drawn(id=f"d{n}", class_name=name, soft_label=tuple(float(name == o) for o in names))
        for n, name in enumerate(names)
    ]
    units = plan_units(config, cells, [split_of(cells, train=0.4, val=0.2, test=0.4)], [drawn])
    real = list(cells.ids)
    material = Material(
        class_names=names,
        images=np.zeros((len(real) + len(drawn), 32, 32, 3), np.uint8),
        position={i: n for n, i in enumerate([*real, *(d.id for d in drawn)])},
        labels=dict(zip(real, cells.labels, strict=True)),
        groups={i: i for i in real},
    )
    values = subgroup_values(cells, "hospital")
    results = {unit.id: answered(unit, material, values) for unit in units}
    return make_report(config, units, results, material, values=values)


def answered(unit: Unit, material: Material, values: Mapping[str, str]) -> Result:
    """Return a result that names the class in one hospital, and another class in the other."""
    knows = "here" if unit.manifest.arm == "real" else "there"
    truth = material.class_indices(unit.test)
    off = np.array([values[i] != knows for i in unit.test])
    said = (truth + off) % len(material.class_names)
    found = metrics(truth, np.eye(len(material.class_names))[said], material.class_names)
    return Result(
        unit_id=unit.id,
        best_step=1,
        seconds=0.0,
        val={"macro_f1": 0.5},
        test=found,
        said=tuple((int(index),) for index in said),
    )


def test_each_hospital_has_its_own_scores_and_differences(report: StudyReport) -> None:
    here, there = (report.subgroups[name] for name in HOSPITALS)
    assert here.num_test + there.num_test == report.num_test
    assert here.scores == {"real": (1.0, 1.0), "mixed": (0.0, 0.0)}
    assert there.scores == {"real": (0.0, 0.0), "mixed": (1.0, 1.0)}
    assert here.differences["mixed"].difference.value == -1
    assert there.differences["mixed"].difference.value == 1
    assert abs(report.comparisons["mixed"]["real"].difference.value) < 0.3


def test_they_are_told_in_words_and_on_the_page(report: StudyReport) -> None:
    text = to_markdown(report)
    num_test = report.subgroups["there"].num_test
    assert f"there, {num_test} test images:\n\n| arm | macro-F1 | minus real |" in text
    assert "| mixed | 1.000 ± 0.000 | 1.000 [" in text
    assert "Subgroups of the test part" in to_html(report)


def test_an_unknown_attribute_is_refused_with_those_that_are_there(cells: RealDataset) -> None:
    with pytest.raises(ConfigError, match="no image has an attribute 'clinic'") as told:
        subgroup_values(cells, "clinic")
    assert "hospital" in str(told.value)
    assert subgroup_values(cells, None) == {}

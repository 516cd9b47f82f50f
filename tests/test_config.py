"""Configuration: what is wrong is named, with its value and the way out."""

from pathlib import Path

import pytest

from factory.config import load_config, parse_config, to_yaml
from factory.errors import ConfigError
from factory.evaluate.config import StudyConfig
from factory.finetune.config import ExpertConfig
from factory.methods.text.config import BaseConfig, FinetuneConfig
from factory.models.generator import RINGS_FILE, SEEN, find_generator
from factory.sample.config import GenerateConfig
from factory.search.config import SweepConfig

GOOD = "num_images: 8\nclasses: {monocyte: a monocyte}\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_imges=3", "unknown key 'num_imges'.*Known keys: .*num_images"),
        ("num_images=-1", "num_images is -1: .*greater than 0"),
        ("num_images=many", "num_images is 'many'"),
        ("gates.min_contrast=2", "gates.min_contrast is 2"),
        ("gates.colour=1", "unknown key 'gates.colour'.*Known keys: min_contrast"),
        ("stream.actorz=1", "unknown key 'stream.actorz'.*Known keys: actors, commit"),
        ("num_images=true", "num_images is True: .*integer"),
        ("num_images='12'", "num_images is '12': .*integer"),
        ("num_images=2.5", "num_images is 2.5: .*integer"),
        ("num_images=1000000000000000", "num_images is .*less than or equal to 1000000000"),
        ("batch_size=100000", "batch_size is 100000"),
        ("size_px=99992", "size_px is 99992"),
        ("seed=true", "seed is True"),
        ("guidance_scale=true", "guidance_scale is True: .*number"),
        ("guidance_scale=.inf", "guidance_scale is inf: .*finite"),
        ("gates.min_sharpness=.nan", "gates.min_sharpness is nan: .*finite"),
        ("stream.commit_seconds=.inf", "stream.commit_seconds is inf: .*finite"),
        ("classes={monocyte: 3}", "job.yaml: classes.monocyte is 3: .*string"),
        ("classes={monocyte: [a, 3]}", r"classes.monocyte(.1)? is .*3.*: .*string"),
        ("classes={3: a}", "classes.3 is 3: .*string"),
        ("classes={a: x, a: y}", "not YAML .*'a' is written twice"),
        ("scheduler=heun", "scheduler is 'heun'.*ddim"),
        ("batch_size=0", "batch_size is 0"),
        ("model.name=1", "not a section|model is"),
        ("guidance_scale", "not key=value"),
        ("guidance_scale=[", "not YAML"),
        ("classes={x: []}", "classes"),
    ],
)
def test_a_wrong_override_is_named(source: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(GenerateConfig, source, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "num_images: 99999\n", "'num_images' is written twice"),
        ("- a\n- b\n", "holds no keys"),
        ("a: [", "not readable YAML"),
        ("", "holds no keys"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(GenerateConfig, path)


def test_a_file_in_the_home_folder_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(source.parent))
    assert load_config(GenerateConfig, "~/job.yaml").num_images == 8
    with pytest.raises(ConfigError, match="no configuration at '~nobody"):
        load_config(GenerateConfig, "~nobody/job.yaml")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("num_images: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_config(GenerateConfig, path)


def test_a_missing_file_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"wbc\.yaml"):
        load_config(GenerateConfig, "nowhere.yaml")


def test_overrides_reach_nested_keys(source: Path) -> None:
    config = load_config(GenerateConfig, source, ["gates.min_contrast=0.1", "stream.actors=2"])
    assert config.gates.min_contrast == 0.1
    assert config.stream.actors == 2


def test_one_number_may_be_written_in_several_ways(source: Path) -> None:
    plain = load_config(GenerateConfig, source, ["num_images=12", "guidance_scale=2"])
    assert load_config(GenerateConfig, source, ["num_images=12.0", "guidance_scale=2e0"]) == plain
    assert load_config(GenerateConfig, source, ["guidance_scale=1e-3"]).guidance_scale == 0.001


def test_a_configuration_survives_its_own_yaml(source: Path, tmp_path: Path) -> None:
    config = load_config(GenerateConfig, source, ["seed=5", "classes={a: [x, '1e-3'], b: z}"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_config(GenerateConfig, copy) == config


def test_shipped_presets_are_valid() -> None:
    assert load_config(GenerateConfig, "wbc").num_images >= 256
    assert load_config(BaseConfig, "wbc_base").size_px == 64
    assert load_config(FinetuneConfig, "feature_aligned").alignment.weight == 1
    assert load_config(ExpertConfig, "expert").backbone == "tf_efficientnet_lite0"
    assert load_config(StudyConfig, "evaluate").controls[0] == "real"
    assert load_config(StudyConfig, "evaluate").learner.task == "probe"
    assert load_config(StudyConfig, "evaluate_mask_probe").learner.task == "probe_masks"
    assert load_config(StudyConfig, "evaluate_finetuned").learner.task == "classify"
    assert load_config(StudyConfig, "evaluate_resnet50").learner.task == "classify"
    assert load_config(StudyConfig, "evaluate_segment").learner.task == "segment"
    assert load_config(StudyConfig, "evaluate_clip").mixed == ("plus_3000", "top_up")
    assert load_config(SweepConfig, "wbc_sweep").trials == 60


def test_the_preset_of_the_embedded_student_is_how_it_is_drawn() -> None:
    fast, slow = (load_config(GenerateConfig, name) for name in ("wbc_fast", "wbc"))
    student, teacher = (find_generator(config.model) for config in (fast, slow))
    assert {key: getattr(fast, key) for key in student.settled} == student.settled
    assert student.manifest["distilled"]["teacher"] == teacher.model_id
    same = {"gates", "copies", "num_images"}
    assert fast.model_dump(include=same) == slow.model_dump(include=same)
    for name in (SEEN, RINGS_FILE):  # what it must not draw again is what its teacher learnt
        assert (student.folder / name).read_bytes() == (teacher.folder / name).read_bytes()
    size = sum(file.stat().st_size for file in student.folder.rglob("*") if file.is_file())
    assert size <= 25 * 2**20


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="here: num_images: Field required"):
        parse_config(GenerateConfig, {"classes": {"a": "b"}}, where="here")


def test_keys_that_jobs_learnt_later_rename_no_older_configuration() -> None:
    job = GenerateConfig(num_images=1)
    assert job.digest == "2de0b14eabe6bfcf1d8d142275ba53f6"
    assert GenerateConfig(num_images=1, data="x").digest != job.digest


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ({"design": "ratio", "ratio": 1, "size": 1}, "unknown key 'arms.it.size'"),
        ({"design": "ratio", "ratio": -1}, "arms.it.ratio is -1"),
        ({"design": "add", "per_class": 0}, "arms.it.per_class is 0"),
    ],
)
def test_a_kind_that_is_called_as_its_key_hides_no_key(arm: dict[str, object], told: str) -> None:
    arms = {"real": {"design": "real"}, "it": arm}
    with pytest.raises(ConfigError, match=told):
        parse_config(StudyConfig, {"arms": arms}, where="test")

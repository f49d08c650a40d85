"""A study's YAML file and its overrides are read, or refused with one clear message."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT
from skin_tl.reporting.texts import Labels, languages
from skin_tl.study import Study, check_study, load_study, save_study

SETTINGS = {"name": "mine", "title": "Mine", "dataset": "synthetic", "backbones": ["VGG16"], "seeds": [1, 2]}


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_project_are_valid_and_named_after_their_file(path):
    study = load_study(path)
    assert study.name == path.stem
    assert study.overrides == []


def test_a_study_can_be_narrowed_to_some_of_its_strategies():
    file = yaml.safe_load((ROOT / "studies" / "transfer.yaml").read_text(encoding="utf-8"))
    assert {"fine_tuning_epochs", "from_scratch_epochs"} <= {*file}
    for strategies in (["feature_extraction"], "feature_extraction,fine_tuning", ["from_scratch"]):
        study = load_study("transfer", {"strategies": strategies})
        tuned = "fine_tuning" in study.strategies
        assert study.fine_tuning_epochs == (
            file["fine_tuning_epochs"] if tuned else check_study(SETTINGS).fine_tuning_epochs
        )
        assert study.overrides == ["strategies"]
    # what the same command line says is not left out without a word
    with pytest.raises(SkinTLError, match=r"`--config fine_tuning_epochs=…`: has an effect on fine_tuning alone"):
        load_study("transfer", {"strategies": ["feature_extraction"], "fine_tuning_epochs": 3})


def test_a_copy_of_a_study_needs_a_name_of_its_own(tmp_path):
    copy = tmp_path / "copy.yaml"
    demo = (ROOT / "studies" / "demo.yaml").read_text(encoding="utf-8")
    copy.write_text(demo, encoding="utf-8")
    with pytest.raises(SkinTLError) as refusal:
        load_study(copy)
    assert all(part in str(refusal.value) for part in (str(copy), "`name`", str(Path("studies", "demo.yaml"))))
    copy.write_text(demo.replace("name: demo", "name: demo2"), encoding="utf-8")
    assert load_study(copy).name == "demo2"
    save_study(load_study("demo"), tmp_path / "study.json")  # a run's record has its study's name
    assert load_study(tmp_path / "study.json").name == "demo"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bakbones": ["VGG16"]}, "did you mean `backbones`"),
        ({"backbones": ["Resnet50"]}, "did you mean 'ResNet50'"),
        ({"backbones": ["vgg16"]}, "did you mean 'VGG16'"),
        ({"backbones": []}, "backbones"),
        ({"backbones": ["VGG16", "VGG16"]}, "listed twice"),
        ({"strategies": ["finetuning"]}, "feature_extraction"),
        ({"split_policies": ["patient"]}, "lesion"),
        ({"preprocessings": ["caffe"]}, "native"),
        ({"seeds": ["one"]}, "`seeds`: expected whole numbers from 0 and below 4294967296, as in 1,2,3 (given: 'one')"),
        ({"seeds": [-1]}, "`seeds`: expected whole numbers from 0"),
        ({"train_fractions": [0.1, 0.5]}, "must contain 1"),
        ({"train_fractions": []}, "list at least one (given: none)"),
        ({"seeds": []}, "list at least one (given: none)"),
        ({"train_fractions": [0, 1]}, "greater than 0"),
        ({"train_fractions": [1, 1.5]}, "less than or equal to 1"),
        ({"train_fractions": [0.1, 0.1, 1]}, "listed twice"),
        ({"train_fractions": ["ten", 1]}, "number"),
        ({"image_size": 5}, "image_size"),
        ({"l2": [-1]}, "l2"),
        ({"weights": "imagenet22k"}, "imagenet"),
        ({"name": "published"}, "reserved"),
        ({"name": "../elsewhere"}, "expected letters, digits, - and _ alone"),
        ({"name": "my study"}, "expected letters, digits, - and _ alone"),
        ({"epochs": 3}, "did you mean `max_epochs` or `fine_tuning_epochs` or `from_scratch_epochs` or"),
        ({"dataset": None}, "dataset"),
        ({"external": "isic2019"}, "isic2018"),
        ({"images": "some"}, "boolean"),
    ],
)
def test_a_wrong_key_or_value_is_named(change, named):
    with pytest.raises(SkinTLError, match=r"mine\.yaml") as error:
        check_study({**SETTINGS, **change}, source="mine.yaml")
    assert named in str(error.value)
    assert next(iter(change)) in str(error.value)


def test_a_study_with_a_similar_name_is_offered():
    with pytest.raises(SkinTLError, match=r"No study named 'ham1000', and no such file\. Did you mean 'ham10000'\?"):
        load_study("ham1000")


def test_a_file_that_is_no_yaml_is_refused_with_line_and_column(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ntitle: a: b\n")
    with pytest.raises(SkinTLError) as error:
        load_study(tmp_path / "mine.yaml")
    told = "mine.yaml is not valid YAML: line 2, column 9: mapping values are not allowed here"
    assert str(error.value) == f"{tmp_path}/{told}. Correct the file."


def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"image_size": 64}, sort_keys=False) + "image_size: 96\n")
    lines = path.read_text().splitlines()
    first, second = lines.index("image_size: 64") + 1, len(lines)
    with pytest.raises(SkinTLError) as error:
        load_study(path)
    told = f"line {second}, column 1: the key `image_size` is given already in line {first}. Leave one of them out"
    assert str(error.value) == f"{path} is not valid YAML: {told}. Correct the file."
    path.write_text(path.read_text().replace("image_size: 96\n", ""))
    assert load_study(path).image_size == 64
    path.write_text("{name: mine, name: yours}")
    with pytest.raises(SkinTLError, match="line 1, column 14: the key `name` is given already in line 1"):
        load_study(path)


def test_a_missing_key_is_named():
    with pytest.raises(SkinTLError, match="`title` is missing"):
        check_study({key: value for key, value in SETTINGS.items() if key != "title"})


def test_overrides_are_read_as_a_command_line_gives_them_and_remembered():
    study = check_study(SETTINGS, {"backbones": "ResNet50,Xception", "seeds": 3, "image_size": "64"})
    assert study.backbones == ["ResNet50", "Xception"]
    assert study.seeds == [3]
    assert study.image_size == 64
    assert study.overrides == ["backbones", "image_size", "seeds"]


def test_an_override_that_changes_nothing_is_not_remembered():
    assert check_study(SETTINGS, {"seeds": "1,2"}).overrides == []


def test_train_fractions_are_sorted_and_a_study_without_them_is_trained_as_ever():
    plain = check_study(SETTINGS)
    assert plain.train_fractions == [1.0] and "train_fractions" not in plain.training_settings()
    study = check_study(SETTINGS, {"train_fractions": "1,0.05,0.5"})
    assert study.train_fractions == [0.05, 0.5, 1.0] and study.overrides == ["train_fractions"]
    for strategy in ("feature_extraction", "fine_tuning", "from_scratch"):
        assert study.training_settings(strategy)["train_fractions"] == [0.05, 0.5, 1.0]
    assert study.split_settings() == plain.split_settings()


def test_the_external_test_set_changes_neither_splits_nor_training():
    plain, with_it = check_study(SETTINGS), check_study(SETTINGS, {"external": "isic2018"})
    assert plain.external is None and with_it.external == "isic2018" and with_it.overrides == ["external"]
    assert with_it.split_settings() == plain.split_settings()
    assert with_it.training_settings() == plain.training_settings()
    assert check_study({**SETTINGS, "external": "isic2018"}, {"external": None}).external is None


def test_pictures_are_a_setting_of_the_report_alone():
    plain, without = check_study(SETTINGS), check_study(SETTINGS, {"images": "false"})
    assert plain.images and not without.images and without.overrides == ["images"]
    assert without.split_settings() == plain.split_settings()
    assert without.training_settings() == plain.training_settings()
    (rule,) = [rule for rule in re.split(r"\n *rule\b", (ROOT / "Snakefile").read_text()) if "study.images" in rule]
    assert 'run("report", "params.language")' in rule


def test_a_wrong_override_is_named_as_the_user_typed_it():
    with pytest.raises(SkinTLError, match="--config backbones="):
        check_study(SETTINGS, {"backbones": "AlexNet"})


def test_an_unknown_study_lists_those_that_exist():
    with pytest.raises(SkinTLError, match=r"demo, fine_tuning, ham10000, presentation"):
        load_study("demonstration")


@pytest.mark.parametrize("text", ["name: [", "just words", "", "\xff"])
def test_a_file_that_is_no_study_is_refused(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SkinTLError, match=r"broken\.yaml"):
        load_study(path)


def test_a_saved_study_reads_back_as_the_same(tmp_path):
    study = check_study(SETTINGS, {"seeds": "7"})
    save_study(study, tmp_path / "study.json")
    assert load_study(tmp_path / "study.json") == study


def test_a_study_by_path_may_live_anywhere(tmp_path):
    path = tmp_path / "a study.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    assert load_study(path).title == "Mine"


def of_file(folder, text, name="mine.yaml"):
    """Load a study from the text of its file, with what `SETTINGS` has besides."""
    given = {line.partition(":")[0] for line in text.splitlines()}
    rest = yaml.safe_dump({key: value for key, value in SETTINGS.items() if key not in given})
    (folder / name).write_text(f"{text}\n{rest}", encoding="utf-8")
    return load_study(folder / name)


@pytest.mark.parametrize("typed", ["1_2", "0x10", "0o17", "1:30", "1e3", "1.5", "one", "true"])
def test_a_number_that_is_not_what_was_typed_is_refused(typed, tmp_path):
    with pytest.raises(SkinTLError, match=r"seeds.*expected whole numbers from 0"):
        check_study(SETTINGS, {"seeds": typed})
    with pytest.raises(SkinTLError, match=r"seeds.*expected whole numbers from 0"):
        of_file(tmp_path, f"seeds: [{typed}]")


@pytest.mark.parametrize("typed", ["1_0.5", "1_0", ".inf", "nan", "0x1", "1:30"])
def test_a_fraction_that_is_not_what_was_typed_is_refused(typed, tmp_path):
    with pytest.raises(SkinTLError, match=r"l2.*expected a number in decimal digits"):
        check_study(SETTINGS, {"l2": typed})
    with pytest.raises(SkinTLError, match=r"l2.*expected a number in decimal digits"):
        of_file(tmp_path, f"l2: [{typed}]")


def test_numbers_of_a_file_are_read_by_the_rules_of_yaml_1_2(tmp_path):
    study = of_file(tmp_path, "seeds: [010, 7, +3]\nl2: [1e-3, .5, 2]\nimages: off\nexternal: null\nunfreeze:")
    assert study.seeds == [10, 7, 3] and study.l2 == [0.001, 0.5, 2.0]
    assert study.images is False and study.external is None and study.unfreeze is None


@settings(deadline=None)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True))
def test_a_seed_is_the_number_that_was_typed(seeds, tmp_path_factory):
    typed = ",".join(map(str, seeds))
    assert check_study(SETTINGS, {"seeds": typed}).seeds == seeds
    assert of_file(tmp_path_factory.mktemp("study"), f"seeds: [{typed}]").seeds == seeds


def test_a_seed_that_no_generator_takes_is_refused():
    with pytest.raises(SkinTLError, match=r"seeds.*below 4294967296"):
        check_study(SETTINGS, {"seeds": str(2**32)})


LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(
    lambda text: text == text.strip()
)


@settings(deadline=None)
@given(title=LINES)
@example(title="007")
@example(title="Skin: a study")
@example(title="#1")
@example(title="A {study}")
@example(title="yes")
@example(title="null")
@example(title="\ufeff\uffff")
def test_a_title_comes_back_as_it_was_typed(title, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = check_study(SETTINGS, {"title": title})
    assert study.title == title
    save_study(study, folder / "study.json")
    assert load_study(folder / "study.json") == study
    quoted = title.replace("'", "''")
    if title.isprintable():
        assert of_file(folder, f"title: '{quoted}'").title == title


@pytest.mark.parametrize("title", ["007", "1.10", "yes", "2026-01-02", "1_000", "null", "A {study}", "Étude"])
def test_a_title_without_quotes_keeps_what_stands_in_the_file(title, tmp_path):
    assert of_file(tmp_path, f"title: {title}").title == title


@pytest.mark.parametrize("title", ["", " ", "two\nlines", "a\x07bell", "\udc80"])
def test_a_title_that_is_no_line_of_text_is_refused(title):
    with pytest.raises(SkinTLError, match=r"title.*expected one line of text"):
        check_study(SETTINGS, {"title": title})


@pytest.mark.parametrize("language", languages())
def test_every_key_that_a_command_line_may_change_has_a_name_in_the_report(language):
    for key in {*Study.model_fields} - {"name", "images", "overrides"}:  # which no banner names
        assert Labels(language)(f"setting.{key}")


def test_views_are_a_group_and_of_frozen_backbones_alone():
    with pytest.raises(SkinTLError, match=r"views.*1, 2, 4 or 8"):
        check_study(SETTINGS, {"views": 3})
    study = check_study(SETTINGS, {"views": "4"})
    assert study.views == 4 and study.training_settings()["views"] == 4
    assert [study.n_views(one) for one in ("feature_extraction", "fine_tuning", "from_scratch")] == [4, 1, 1]
    assert "views" not in study.training_settings("fine_tuning")
    assert study.model_copy(update={"test_time_augmentation": True}).n_views("from_scratch") == 8

from dataclasses import dataclass

import pytest

from custom_components.config import (
    Component,
    UserError,
    instantiate,
    load,
    option,
    recipe_main,
    required,
)


@dataclass
class Inner:
    depth: int = option(1, "an inner value")
    title: str = option("", "a text")


@dataclass
class Example:
    learning_rate: float = option(0.1, "a number")
    inner: Inner = option(Inner, "a group")
    optimizer: Component | None = option(None, "a component")
    names: list[str] = option(list, "a list")
    data: str = required("a required value")
    label: str | None = option(None, "a text or nothing")
    inners: list[Inner] = option(list, "groups")
    paths: dict[str, str] = option(dict, "texts by name")
    problem: str = option("", "prose", verbatim=True)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: x\noptimizer: {_component_: torch.optim.AdamW, lr: 0.1}\n")
    return path


def test_yaml_and_overrides_are_merged(config):
    cfg = load(Example, config, ["inner.depth=3", "optimizer.lr=0.5", "data=a=b", "names=[u,v]"])
    assert cfg.inner.depth == 3
    assert cfg.optimizer == {"_component_": "torch.optim.AdamW", "lr": 0.5}
    assert cfg.data == "a=b"  # a second = belongs to the value
    assert cfg.names == ["u", "v"]
    assert load(Example, config, ["names=[u,v]", "names.1=w"]).names == ["u", "w"]


def test_a_component_given_whole_replaces_the_old_ones_arguments(config):
    cfg = load(Example, config, ["optimizer={_component_: torch.optim.SGD, momentum: 0.9}"])
    assert cfg.optimizer == {"_component_": "torch.optim.SGD", "momentum": 0.9}


@pytest.mark.parametrize(
    "text",
    [
        "Find x: x+1=2",
        "Compute 3 # 4",
        "{1,2,3} has",
        "[1,2] union?",
        "- 3 + 5",
        "*x",
        "'quoted' word",
        '"a" and "b"',
        "010",
        "12:30",
        "0.50",
        "yes",
        "a\nb: c",
        "\\frac{1}{2}",
        "",
    ],
)
def test_the_value_of_a_text_is_taken_as_it_stands(config, text):
    keys = ("data", "inner.title", "inners.0.title", "paths.a", "problem")
    cfg = load(Example, config, ["inners=[{depth: 1}]", *(f"{key}={text}" for key in keys)])
    found = (cfg.data, cfg.inner.title, cfg.inners[0].title, cfg.paths["a"], cfg.problem)
    assert found == (text,) * 5
    assert load(Example, config, [f"label={text}"]).label == (text or None)


def test_quotes_null_and_interpolations_in_a_text(config):
    cfg = load(Example, config, ['label="a: b"', "data='${inner.title}/y'", "inner.title=x"])
    assert (cfg.label, cfg.data) == ("a: b", "x/y")
    assert load(Example, config, ["label=x", "label=null"]).label is None
    assert load(Example, config, ["label='null'"]).label == "null"
    for text in (r"${x \over 2}$", "${data}", r"\${x}", r"\\${"):
        assert load(Example, config, [f"problem={text}"]).problem == text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (["names=[a]", "names.3=b"], "key 'names[3]'"),
        (["names=[a]", "names.x=b"], "key 'names.x' is not there"),
        (["inner.dept=1"], "unknown key 'inner.dept'; did you mean 'depth'?"),
        (["learning_rate=abc"], "key 'learning_rate'"),
        (
            ["optimizer.lrr=1"],
            "optimizer: torch.optim.AdamW takes no argument 'lrr'; did you mean 'lr'?",
        ),
        (["optimizer._component_=torch.optim.Adamw"], "did you mean 'AdamW'?"),
        (["optimizer._component_=nowhere.X"], "no module 'nowhere'"),
        (["optimizer._component_=X"], "not a dotted path"),
        (["data=${nothing}"], "key 'data'"),
        ([r"data=${x \over 2}"], r"key 'data': cannot read what follows ${; write \${"),
        (["data=null"], "key 'data'"),
        (["names=[a"], "not valid YAML; a text with such signs needs quotes"),
        (["optimizer._component_=..x"], "not a dotted path"),
        (["optimizer._component_=torch.nn"], "is not a function or class with named arguments"),
        (["optimizer._component_=torch.pi"], "is not a function or class with named arguments"),
        (["names=u"], "key 'names' is a list; write names=[u]"),
        (
            ["inner=3"],
            "key 'inner' has keys of its own, it cannot be 3; write inner.<key>=...; valid",
        ),
        (["paths=x"], "key 'paths' has keys of its own, it cannot be 'x'; write paths.<key>=..."),
        (["inners=[{depht: 1}]"], "unknown key 'depht'; did you mean 'depth'?"),
        (
            ["inners=[{}]", "inners.0.depht=1"],
            "unknown key 'inners[0].depht'; did you mean 'depth'?",
        ),
        (["inners=[3]"], "key 'inners.0' has keys of its own"),
        (["learning_rate"], "not of the form key=value"),
        (["--lr=1"], "not of the form key=value"),
    ],
)
def test_a_mistake_is_named_in_one_line(config, overrides, message):
    with pytest.raises(UserError) as e:
        load(Example, config, overrides)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_missing_required_value_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1")
    with pytest.raises(UserError, match="required key 'data'|Missing mandatory value: data"):
        load(Example, tmp_path / "c.yaml")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(Example, tmp_path / "no.yaml")
    for text, message in (
        (b"a: [1", "not valid YAML"),
        (b"3", "must hold key: value pairs"),
        (b"hello", "must hold key: value pairs"),
        (b"a: caf\xe9", "is not UTF-8 text"),
        (b"data: ${x \\over}", "cannot read what follows"),
        (b"names: u", "key 'names' is a list; write names: \\[u\\]"),
    ):
        (tmp_path / "bad.yaml").write_bytes(text)
        with pytest.raises(UserError, match=f"bad.yaml.*{message}"):
            load(Example, tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (
            "mine_a",
            "from json import nothing",
            "mine_a cannot be imported: ImportError: cannot import name",
        ),
        (
            "mine_b",
            "def f(:",
            "mine_b cannot be imported: SyntaxError: invalid syntax (mine_b.py, line 1)",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    config, tmp_path, monkeypatch, name, source, message
):
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as e:
        load(Example, config, [f"optimizer._component_={name}.f"])
    assert message in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("lr", ["abc", None])
def test_a_value_of_a_wrong_type_is_the_components(lr):
    import torch

    node = {"_component_": "torch.optim.AdamW", "lr": lr}
    with pytest.raises(
        UserError, match=r"optimizer: torch.optim.AdamW: TypeError: '<=' .* \(in .*py, line \d+\)"
    ) as e:
        instantiate(node, "optimizer", [torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(e.value.__cause__, TypeError)


def test_instantiate_names_a_missing_argument():
    with pytest.raises(
        UserError, match="optimizer: torch.optim.AdamW: missing a required argument"
    ):
        instantiate({"_component_": "torch.optim.AdamW"}, "optimizer")
    with pytest.raises(UserError, match="must name what to build"):
        instantiate({}, "optimizer")


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device", "/x"), OSError("40320 requested and 33776 written")],
)
def test_a_full_disk_is_one_line(config, monkeypatch, capsys, error):
    @recipe_main
    def main(cfg: Example) -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["recipe", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: the disk is full (") and "it continues" in line


def test_other_errors_of_the_system_propagate(config, monkeypatch):
    @recipe_main
    def main(cfg: Example) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/x")

    monkeypatch.setattr("sys.argv", ["recipe", "--config", str(config)])
    with pytest.raises(FileNotFoundError):
        main()

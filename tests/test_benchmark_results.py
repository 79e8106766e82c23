"""Goals of the benchmark, its files of machines, and what is run by default; nothing is timed."""

import dataclasses
import json

import pytest

from vit_jax.benchmark import accelerator, apart, goals, results, running, suites
from vit_jax.benchmark.goals import PEAK, PRODUCT, Goal

VIT = "inference: ViT-B_16, 224 x 224, batch 1"
READING = "input: 200 JPEGs of 500 x 375 on one core"
XEON = "2 cores of Intel(R) Xeon(R) Processor (family 6, model 207)"
ON_CPU = running.Settings(
    model=None, batch_size=None, image_size=None, dtype=None, seconds=2.0, alone=False,
    compilation_cache="", on_cpu=True,
)  # fmt: skip


def rows_of(**medians):
    """Rows of a race, ours first, from seconds by who."""
    ours = next(iter(medians.values()))
    names = {"plain_flax": "plain flax", "timm_compiled": "timm compiled",
             "plain_tf_data": "plain tf.data"}  # fmt: skip
    return [{"contender": names.get(who, who), "median_s": s, "ratio": s / ours, "mfu": None}
            for who, s in medians.items()]  # fmt: skip


def found(day="2026-01-02", torch="2.13", **medians):
    return {"date": day, "versions": {"torch": torch}, "rows": rows_of(**medians)}


def states(of_case, *cases_goals):
    judged = goals.judge({"a": cases_goals}, {} if of_case is None else {"a": of_case})
    return [(one["goal"], one["over"], one["found"], one["state"]) for one in judged]


def test_goals_are_over_the_best_of_those_that_ran():
    wanted = (Goal(2, 3.0, ("slow", "absent")), Goal(1, 3.0, ("slow", "fast")))
    assert states(found(ours=1, slow=4, fast=2), *wanted) == [
        (1, "fast", 2, "missed"), (2, "slow", 4, "met"),
    ]  # fmt: skip
    alone = [(1, "slow or fast", None), (2, "slow or absent", None)]
    assert states(found(ours=1), *wanted) == [(*one, "not comparable") for one in alone]
    assert states({"error": "no memory"}, *wanted) == [(*one, "failed") for one in alone]
    assert states(None, *wanted) == [(*one, "not measured") for one in alone]


def test_who_makes_something_else_is_no_rival():
    rows = rows_of(ours=2, fast=1, slow=3)
    rows[1]["deviation"], rows[2]["deviation"] = 1.5, 0.5
    wanted = Goal(1, 1.0, ("fast", "slow"))
    assert states({"rows": rows}, wanted) == [(1, "slow", 1.5, "met")]


def test_goals_over_the_peak_are_for_the_mfu():
    wanted = (Goal(8, 0.5, (PEAK,)), Goal(9, 0.4, (PEAK,)))
    rows = rows_of(ours=1)
    rows[0]["mfu"] = 0.45
    judged = [(found, state) for _, _, found, state in states({"rows": rows}, *wanted)]
    assert judged == [(0.45, "missed"), (0.45, "met")]
    assert [state for *_, state in states(found(ours=1), *wanted)] == ["not comparable"] * 2


def test_the_ratio_of_the_products_stands_beside_what_pytorch_computes():
    cases = {PRODUCT: found(ours=1, PyTorch=2), "a": found(ours=1, timm=3, plain_flax=3)}
    wanted = {"a": (Goal(1, 1.0, ("timm",)), Goal(2, 4.0, ("plain flax",), "as they are one"))}
    by_timm, by_flax = goals.judge(wanted, cases)
    assert (by_timm["product"], by_flax["product"]) == (2, None)
    text = goals.format_goals([by_timm, by_flax])
    assert "| 1 | a | timm | 1.00 | 3.00 | met | 2026-01-02 | 2.00 | 1.50 |" in text
    assert "| 2 | a | plain flax | 4.00 | 3.00 | missed | 2026-01-02 |  |  |" in text
    assert "- goal 2: as they are one" in text
    del cases[PRODUCT]
    assert [one["product"] for one in goals.judge(wanted, cases)] == [None, None]


def test_goals_are_of_cases_that_there_are():
    """A misspelled case would never be measured."""
    names = [f"{suite}: {case.name}" for suite in (*suites.OF_MODELS, *suites.OTHERS)
             for case in ON_CPU.cases_of(suite)]  # fmt: skip
    assert set(goals.ON_CPU) <= set(names)
    assert set(suites.SHORT) - {PRODUCT} <= set(goals.ON_CPU)
    assert set(goals.ON_ACCELERATOR) <= {spec.name for spec in accelerator.SPECS}


@pytest.fixture
def started(monkeypatch):
    """Cases take no time, and one fails; these are the arguments with which they were started."""
    calls = []

    def run_apart(args):
        name = json.loads(args[-1].partition("=")[2])
        calls.append([*args[:-1], name])
        if "SwinIR" in name:
            raise apart.Failed("no memory", is_too_large=True)
        if name in PRODUCT:
            return {"machine": XEON, **found(ours=1, PyTorch=2)}
        return {"machine": XEON, **found(ours=1, timm=1.5)}

    monkeypatch.setattr(running, "run_apart", run_apart)
    monkeypatch.setattr(results, "machine", lambda: XEON)
    return calls


def test_by_default_a_case_of_each_kind_runs_in_a_process_of_its_own(started, tmp_path):
    record, reported = ON_CPU.record(f"{tmp_path}/machines/"), []
    ran = running.run([], ON_CPU, record, lambda name, rows: reported.append(name))
    assert set(ran) == set(suites.SHORT)
    assert reported == [f"{suite}: {name}" for suite, *_, name in started]
    assert reported[0] == PRODUCT
    assert started[0][1:-1] == ["--seconds=2.0", "--alone=False", "--compilation_cache="]
    (path,) = (tmp_path / "machines").iterdir()
    assert path.name == "2-cores-of-intel-r-xeon-r-processor-family-6-model-207.json"
    stored = json.loads(path.read_text())
    assert stored["machine"] == XEON
    assert list(stored["cases"]) == reported
    judged = goals.judge(ON_CPU.goals([], ran), stored["cases"])
    by_case = {one["case"]: one for one in judged}
    assert set(by_case) == set(goals.ON_CPU)
    assert (by_case[VIT]["state"], by_case[VIT]["product"]) == ("met", 2)
    assert by_case["restore: SwinIR-classical-x2, 128 x 128, batch 1"]["state"] == "failed"


def test_what_is_named_has_all_of_its_cases_and_goals(started):
    def cases_of(settings, *names):
        return list(running.run(names, settings, None, lambda *_: None))

    names = cases_of(ON_CPU, "restore", "input")
    assert names[0] == PRODUCT
    assert names[1:] == [*ON_CPU.goals(["restore"], {}), READING]
    alone = dataclasses.replace(ON_CPU, model="ViT-Ti_16", batch_size=2, image_size=32, alone=True)
    assert cases_of(alone) == [f"{suite}: ViT-Ti_16, 32 x 32, batch 2"
                               for suite in ("inference", "train")]  # fmt: skip
    assert alone.goals([], {}) == {}
    assert "--model=ViT-Ti_16" in started[-1]


def test_figures_of_a_case_replace_those_of_before(tmp_path):
    path = tmp_path / "a.json"
    settings = {"dtype": "float32", "alone": False}
    for name, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        found_now = {"machine": XEON, **found(ours=seconds)}
        results.Record(path, settings).put(name, found_now)
    cases = json.loads(path.read_text())["cases"]
    assert {name: of["rows"][0]["median_s"] for name, of in cases.items()} == {"a": 3.0, "b": 2.0}
    with pytest.raises(
        ValueError, match=r"holds figures of 2 cores of Intel.*, and this is an EPY"
    ):
        results.Record(path, settings).put("a", {"machine": "an EPYC", "rows": []})
    with pytest.raises(ValueError, match=r"this run is of .*bfloat16.*: name another --json"):
        results.Record(path, settings | {"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        (
            "processor : 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n",
            r"\d+ cores of AMD EPYC \(family 25, model 17\)",
        ),
        ("Hardware : an ARM of which less is said\n", r"\d+ cores of \S+"),
    ],
)
def test_the_machine_is_the_processor(text, machine, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(results, "_CPU_INFO", path)
    assert results.re.fullmatch(machine, results.machine())


def test_the_table_of_a_file(tmp_path, capsys):
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    cases = {
        PRODUCT: found(ours=0.047, PyTorch=0.021),
        VIT: found("2026-03-04", ours=0.1546, timm=0.1696, timm_compiled=0.1672),
        READING: found(torch="2.14", ours=0.59, plain_tf_data=0.56),
        "restore: a": {"error": "no memory"},
    }
    path.write_text(json.dumps({"machine": XEON, "settings": {}, "cases": cases}))
    other.write_text("[]")
    assert not results.print_files([str(other), str(tmp_path / "none"), str(path)])
    out, err = capsys.readouterr()
    head, models, others, judged = out.strip().split("\n\n")[:4]
    assert head == (
        f"On {XEON}, 2026-01-02 to 2026-03-04; torch 2.13 and 2.14. Medians in ms, the least of a "
        "line in bold:"
    )
    assert models.splitlines() == [
        "| case | ours | flax's modules | PyTorch | compiled |",
        "| --- | --- | --- | --- | --- |",
        f"| {PRODUCT} | 47 |  | **21** |  |",
        f"| {VIT} | **155** |  | 170 | 167 |",
    ]
    assert others.splitlines()[2] == f"| {READING} | 590 | **560** plain tf.data |"
    assert f"| 1 | {VIT} | timm compiled | 1.10 | 1.08 | missed | 2026-03-04 | 0.45 |" in judged
    assert "b.json holds no figures of the benchmark: name files that --json wrote" in err
    assert "No such file" in err

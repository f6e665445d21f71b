"""What `benchmarks/teacher/__main__.py --json` writes, of figures made up here."""

from __future__ import annotations

from benchmarks.teacher import __main__ as teacher
from benchmarks.teacher.load import LoadResult


def test_the_file_holds_the_ratios_and_their_conditions() -> None:
    """Two rounds: 600 over 60 and 80 tokens/s are 10 and 7.5, their median 8.75; 600 over 500 and
    800 are 1.2 and 0.75.
    """
    load = LoadResult(seconds=1.0, tokens=600, first=[0.1, 0.2], between=[0.01, 0.02])
    engine = {
        "served": {count: [load, load] for count in teacher.CONCURRENT},
        "over_generate_32": [10.0, 7.5],
        "over_inprocess_8": [1.2, 0.75],
        "loop": 70.0,
        "prefills_for_5": 1.0,
    }
    slower = {**engine, "over_generate_32": [3.0, 3.0], "prefills_for_5": 9.0}
    upstream = {"upstream_over_direct": [0.97, 0.99], "direct": 9_900.0, "added_first": 0.02}
    found = teacher.summarize({"local": engine, "gguf": slower}, upstream, rounds=2, threads=2)
    told = teacher.make_report(found)
    assert set(told) == {"ratios", "conditions"}
    assert told["ratios"] == {
        "over_generate_32": 8.75,
        "over_inprocess_8": 0.975,
        "upstream_over_direct": 0.98,
        "prefills_for_5": 1.0,
    }
    assert told["conditions"]["better_engine"] == "local"
    assert told["conditions"]["prompt_tokens"] == 300
    teacher.print_results(found)

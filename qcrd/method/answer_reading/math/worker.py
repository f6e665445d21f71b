"""The process that has sympy: one LaTeX expression per line in, its canonical spelling out.

It reads and writes JSON lines, so nothing but text crosses the boundary, and whatever an expression
makes of it (an endless simplification, gigabytes of digits) ends with it.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from typing import Any

MAX_BYTES = 4 << 30
"""Address space: sympy and its parser map 1 GiB before the first expression."""
MAX_CPU_SECONDS = 3.0
"""Of its own work, not of the clock: on a busy machine the same expressions are read."""
MAX_RESULT_CHARS = 2000


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig()]
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_SECONDS)  # its signal ends the process
        found = parse(
            f"${json.loads(line)}$",
            extraction_config=config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
            raise_on_error=False,
        )
        canonical = _spell(found[0]) if found else None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(canonical), flush=True)


def _spell(value: Any) -> str | None:
    """One spelling per value of numbers and rational functions; others may have several, so that
    equal ones can be taken for different, and never the reverse."""
    import sympy

    if not isinstance(value, sympy.Expr) or value.has(sympy.Float, sympy.nan, sympy.zoo):
        return None
    try:
        # What `\%` or a unit would be multiplied by stays apart, and so has no spelling.
        if value.has(sympy.UnevaluatedExpr):
            return None
        simple = sympy.expand(sympy.radsimp(sympy.cancel(sympy.together(value.doit()))))
        if simple.free_symbols:
            simple = sympy.expand(sympy.cancel(simple))
        elif simple.is_Rational is False and simple.is_rational:
            simple = sympy.nsimplify(simple, rational=True)
        spelling = str(sympy.sstr(simple, order="lex"))
    # What sympy raises on what it cannot simplify; anything else ends the process, which is one of
    # many and started anew.
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, RecursionError):
        return None
    except sympy.PolynomialError:
        spelling = str(sympy.sstr(sympy.expand(value), order="lex"))
    return spelling if len(spelling) <= MAX_RESULT_CHARS else None


if __name__ == "__main__":
    main()

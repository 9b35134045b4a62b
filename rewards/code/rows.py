"""Code references of other projects, read as ours: verl's, and that of LiveCodeBench.

verl: an object, or its JSON text, with `inputs` and `outputs` and, where a function is called,
`fn_name`; an input is then the list of arguments, or text with the JSON of one argument a line.
LiveCodeBench: a list, or its JSON text, of `{"input", "output", "testtype", "metadata"}`.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

_CHECKER = "floats"
"""How both projects compare outputs: by tokens, numbers by value."""


def as_reference(reference: Any) -> Any:
    """Our form of a reference of those forms; any other value as it is.

    Raises ValueError naming the field that is wrong.
    """
    if isinstance(reference, str):
        return _parsed(reference)
    return _converted(reference)


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            "reference is text that is not JSON; expected an object with 'language' and 'tests', "
            "or verl's with 'inputs' and 'outputs'"
        ) from None
    return _converted(value)


def _converted(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(case, Mapping) for case in value):
        return _livecodebench(value)
    if not isinstance(value, Mapping) or "tests" in value or "inputs" not in value:
        return value
    inputs, outputs = value["inputs"], value.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("reference.inputs and reference.outputs must be lists, one entry a case")
    if len(inputs) != len(outputs):
        raise ValueError(
            f"reference has {len(inputs)} inputs and {len(outputs)} outputs; expected as many"
        )
    language = value.get("language") or "python"
    return _reference(language, value.get("fn_name"), list(zip(inputs, outputs, strict=True)))


def _livecodebench(cases: Sequence[Mapping[str, Any]]) -> Any:
    metadata = cases[0].get("metadata")
    name = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    if any(case.get("testtype") == "functional" for case in cases) and not name:
        raise ValueError("reference[0].metadata.func_name is missing: the function to call")
    return _reference("python", name, [(c.get("input"), c.get("output")) for c in cases])


def _reference(language: Any, name: Any, pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    if name:
        calls = [_call(number, *pair) for number, pair in enumerate(pairs, 1)]
        tests = {"type": "function", "entry": name, "cases": calls}
    else:
        cases = [{"input": _text(given), "output": _text(wanted)} for given, wanted in pairs]
        tests = {"type": "stdio", "cases": cases, "checker": _CHECKER}
    return {"language": language, "tests": tests}


def _call(number: int, given: Any, wanted: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            args = [json.loads(line) for line in given.split("\n") if line.strip()]
            expected = json.loads(wanted) if isinstance(wanted, str) else wanted
        except (ValueError, RecursionError):
            raise ValueError(
                f"reference, case {number}: the input or output is text that is not JSON; expected "
                "the JSON of one argument a line"
            ) from None
        return {"args": args, "expected": expected}
    if not isinstance(given, list):
        raise ValueError(f"reference.inputs, case {number}: must be a list, one entry an argument")
    case = {"args": given, "expected": wanted}
    # Some of these sets wrap each output in a list, and nothing says which do.
    if isinstance(wanted, list) and len(wanted) == 1:
        case["or_expected"] = wanted[0]
    return case


def _text(value: Any) -> Any:
    """stdin and stdout are text, or a list of lines; anything else is refused where it is read."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value

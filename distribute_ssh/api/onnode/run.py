"""Runs on a node: one call of a function. What it returns or raises is saved; an error ends the job with code 1."""

import os
import pickle
import sys
import traceback
from typing import Any

RESULT = os.path.abspath("distribute_save/result.pickle")  # a function may go elsewhere, and stay there


def argument(packed: tuple[bytes | None, str]) -> Any:
    """An argument: as it came with the call, or from a file of its own."""
    data, name = packed
    if data is not None:
        return pickle.loads(data)
    with open(os.path.join("input", name), "rb") as file:
        return pickle.load(file)


def called() -> Any:
    """Call it."""
    with open("input/call.pickle", "rb") as file:
        arguments, keywords = pickle.load(file)
    try:
        with open("input/function.pickle", "rb") as file:
            function = pickle.load(file)
        given = [argument(each) for each in arguments]
        named = {key: argument(each) for key, each in keywords.items()}
    except ImportError as error:
        error.add_note("the node lacks it; a module of your own can be sent along: Executor(..., modules=[THE_MODULE])")
        raise
    return function(*given, **named)


def main() -> int:
    """Call it, and save what came of it."""
    sys.path.insert(0, os.path.abspath("input"))  # cloudpickle, in which functions are written, is there
    import cloudpickle

    code, mine = 0, os.getpid()
    try:
        told = cloudpickle.dumps((True, called(), ""))
    except BaseException as error:  # SystemExit too: whoever waits for the call is to know how it ended
        traceback.print_exc()
        text, code = traceback.format_exc(), 1
        try:
            told = cloudpickle.dumps((False, error.with_traceback(None), text))
            pickle.loads(told)  # some exceptions are written and cannot be read
        except Exception:  # it holds what cannot be pickled: then its words have to do
            told = cloudpickle.dumps((False, None, text))
    if os.getpid() != mine:
        return code  # a child that the function forked came back as well: the call's result is its parent's
    with open(RESULT + ".part", "wb") as file:
        file.write(told)
    os.replace(RESULT + ".part", RESULT)
    return code


if __name__ == "__main__":
    sys.exit(main())

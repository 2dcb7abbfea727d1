"""Checks and how a run ends: the last line counts them."""

import contextlib
import io
import sys
import time
import traceback

passed = failed = 0
context = "start"


def about(what):
    global context
    context = what


def check(what, got, want):
    global passed, failed
    if got == want:
        passed += 1
        print(f"ok  {context}: {what}", flush=True)
        return
    failed += 1
    print(f"not ok  {context}: {what}\n        got   {got!r}\n        want  {want!r}", flush=True)


def holds(what, truth, seen=""):
    check(what, bool(truth) or f"no: {seen}", True)


def poll(what, question, seconds=15):
    """Asks until the answer is true."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return answer


def can_fail():
    """A check whose values differ must be counted as failed."""
    global passed, failed
    before = passed, failed
    with contextlib.redirect_stdout(io.StringIO()):
        check("this", "b", "c")
    told = passed, failed
    passed, failed = before
    check("a check can fail", told, (before[0], before[1] + 1))


def run(scenario):
    """Runs all of it; the process's exit status."""
    global failed
    try:
        can_fail()
        scenario()
    except BaseException:  # the count comes last, whatever ended the run
        traceback.print_exc(file=sys.stdout)
        failed += 1
        print(f"not ok  {context}: the run broke off")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0

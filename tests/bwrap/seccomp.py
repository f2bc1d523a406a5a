"""Runs bubblewrap's test-seccomp.py, with a line of TAP for each of its tests."""
import unittest


class Tap(unittest.TextTestResult):
    def addSuccess(self, test):
        print(f"ok - {test._testMethodName}", flush=True)

    def addSkip(self, test, reason):
        print(f"ok - {test._testMethodName} # SKIP {reason}", flush=True)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        print(f"not ok - {test._testMethodName} # {error[1]}".splitlines()[0], flush=True)

    addError = addFailure


unittest.main(module="test-seccomp", testRunner=unittest.TextTestRunner(resultclass=Tap))

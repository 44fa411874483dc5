"""Sequences of changes and calls, drawn by hypothesis; see machine.py. One in 50 runs again in a fresh process."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

FILE = Path(__file__).with_name("machine.py")
_spec = importlib.util.spec_from_file_location("machine", FILE)
machine = importlib.util.module_from_spec(_spec)
sys.modules["machine"] = machine  # pickle looks for its classes there
_spec.loader.exec_module(machine)
SEEDS = st.integers(0, 999)


class Anything(RuleBasedStateMachine):
    """What a user does to a network, and calls of it."""

    ran: list = []  # of all sequences

    @initialize(kind=st.sampled_from(machine.KINDS), seed=SEEDS)
    def start(self, kind, seed):
        self.kind, self.seed, self.runner = kind, seed, machine.Runner(kind, seed)

    @precondition(lambda self: hasattr(self, "runner"))
    @rule(name=st.sampled_from(sorted(machine.CHANGES)), seed=SEEDS)
    def change(self, name, seed):
        self.runner.do(name, seed)

    @precondition(lambda self: hasattr(self, "runner"))
    @rule(name=st.sampled_from(sorted(machine.CALLS)), seed=SEEDS)
    def call(self, name, seed):
        self.runner.do(name, seed)

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.close()
            self.ran.append((self.kind, self.seed, self.runner.log))


def run(examples):
    Anything.ran.clear()
    chosen = settings(
        max_examples=examples, stateful_step_count=12, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    run_state_machine_as_test(Anything, settings=chosen)
    again = Anything.ran[::50]
    text = "\n".join(map(json.dumps, again))
    done = subprocess.run([sys.executable, str(FILE)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" 0 failed"), done.stdout
    return len(Anything.ran), int(last.split()[0])


def test_nothing_that_is_done_between_calls_is_missed():
    ran, compared = run(40)
    assert ran >= 40
    assert compared > 0


@pytest.mark.slow
def test_nothing_that_is_done_between_calls_is_missed_in_more_sequences():
    ran, compared = run(160)
    assert ran >= 160
    assert compared > 0

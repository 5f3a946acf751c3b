"""Runs named steps one after the other and prints `ok NAME` or `not ok NAME: why`."""

import traceback


def steps(*all):
    for step in all:
        try:
            step()
            print(f"ok {step.__name__}", flush=True)
        except Exception as error:
            traceback.print_exc()
            print(f"not ok {step.__name__}: {error}", flush=True)

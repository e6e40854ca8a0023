"""Run `verify` in worker processes that can be killed."""

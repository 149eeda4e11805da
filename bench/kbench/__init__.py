# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of bench/run. Python's standard library only; docs/benchmarking.md says what is measured and how."""

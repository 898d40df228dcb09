"""From the folder of a sweep to tables, tests and figures (`python -m uvit_dia.report`)."""

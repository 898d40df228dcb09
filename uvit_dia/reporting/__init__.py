"""From a sweep's folder to tables, tests and figures; `uvit_dia.report` is the command."""

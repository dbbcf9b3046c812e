#!/bin/sh
# The library exports ms_* and nothing else.
command -v nm > /dev/null || { echo "skipped: no nm"; exit 77; }
others=$(nm -D --defined-only "$1" | awk '{print $NF}' | grep -v '^ms_')
[ -z "$others" ] || { echo "exported beside ms_*:"; echo "$others"; exit 1; }
nm -D --defined-only "$1" | grep -c ' ms_'

// A deterministic engine for tests: every output is a mix of everything that the stage reads.
#pragma once

#include "engines/open.hpp"

namespace ms_infer {

// Stage by stage on the host; and the same results from a runner that has all of a chunk under way when `start` returns.
extern const EngineLibrary stand_in_library, whole_stand_in_library;

// The run-th stage from now on fails, once; 0: none does.
void fail_stand_in_after(int runs);

// Models that were loaded since the program began.
int stand_in_loads();

// Called before each stage runs; nullptr: nobody.
void watch_stand_in(void (*watch)());

}  // namespace ms_infer

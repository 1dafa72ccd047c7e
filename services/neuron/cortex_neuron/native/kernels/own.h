// What a thread of the team has to itself.
#pragma once

#include <vector>

#include "attention.h"
#include "experts.h"

namespace cortex {

struct Own {
    std::vector<float> inputs;          // [kAlone][hidden], normalised
    std::vector<float> totals;          // of the blocks of one row, see add_up
    std::vector<float> tile, second;    // [rows][16], what a panel gives
    std::vector<float> partial;         // of attention
    std::vector<Query> queries;
    std::vector<Partial> partials;
    Groups groups;
    int phase = 0;  // of the step, that it comes to next
};

}  // namespace cortex

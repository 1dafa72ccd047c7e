// Which experts a row is sent to, and the rows that each expert gets: a weight is read once for all of its rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace cortex {

// The `count` experts of the largest scores, and their shares: a softmax over all experts, made to add up to 1 where the
// model says so. Of two that are equal the first. `scores` are overwritten.
inline void choose(float* scores, int experts, int count, bool whole, int32_t* chosen, float* shares) {
    const float most = *std::max_element(scores, scores + experts);
    float total = 0, kept = 0;
    for (int i = 0; i < experts; i++) total += scores[i] = std::exp(scores[i] - most);
    for (int i = 0; i < count; i++) {
        const auto best = static_cast<int32_t>(std::max_element(scores, scores + experts) - scores);
        chosen[i] = best;
        kept += shares[i] = scores[best] / total;
        scores[best] = -1;
    }
    for (int i = 0; whole && i < count; i++) shares[i] /= kept;
}

// An expert and its rows: `first` and the ones after it in Groups::places.
struct Group {
    int expert, first, count;
};

// Places of `chosen` [rows][experts of a row] in the order of their experts; a place divided by the experts of a row is the row.
class Groups {
  public:
    void sort(const int32_t* chosen, int places, int experts) {
        starts_.assign(experts + 1, 0);
        for (int i = 0; i < places; i++) starts_[chosen[i] + 1]++;
        groups.clear();
        largest = 0;
        for (int expert = 0; expert < experts; expert++) {
            const int count = starts_[expert + 1];
            if (count) groups.push_back({expert, starts_[expert], count});
            largest = std::max(largest, count);
            starts_[expert + 1] += starts_[expert];
        }
        this->places.resize(places);
        for (int i = 0; i < places; i++) this->places[starts_[chosen[i]]++] = i;
    }

    std::vector<Group> groups;    // those that have rows
    std::vector<int32_t> places;  // of all groups
    int largest = 0;              // rows of a group

  private:
    std::vector<int32_t> starts_;
};

}  // namespace cortex

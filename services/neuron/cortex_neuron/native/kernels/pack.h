// From rows as files have them to the panels of weights.h.
#pragma once

#include <vector>

#include "weights.h"

namespace cortex {

// What a row is stored as; the numbers of GGML's types.
enum Stored : int32_t { kStoredF32 = 0, kStoredF16 = 1, kStoredQ4_0 = 2, kStoredQ4_1 = 3, kStoredQ8_0 = 8, kStoredBF16 = 30 };

inline size_t stored_block_bytes(int32_t stored) {
    switch (stored) {
        case kStoredF32: return 128;
        case kStoredF16:
        case kStoredBF16: return 64;
        case kStoredQ4_0: return 18;
        case kStoredQ4_1: return 20;
        default: return 34;
    }
}

inline uint16_t times_minus_eight(uint16_t half) {
    const _Float16 value = static_cast<_Float16>(half_to_float(half) * -8.0f);
    uint16_t bits;
    memcpy(&bits, &value, 2);
    return bits;
}

// A block of 32 columns of one row into lane `lane` of a panel.
inline void pack_block(int32_t stored, const uint8_t* from, int lane, uint8_t* scales, uint8_t* values) {
    auto* halves = reinterpret_cast<uint16_t*>(scales);
    auto* words = reinterpret_cast<uint32_t*>(values);
    switch (stored) {
        case kStoredF32:
            for (int column = 0; column < kBlock; column++) memcpy(words + column * kLanes + lane, from + 4 * column, 4);
            return;
        case kStoredF16:
        case kStoredBF16:
            for (int pair = 0; pair < kBlock / 2; pair++) memcpy(words + pair * kLanes + lane, from + 4 * pair, 4);
            return;
        case kStoredQ8_0:
            memcpy(halves + lane, from, 2);
            for (int four = 0; four < kBlock / 4; four++) memcpy(words + four * kLanes + lane, from + 2 + 4 * four, 4);
            return;
        default: {
            memcpy(halves + lane, from, 2);
            if (stored == kStoredQ4_1)
                memcpy(halves + kLanes + lane, from + 2, 2);
            else
                halves[kLanes + lane] = times_minus_eight(halves[lane]);
            // Low nibbles are columns 0 to 15, high ones 16 to 31.
            const uint8_t* nibbles = from + (stored == kStoredQ4_1 ? 4 : 2);
            for (int eight = 0; eight < 4; eight++) {
                uint32_t word = 0;
                const int shift = eight / 2 * 4;
                const uint8_t* at = nibbles + eight % 2 * 8;
                for (int i = 0; i < 4; i++) {
                    word |= static_cast<uint32_t>(at[i] >> shift & 15) << (8 * i);
                    word |= static_cast<uint32_t>(at[i + 4] >> shift & 15) << (8 * i + 4);
                }
                words[eight * kLanes + lane] = word;
            }
        }
    }
}

// Panels [first, last) of a matrix whose row i is the order[i]-th of the file's; `order` null: as they are.
inline void pack_panels(int32_t stored, const uint8_t* from, const int32_t* order, Weight to, int first, int last) {
    const Kind kind = Kind(to.kind);
    const size_t block_size = block_bytes(kind);
    const size_t row_bytes = stored_block_bytes(stored) * to.blocks();
    for (int panel = first; panel < last; panel++) {
        auto* data = const_cast<uint8_t*>(to.panel(panel));
        memset(data, 0, to.panel_size());
        for (int lane = 0; lane < kLanes && panel * kLanes + lane < to.rows; lane++) {
            const int row = panel * kLanes + lane;
            const uint8_t* source = from + row_bytes * (order ? order[row] : row);
            for (int block = 0; block < to.blocks(); block++)
                pack_block(stored, source + stored_block_bytes(stored) * block, lane, data + block_size * block,
                           data + block_size * block + scale_bytes(kind));
        }
    }
}

}  // namespace cortex

// From rows as files have them to the panels of weights.h.
#pragma once

#include <vector>

#include "weights.h"

namespace cortex {

// What a row is stored as; the numbers of GGML's types.
enum Stored : int32_t { kStoredF32 = 0, kStoredF16 = 1, kStoredQ4_0 = 2, kStoredQ4_1 = 3, kStoredQ8_0 = 8,
                        kStoredQ4_K = 12, kStoredQ5_K = 13, kStoredQ6_K = 14, kStoredBF16 = 30 };

inline bool is_super(int32_t stored) { return stored >= kStoredQ4_K && stored <= kStoredQ6_K; }

// Columns of a block as stored.
inline int stored_columns(int32_t stored) { return is_super(stored) ? 256 : kBlock; }

inline size_t stored_block_bytes(int32_t stored) {
    switch (stored) {
        case kStoredQ4_K: return 144;
        case kStoredQ5_K: return 176;
        case kStoredQ6_K: return 210;
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

inline void pack_bytes(const int8_t* from, int lane, uint32_t* words) {
    for (int four = 0; four < kBlock / 4; four++) memcpy(words + four * kLanes + lane, from + 4 * four, 4);
}

inline void pack_nibbles(const uint8_t* from, int lane, uint32_t* words) {
    for (int eight = 0; eight < kBlock / 8; eight++) {
        uint32_t word = 0;
        for (int i = 0; i < 4; i++) word |= uint32_t(from[8 * eight + i]) << (8 * i) | uint32_t(from[8 * eight + 4 + i]) << (8 * i + 4);
        words[eight * kLanes + lane] = word;
    }
}

inline float read_half(const uint8_t* from) {
    uint16_t half;
    memcpy(&half, from, 2);
    return half_to_float(half);
}

// The 6-bit scale and minimum of part `part` of a Q4_K or Q5_K block.
inline void six_bits(const uint8_t* packed, int part, int* scale, int* minimum) {
    if (part < 4) {
        *scale = packed[part] & 63, *minimum = packed[part + 4] & 63;
    } else {
        *scale = (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4;
        *minimum = (packed[part + 4] >> 4) | (packed[part] >> 6) << 4;
    }
}

// 32 columns, the part-th of eight, of a block of 256 of one row.
inline void pack_super(int32_t stored, const uint8_t* from, int part, int lane, float* scales, uint32_t* words) {
    uint8_t nibbles[kBlock];
    int8_t bytes[kBlock];
    if (stored == kStoredQ6_K) {
        const uint8_t *low = from + part / 4 * 64, *high = from + 128 + part / 4 * 32;
        const auto* each = reinterpret_cast<const int8_t*>(from + 192) + part * 2;
        const float scale = read_half(from + 208);
        const int quarter = part % 4;
        for (int i = 0; i < kBlock; i++) {
            const int four = low[quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
            bytes[i] = static_cast<int8_t>((four | (high[i] >> (2 * quarter) & 3) << 4) - 32);
        }
        scales[lane] = scale * each[0], scales[kLanes + lane] = scale * each[1], scales[2 * kLanes + lane] = 0;
        return pack_bytes(bytes, lane, words);
    }
    int scale, minimum;
    six_bits(from + 4, part, &scale, &minimum);
    const float wide = read_half(from) * scale, low = -read_half(from + 2) * minimum;
    const uint8_t* packed = from + (stored == kStoredQ4_K ? 16 : 48) + part / 2 * 32;
    for (int i = 0; i < kBlock; i++) nibbles[i] = packed[i] >> (part % 2 * 4) & 15;
    scales[lane] = wide, scales[kLanes + lane] = low;
    if (stored == kStoredQ4_K) return pack_nibbles(nibbles, lane, words);
    scales[kLanes + lane] = wide, scales[2 * kLanes + lane] = low;
    for (int i = 0; i < kBlock; i++) bytes[i] = static_cast<int8_t>(nibbles[i] | (from[16 + i] >> part & 1) << 4);
    pack_bytes(bytes, lane, words);
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
            return pack_bytes(reinterpret_cast<const int8_t*>(from) + 2, lane, words);
        default: {
            memcpy(halves + lane, from, 2);
            if (stored == kStoredQ4_1)
                memcpy(halves + kLanes + lane, from + 2, 2);
            else
                halves[kLanes + lane] = times_minus_eight(halves[lane]);
            // Low nibbles are columns 0 to 15, high ones 16 to 31.
            const uint8_t* packed = from + (stored == kStoredQ4_1 ? 4 : 2);
            uint8_t nibbles[kBlock];
            for (int i = 0; i < kBlock; i++) nibbles[i] = packed[i % 16] >> (i / 16 * 4) & 15;
            pack_nibbles(nibbles, lane, words);
        }
    }
}

// Panels [first, last) of a matrix whose row i is the order[i]-th of the file's; `order` null: as they are.
inline void pack_panels(int32_t stored, const uint8_t* from, const int32_t* order, Weight to, int first, int last) {
    const Kind kind = Kind(to.kind);
    const size_t block_size = block_bytes(kind);
    const int columns = stored_columns(stored), parts = columns / kBlock;
    const size_t stored_size = stored_block_bytes(stored), row_bytes = stored_size * (to.columns / columns);
    for (int panel = first; panel < last; panel++) {
        auto* data = const_cast<uint8_t*>(to.panel(panel));
        memset(data, 0, to.panel_size());
        for (int lane = 0; lane < kLanes && panel * kLanes + lane < to.rows; lane++) {
            const int row = panel * kLanes + lane;
            const uint8_t* source = from + row_bytes * (order ? order[row] : row);
            for (int block = 0; block < to.blocks(); block++) {
                uint8_t* place = data + block_size * block;
                const uint8_t* at = source + stored_size * (block / parts);
                if (is_super(stored))
                    pack_super(stored, at, block % parts, lane, reinterpret_cast<float*>(place),
                               reinterpret_cast<uint32_t*>(place + scale_bytes(kind)));
                else
                    pack_block(stored, at, lane, place, place + scale_bytes(kind));
            }
        }
    }
}

}  // namespace cortex

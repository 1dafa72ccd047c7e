// Products of some rows of activations with a panel of weights. Exact float32 arithmetic whatever the weights are kept in.
#pragma once

#include <algorithm>
#include <type_traits>

#include "weights.h"

namespace cortex {

// Rows of activations that share one pass over the weights: as many sums as the registers hold beside what unpacking takes.
constexpr int rows_at_once(Kind kind) {
    if (kWidth == 8) return kind == kF32 ? 6 : 3;
    return kWidth == 16 ? 12 : 6;
}
// From here on a panel is unpacked to float32 first, a strip of columns at a time that stays in the first-level cache.
constexpr int kUnpackFrom = 2 * rows_at_once(kQ4) + 1;
constexpr int kStripBlocks = 8;

// out [rows][16] += inputs [rows][stride] x blocks [first, last) of the panel
template <Kind kind, int rows>
inline void multiply(const uint8_t* panel, int first, int last, const float* inputs, size_t stride, float* out) {
    constexpr int chains = rows <= 3 && kRegisters == 1 ? 2 : 1;  // a sum waits for the one before: enough must be under way
    Lanes sums[chains][rows];
    for (int row = 0; row < rows; row++) {
        sums[0][row] = Lanes::load(out + row * kLanes);
        for (int chain = 1; chain < chains; chain++) sums[chain][row] = Lanes::fill(0);
    }
    for (int block = first; block < last; block++) {
        const Block<kind> part(panel + block_bytes(kind) * block);
        const float* at = inputs + (block - first) * kBlock;
#pragma GCC unroll 32
        for (int column = 0; column < kBlock; column++) {
            const Lanes weights = part.value(column);
            for (int row = 0; row < rows; row++) sums[column % chains][row].add(weights, at[row * stride + column]);
        }
    }
    for (int row = 0; row < rows; row++) {
        for (int chain = 1; chain < chains; chain++) sums[0][row] = sums[0][row] + sums[chain][row];
        sums[0][row].store(out + row * kLanes);
    }
}

// The same for one row: scales are applied once a block, `totals` has the sum of the inputs of each block.
template <Kind kind>
inline void multiply_one(const uint8_t* panel, int blocks, const float* inputs, const float* totals, float* out) {
    Lanes sum = Lanes::load(out);
    for (int block = 0; block < blocks; block++) {
        const Block<kind> part(panel + block_bytes(kind) * block);
        const float* at = inputs + block * kBlock;
        Lanes even = Lanes::fill(0), odd = Lanes::fill(0);
#pragma GCC unroll 32
        for (int column = 0; column < kBlock; column += 2) {
            even.add(part.raw(column), at[column]);
            odd.add(part.raw(column + 1), at[column + 1]);
        }
        if constexpr (kind == kQ8 || kind == kQ4) {
            sum.add(even + odd, part.scale);
            if constexpr (kind == kQ4) sum.add(part.minimum, totals[block]);
        } else {
            sum = sum + even + odd;
        }
    }
    sum.store(out);
}

template <Kind kind, int most = rows_at_once(kind)>
inline void multiply_some(const uint8_t* panel, int first, int last, const float* inputs, size_t stride, int rows,
                          float* out) {
    if (rows == most)
        multiply<kind, most>(panel, first, last, inputs, stride, out);
    else if constexpr (most > 1)
        multiply_some<kind, most - 1>(panel, first, last, inputs, stride, rows, out);
}

template <Kind kind>
inline void multiply_all(const uint8_t* panel, int first, int last, const float* inputs, size_t stride, int rows,
                         float* out) {
    for (int row = 0; row < rows;) {  // in nearly equal parts
        constexpr int most = rows_at_once(kind);
        const int parts = (rows - row + most - 1) / most, now = (rows - row + parts - 1) / parts;
        multiply_some<kind>(panel, first, last, inputs + row * stride, stride, now, out + row * kLanes);
        row += now;
    }
}

template <Kind kind> inline void unpack(const uint8_t* panel, int first, int last, float* to) {
    for (int block = first; block < last; block++) {
        const Block<kind> part(panel + block_bytes(kind) * block);
        for (int column = 0; column < kBlock; column++, to += kLanes) part.value(column).store(to);
    }
}

// Sums of each block of 32 inputs.
inline void add_up(const float* inputs, int columns, float* totals) {
    for (int block = 0; block < columns / kBlock; block++)
        totals[block] = sum(Lanes::load(inputs + block * kBlock) + Lanes::load(inputs + block * kBlock + kLanes));
}

// out [rows][16] = inputs [rows][stride] x panel, plus the bias. `totals`: add_up of the only row, read where rows is 1.
inline void multiply_panel(const Weight& weight, int panel, const float* inputs, size_t stride, int rows, const float* totals,
                           float* out) {
    const uint8_t* data = weight.panel(panel);
    const int blocks = weight.blocks();
    Lanes start = Lanes::fill(0);
    if (weight.bias) {
        float bias[kLanes] = {};
        memcpy(bias, weight.bias + panel * kLanes, 4 * std::min(kLanes, weight.rows - panel * kLanes));
        start = Lanes::load(bias);
    }
    for (int row = 0; row < rows; row++) start.store(out + row * kLanes);
    for_kind(weight.kind, [&](auto kind) {
        if (rows == 1) {
            multiply_one<kind>(data, blocks, inputs, totals, out);
        } else if (rows < kUnpackFrom || kind == kF32) {
            multiply_all<kind>(data, 0, blocks, inputs, stride, rows, out);
        } else {
            alignas(64) float strip[kStripBlocks * kBlock * kLanes];
            for (int first = 0; first < blocks; first += kStripBlocks) {
                const int last = std::min(blocks, first + kStripBlocks);
                unpack<kind>(data, first, last, strip);
                multiply_all<kF32>(reinterpret_cast<const uint8_t*>(strip), 0, last - first, inputs + first * kBlock, stride, rows,
                                   out);
            }
        }
    });
}

}  // namespace cortex

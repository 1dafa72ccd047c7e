// What is done to a row of activations by itself, between the products.
#pragma once

#include <algorithm>

#include "lanes.h"

namespace cortex {

inline void normalise(const float* from, const float* weight, float epsilon, int size, float* to) {
    Lanes squares = Lanes::fill(0);
    for (int i = 0; i < size; i += kLanes) squares.add(Lanes::load(from + i), Lanes::load(from + i));
    const float factor = 1.0f / std::sqrt(sum(squares) / size + epsilon);
    for (int i = 0; i < size; i += kLanes) (Lanes::load(from + i) * factor * Lanes::load(weight + i)).store(to + i);
}

// Halves are rotated against each other, as transformers does.
inline void rotate(float* vector, const float* cosines, const float* sines, int half) {
    for (int i = 0; i < half; i++) {
        const float a = vector[i], b = vector[i + half];
        vector[i] = a * cosines[i] - b * sines[i];
        vector[i + half] = b * cosines[i] + a * sines[i];
    }
}

// gate * sigmoid(gate) * up, by the exponential of what is not positive
inline Lanes silu(const Lanes& gate, const Lanes& up, const Lanes& one) {
    Lanes out;
    for (int i = 0; i < kRegisters; i++) {
        const Ints negative = gate.r[i] < 0.0f;
        const Floats down = reinterpret_cast<Floats>(reinterpret_cast<Ints>(gate.r[i]) | INT32_MIN);  // -|gate|
        const Floats power = exponential(down);
        const Floats numerator = reinterpret_cast<Floats>((reinterpret_cast<Ints>(power) & negative) |
                                                          (reinterpret_cast<Ints>(one.r[i]) & ~negative));
        out.r[i] = gate.r[i] * numerator / (power + 1.0f) * up.r[i];
    }
    return out;
}

// A tile [rows][16] into columns of a matrix.
inline void put(const float* tile, int rows, int panel, int columns, float* to, size_t stride) {
    const int count = std::min(kLanes, columns - panel * kLanes);
    for (int row = 0; row < rows; row++) memcpy(to + row * stride + panel * kLanes, tile + row * kLanes, 4 * count);
}

// to [rows][stride] += a tile [rows][16], in the columns of the panel
inline void add(const float* tile, int rows, int panel, float* to, size_t stride) {
    for (int row = 0; row < rows; row++) {
        float* at = to + row * stride + panel * kLanes;
        (Lanes::load(at) + Lanes::load(tile + row * kLanes)).store(at);
    }
}

}  // namespace cortex

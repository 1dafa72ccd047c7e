// What is done to a row of activations by itself, between the products.
#pragma once

#include <algorithm>

#include "lanes.h"

namespace cortex {

inline float norm_factor(const float* from, float epsilon, int size) {
    Lanes squares = Lanes::fill(0);
    for (int i = 0; i < size; i += kLanes) squares.add(Lanes::load(from + i), Lanes::load(from + i));
    return 1.0f / std::sqrt(sum(squares) / size + epsilon);
}

inline void normalise(const float* from, const float* weight, float epsilon, int size, float* to) {
    const float factor = norm_factor(from, epsilon, size);
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

// gate * sigmoid(at) * up, by the exponential of what is not positive
inline Floats gated(Floats gate, Floats at, Floats up) {
    const Ints negative = at < 0.0f;
    const Floats down = reinterpret_cast<Floats>(reinterpret_cast<Ints>(at) | INT32_MIN);  // -|at|
    const Floats power = exponential(down), one = Floats{} + 1.0f;
    const Floats numerator = reinterpret_cast<Floats>((reinterpret_cast<Ints>(power) & negative) |
                                                      (reinterpret_cast<Ints>(one) & ~negative));
    return gate * numerator / (power + 1.0f) * up;
}

inline Lanes silu(const Lanes& gate, const Lanes& up) {
    Lanes out;
    for (int i = 0; i < kRegisters; i++) out.r[i] = gated(gate.r[i], gate.r[i], up.r[i]);
    return out;
}

// The approximation by tanh, (1 + tanh(x)) / 2 = sigmoid(2 x).
inline Lanes gelu(const Lanes& gate, const Lanes& up) {
    Lanes out;
    for (int i = 0; i < kRegisters; i++) {
        const Floats x = gate.r[i];
        out.r[i] = gated(x, x * 1.5957691216057308f * (x * x * 0.044715f + 1.0f), up.r[i]);
    }
    return out;
}

// to += from, normalised
inline void add_normalised(const float* from, const float* weight, float epsilon, int size, float* to) {
    const float factor = norm_factor(from, epsilon, size);
    for (int i = 0; i < size; i += kLanes)
        (Lanes::load(to + i) + Lanes::load(from + i) * factor * Lanes::load(weight + i)).store(to + i);
}

inline void scale(float* row, float factor, int size) {
    for (int i = 0; i < size; i += kLanes) (Lanes::load(row + i) * factor).store(row + i);
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

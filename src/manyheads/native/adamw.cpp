// AdamW (Loshchilov and Hutter 2019) in one pass over weights, gradients and moments:
//
//   p ← p (1 − lr λ)    m ← m + (g − m)(1 − β₁)    v ← β₂ v + (1 − β₂) g²    p ← p − lr/(1 − β₁ᵗ) m / (√v̂ + ε)
//
// and for tables of which a step touches few rows, row by row: a row that had no gradient for some steps is moved
// through all of them at once, each with the numbers of its own step, in registers. Both are one function of the same
// operations in the same order. Nothing may be fused into one rounding here that is two there, so the compiler is
// told not to.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#include "kernel.h"

#include <algorithm>

namespace {

constexpr int64_t BLOCK = 1 << 14;  // numbers of a weight that one thread takes at a time

INLINE floats root(floats v) {
#if WIDE_512
    return (floats)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
    return (floats)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < LANES; i++) v[i] = std::sqrt(v[i]);
    return v;
#endif
}

INLINE bool none(ints v) {
    int32_t any = 0;
    for (int i = 0; i < LANES; i++) any |= v[i];
    return any == 0;
}

// The numbers of one step, as they lie in memory.
constexpr int64_t NUMBERS = 7;
struct Step {
    floats shrink, first, keep, second, rate, correction, eps;

    explicit AT_ONCE Step(const double* at)
        : shrink(all((float)at[0])),      // 1 − lr λ
          first(all((float)at[1])),       // 1 − β₁
          keep(all((float)at[2])),        // β₂
          second(all((float)at[3])),      // 1 − β₂
          rate(all((float)at[4])),        // lr / (1 − β₁ᵗ)
          correction(all((float)at[5])),  // 1 / √(1 − β₂ᵗ)
          eps(all((float)at[6])) {}

    AT_ONCE void move(floats& p, floats& m, floats& v, floats g) const {
        p = p * shrink;
        m = m + (g - m) * first;
        v = v * keep + g * second * g;
        p = p - rate * m / (root(v) * correction + eps);
    }
};

// Of `count` weights the addresses p, g, m, v and how many numbers each has.
struct Weight {
    float* p;
    const float* g;
    float *m, *v;
    int64_t size;
};

// One row of a table; `g` is the gradient of its last step, or null.
struct Row {
    float *p, *m, *v;
    const float* g;

    // P vectors abreast, as each step of one waits for the step before.
    template <int P>
    AT_ONCE void advance(int64_t j, int64_t left, const double* numbers, int64_t steps, floats factor) const {
        floats weight[P], mean[P], square[P], gradient[P];
        ints moved = {};
        for (int k = 0; k < P; k++) {
            const int64_t at = j + k * LANES, n = left - k * LANES;
            weight[k] = read(p + at, n);
            mean[k] = read(m + at, n);
            square[k] = read(v + at, n);
            gradient[k] = g ? read(g + at, n) * factor : floats{};
            moved |= (ints)mean[k] | (ints)square[k];
        }
        const bool still = none(moved) && numbers[6] > 0;  // nothing but decay until there is a gradient
        const int64_t idle = g ? steps - 1 : steps;
        if (still)
            for (int64_t s = 0; s < idle; s++) {
                const floats shrink = all((float)numbers[s * NUMBERS]);
                for (int k = 0; k < P; k++) weight[k] = weight[k] * shrink;
            }
        for (int64_t s = still ? idle : 0; s < steps; s++) {
            const Step step(numbers + s * NUMBERS);
            for (int k = 0; k < P; k++) step.move(weight[k], mean[k], square[k], s < idle ? floats{} : gradient[k]);
        }
        for (int k = 0; k < P; k++) {
            const int64_t at = j + k * LANES, n = left - k * LANES;
            write(p + at, weight[k], n);
            if (still && !g) continue;
            write(m + at, mean[k], n);
            write(v + at, square[k], n);
        }
    }
};

}  // namespace

EXPORT void mh_adamw(const int64_t* weights, int64_t count, const double* numbers, double scale, int64_t threads) {
    const Step step(numbers);
    const floats factor = all((float)scale);
    const Weight* each = (const Weight*)weights;
#pragma omp parallel num_threads((int)threads)
    for (int64_t w = 0; w < count; w++) {
        const Weight weight = each[w];
#pragma omp for schedule(static) nowait
        for (int64_t block = 0; block < (weight.size + BLOCK - 1) / BLOCK; block++)
            for (int64_t j = block * BLOCK; j < std::min(weight.size, (block + 1) * BLOCK); j += LANES) {
                const int64_t n = weight.size - j;
                floats p = read(weight.p + j, n), m = read(weight.m + j, n), v = read(weight.v + j, n);
                step.move(p, m, v, read(weight.g + j, n) * factor);
                write(weight.p + j, p, n);
                write(weight.m + j, m, n);
                write(weight.v + j, v, n);
            }
    }
}

// Rows [count] of a table, each once, from the step that each has `seen` on up to step `now`. The numbers of step s
// begin at numbers[(s − 1 − first) · NUMBERS]. The last step has gradients [count, width] where there are any; the
// others have none, which is a gradient of 0. Without `rows` all of the table.
EXPORT void mh_adamw_rows(float* weight, float* means, float* squares, int64_t* seen, const int64_t* rows,
                          const float* gradients, int64_t count, int64_t width, const double* numbers, int64_t first,
                          int64_t now, double scale, int64_t threads) {
    const floats factor = all((float)scale);
#pragma omp parallel for schedule(dynamic, 16) num_threads((int)threads)
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = rows ? rows[i] : i;
        if (seen[row] >= now) continue;
        const Row one{weight + row * width, means + row * width, squares + row * width,
                      gradients ? gradients + i * width : nullptr};
        const double* begin = numbers + (seen[row] - first) * NUMBERS;
        int64_t j = 0;
        for (; j + 4 * LANES <= width; j += 4 * LANES) one.advance<4>(j, width - j, begin, now - seen[row], factor);
        for (; j < width; j += LANES) one.advance<1>(j, width - j, begin, now - seen[row], factor);
        seen[row] = now;
    }
}

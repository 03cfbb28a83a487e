// What stands between the products of a layer, each in one pass over memory, forward and backward:
//
//   gelu         g = u Φ(u)                         (backward alone: forward torch's own is as fast)
//   add and norm y = γ (s − mean s) / √(var s + ε) + β with s = r + M x     (M: dropout's 0 and 1/(1 − share))
//   embed        y = M LayerNorm(word + position + segment)
//   columns      the sum of each column: the gradient of a bias
//   scatter      the sum of the rows that share a place: the gradient of a table
//
// Rows come in bfloat16 or float32, the arithmetic is float. Nothing is stored for the backward but two numbers a row:
// s is made again from what it was made of. Sums over rows are taken in pieces of fixed size, those in their order, so
// that they are the same on any number of threads.
#include "kernel.h"

#include <algorithm>
#include <cstdlib>

namespace {

#define AT_ONCE_LAMBDA __attribute__((always_inline))

constexpr int64_t PIECE = 32;  // rows that are summed before they meet the others

INLINE words lanes() {
    words v;
    for (int i = 0; i < LANES; i++) v[i] = (uint32_t)i;
    return v;
}

// v in the first n lanes, 0 in the others.
INLINE floats first(floats v, int64_t n) {
    if (n >= LANES) return v;
    words kept = (words)(lanes() < (uint32_t)n);
    return (floats)((words)v & kept);
}

// Dropout's factors of one row, drawn where they are needed: a function of the call's seed, the row and the column.
struct Keep {
    uint32_t one, two, threshold;
    float scale;

    Keep(uint64_t seed, int64_t row, double share) {
        uint64_t x = seed + (uint64_t)(row + 1) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;  // the finaliser of splitmix64 (Steele et al. 2014)
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
        one = (uint32_t)x;
        two = (uint32_t)(x >> 32);
        threshold = (uint32_t)(share * 4294967296.0);
        scale = (float)(1.0 / (1.0 - share));
    }

    AT_ONCE floats at(int64_t column) const {
        words x = (lanes() + (uint32_t)column) * 0x9e3779b9u + one;
        x = (x ^ (x >> 16)) * 0x21f0aaadu;  // a mixer of 32 bits with low bias (Wellons)
        x = ((x ^ two) ^ (x >> 15)) * 0x735a2d97u;
        x ^= x >> 15;
        return (floats)((words)(x >= threshold) & (words)all(scale));
    }
};

// Adds pieces [pieces, width] into total [width], in their order.
void fold(const float* pieces, float* total, int64_t count, int64_t width) {
    for (int64_t j = 0; j < width; j += LANES) {
        floats sum = {};
        for (int64_t i = 0; i < count; i++) sum += read(pieces + i * width + j, width - j);
        write(total + j, sum, width - j);
    }
}

template <class E>
void gelu_backward(const E* x, const E* above, E* below, float* pieces, float* columns, int64_t rows, int64_t width,
                   int threads) {
    const int64_t count = (rows + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < count; piece++) {
        float* sums = pieces + piece * width;
        std::fill(sums, sums + width, 0.f);
        for (int64_t row = piece * PIECE; row < std::min(rows, (piece + 1) * PIECE); row++) {
            for (int64_t j = 0; j < width; j += LANES) {
                const int64_t at = row * width + j, n = width - j;
                floats u = read(x + at, n);
                Normal normal(u);
                floats slope = normal.below + u * normal.bell * 0.39894228f;
                floats g = read(above + at, n) * slope;
                write(below + at, g, n);
                write(sums + j, read(sums + j, n) + g, n);
            }
        }
    }
    fold(pieces, columns, count, width);
}

template <class E>
void sum_columns(const E* x, float* pieces, float* columns, int64_t rows, int64_t width, int threads) {
    const int64_t count = (rows + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < count; piece++) {
        const int64_t from = piece * PIECE, to = std::min(rows, from + PIECE);
        for (int64_t j = 0; j < width; j += LANES) {
            floats sum = {};
            for (int64_t row = from; row < to; row++) sum += read(x + row * width + j, width - j);
            write(pieces + piece * width + j, sum, width - j);
        }
    }
    fold(pieces, columns, count, width);
}

// What a LayerNorm is made of, by rows: `make(row, j, n)` gives the summed numbers of a row from column j on.
template <class Make, class Give>
INLINE void normalise(const Make& make, const Give& give, float* summed, float* stats, int64_t width, float eps) {
    floats total = {};
    for (int64_t j = 0; j < width; j += LANES) {
        floats s = make(j, width - j);
        total += s;  // lanes behind the end are 0
        store(summed + j, s);
    }
    const float mean = sum(total) / (float)width;
    floats squares = {};
    for (int64_t j = 0; j < width; j += LANES) {
        floats d = first(load(summed + j) - mean, width - j);
        squares += d * d;
    }
    const float rstd = 1.f / std::sqrt(sum(squares) / (float)width + eps);
    stats[0] = mean;
    stats[1] = rstd;
    for (int64_t j = 0; j < width; j += LANES) give(j, width - j, (load(summed + j) - mean) * rstd);
}

// The gradient of LayerNorm for its input: rstd (h − mean h − x̂ mean(h x̂)) with h = γ · above.
template <class Make, class Above, class Give>
INLINE void normalise_back(const Make& make, const Above& above, const Give& give, const float* gamma, float* hat,
                           float* scaled, const float* stats, float* of_gamma, float* of_beta, int64_t width) {
    const float mean = stats[0], rstd = stats[1];
    floats total = {}, along = {};
    for (int64_t j = 0; j < width; j += LANES) {
        const int64_t n = width - j;
        floats x = first((make(j, n) - mean) * rstd, n), g = above(j, n);
        floats h = g * read(gamma + j, n);
        total += h;
        along += h * x;
        store(hat + j, x);
        store(scaled + j, h);
        write(of_gamma + j, read(of_gamma + j, n) + g * x, n);
        write(of_beta + j, read(of_beta + j, n) + g, n);
    }
    const float one = sum(total) / (float)width, two = sum(along) / (float)width;
    for (int64_t j = 0; j < width; j += LANES)
        give(j, width - j, (load(scaled + j) - one - load(hat + j) * two) * rstd);
}

int64_t room(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

// Memory of one thread for `count` rows of a width.
struct Scratch {
    float* rows;
    Scratch(int64_t width, int count)
        : rows((float*)std::aligned_alloc(64, (room(width) * count * 4 + 63) / 64 * 64)) {
        if (!rows) std::abort();  // some kilobytes
    }
    ~Scratch() { std::free(rows); }
};

template <class E>
void add_norm(const E* x, const float* residual, const float* gamma, const float* beta, float* exact, bf16* low,
              float* stats, int64_t rows, int64_t width, float eps, double share, uint64_t seed, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Scratch own(width, 1);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const Keep keep(seed, row, share);
            const int64_t at = row * width;
            normalise(
                [&](int64_t j, int64_t n) AT_ONCE_LAMBDA {
                    floats branch = read(x + at + j, n);
                    if (share > 0) branch *= keep.at(j);
                    return read(residual + at + j, n) + branch;
                },
                [&](int64_t j, int64_t n, floats hat) AT_ONCE_LAMBDA {
                    floats y = hat * read(gamma + j, n) + read(beta + j, n);
                    write(exact + at + j, y, n);
                    if (low) write(low + at + j, y, n);
                },
                own.rows, stats + 2 * row, width, eps);
        }
    }
}

template <class E>
void add_norm_backward(const E* x, const float* residual, const float* gamma, const float* stats, const float* above,
                       const bf16* above_low, E* of_x, float* of_residual, float* pieces, float* columns, int64_t rows,
                       int64_t width, double share, uint64_t seed, int threads) {
    const int64_t count = (rows + PIECE - 1) / PIECE;
#pragma omp parallel num_threads(threads)
    {
        Scratch own(width, 2);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < count; piece++) {
            float* sums = pieces + piece * 3 * width;  // γ, β, and the bias of the product that made x
            std::fill(sums, sums + 3 * width, 0.f);
            for (int64_t row = piece * PIECE; row < std::min(rows, (piece + 1) * PIECE); row++) {
                const Keep keep(seed, row, share);
                const int64_t at = row * width;
                normalise_back(
                    [&](int64_t j, int64_t n) AT_ONCE_LAMBDA {
                        floats branch = read(x + at + j, n);
                        if (share > 0) branch *= keep.at(j);
                        return read(residual + at + j, n) + branch;
                    },
                    [&](int64_t j, int64_t n) AT_ONCE_LAMBDA {
                        floats g = above ? read(above + at + j, n) : floats{};
                        return above_low ? g + read(above_low + at + j, n) : g;
                    },
                    [&](int64_t j, int64_t n, floats g) AT_ONCE_LAMBDA {
                        write(of_residual + at + j, g, n);
                        if (share > 0) g *= keep.at(j);
                        write(of_x + at + j, g, n);
                        write(sums + 2 * width + j, read(sums + 2 * width + j, n) + g, n);
                    },
                    gamma, own.rows, own.rows + room(width), stats + 2 * row, sums, sums + width, width);
            }
        }
    }
    fold(pieces, columns, count, 3 * width);
}

// The three tables of the embeddings; `ids` is null where the words themselves stand in the rows of `words`.
struct Tables {
    const float *words, *positions, *segments;
    const int64_t *ids, *places, *kinds;

    AT_ONCE floats at(int64_t row, int64_t width, int64_t j, int64_t n) const {
        return read(words + (ids ? ids[row] : row) * width + j, n) + read(positions + places[row] * width + j, n) +
               read(segments + kinds[row] * width + j, n);
    }
};

}  // namespace

EXPORT void mh_gelu_backward(const void* x, const void* above, void* below, float* pieces, float* columns, int64_t rows,
                             int64_t width, int64_t low, int64_t threads) {
    if (low)
        gelu_backward((const bf16*)x, (const bf16*)above, (bf16*)below, pieces, columns, rows, width, (int)threads);
    else
        gelu_backward((const float*)x, (const float*)above, (float*)below, pieces, columns, rows, width, (int)threads);
}

EXPORT void mh_columns(const void* x, float* pieces, float* columns, int64_t rows, int64_t width, int64_t low,
                       int64_t threads) {
    if (low)
        sum_columns((const bf16*)x, pieces, columns, rows, width, (int)threads);
    else
        sum_columns((const float*)x, pieces, columns, rows, width, (int)threads);
}

EXPORT void mh_add_norm(const void* x, const float* residual, const float* gamma, const float* beta, float* exact,
                        void* low, float* stats, int64_t rows, int64_t width, int64_t x_low, double eps, double share,
                        uint64_t seed, int64_t threads) {
    if (x_low)
        add_norm((const bf16*)x, residual, gamma, beta, exact, (bf16*)low, stats, rows, width, (float)eps, share, seed,
                 (int)threads);
    else
        add_norm((const float*)x, residual, gamma, beta, exact, (bf16*)low, stats, rows, width, (float)eps, share, seed,
                 (int)threads);
}

EXPORT void mh_add_norm_backward(const void* x, const float* residual, const float* gamma, const float* stats,
                                 const float* above, const void* above_low, void* of_x, float* of_residual,
                                 float* pieces, float* columns, int64_t rows, int64_t width, int64_t x_low,
                                 double share, uint64_t seed, int64_t threads) {
    if (x_low)
        add_norm_backward((const bf16*)x, residual, gamma, stats, above, (const bf16*)above_low, (bf16*)of_x,
                          of_residual, pieces, columns, rows, width, share, seed, (int)threads);
    else
        add_norm_backward((const float*)x, residual, gamma, stats, above, (const bf16*)above_low, (float*)of_x,
                          of_residual, pieces, columns, rows, width, share, seed, (int)threads);
}

EXPORT void mh_embed(const float* words, const float* positions, const float* segments, const int64_t* ids,
                     const int64_t* places, const int64_t* kinds, const float* gamma, const float* beta, float* exact,
                     void* low, float* stats, int64_t rows, int64_t width, double eps, double share, uint64_t seed,
                     int64_t threads) {
    const Tables tables{words, positions, segments, ids, places, kinds};
    bf16* out = (bf16*)low;
#pragma omp parallel num_threads((int)threads)
    {
        Scratch own(width, 1);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const Keep keep(seed, row, share);
            normalise([&](int64_t j, int64_t n) AT_ONCE_LAMBDA { return tables.at(row, width, j, n); },
                      [&](int64_t j, int64_t n, floats hat) AT_ONCE_LAMBDA {
                          floats y = hat * read(gamma + j, n) + read(beta + j, n);
                          if (share > 0) y *= keep.at(j);
                          write(exact + row * width + j, y, n);
                          if (out) write(out + row * width + j, y, n);
                      },
                      own.rows, stats + 2 * row, width, (float)eps);
        }
    }
}

EXPORT void mh_embed_backward(const float* words, const float* positions, const float* segments, const int64_t* ids,
                              const int64_t* places, const int64_t* kinds, const float* gamma, const float* stats,
                              const float* above, const void* above_low, float* below, float* pieces, float* columns,
                              int64_t rows, int64_t width, double share, uint64_t seed, int64_t threads) {
    const Tables tables{words, positions, segments, ids, places, kinds};
    const bf16* other = (const bf16*)above_low;
    const int64_t count = (rows + PIECE - 1) / PIECE;
#pragma omp parallel num_threads((int)threads)
    {
        Scratch own(width, 2);
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < count; piece++) {
            float* sums = pieces + piece * 2 * width;
            std::fill(sums, sums + 2 * width, 0.f);
            for (int64_t row = piece * PIECE; row < std::min(rows, (piece + 1) * PIECE); row++) {
                const Keep keep(seed, row, share);
                const int64_t at = row * width;
                normalise_back([&](int64_t j, int64_t n) AT_ONCE_LAMBDA { return tables.at(row, width, j, n); },
                               [&](int64_t j, int64_t n) AT_ONCE_LAMBDA {
                                   floats g = above ? read(above + at + j, n) : floats{};
                                   if (other) g += read(other + at + j, n);
                                   return share > 0 ? g * keep.at(j) : g;
                               },
                               [&](int64_t j, int64_t n, floats g) AT_ONCE_LAMBDA { write(below + at + j, g, n); },
                               gamma, own.rows, own.rows + room(width), stats + 2 * row, sums, sums + width, width);
            }
        }
    }
    fold(pieces, columns, count, 2 * width);
}

// out[places[row]] += x[row], row after row. A thread owns columns, not rows, so that the order is always the same.
EXPORT void mh_scatter(const float* x, const int64_t* places, float* out, int64_t rows, int64_t width,
                       int64_t threads) {
    const int64_t block = 8 * LANES, blocks = (width + block - 1) / block;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t row = 0; row < rows; row++) {
            const float* from = x + row * width;
            float* to = out + places[row] * width;
            for (int64_t j = b * block; j < std::min(width, (b + 1) * block); j += LANES)
                write(to + j, read(to + j, width - j) + read(from + j, width - j), width - j);
        }
}

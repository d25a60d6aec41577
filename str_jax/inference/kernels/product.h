// Convolutions: out[o][p] = bias[o] + sum_k weight[o][k] * in[offset[k] + p].
//
// An offset leads from a position of the first channel's plane to the input of
// a tap: to another channel, row and column. What is computed in the gaps of a
// plane is put back to zero.

#ifndef STR_JAX_PRODUCT_H_
#define STR_JAX_PRODUCT_H_

#include "tensor.h"

namespace str_jax {

constexpr int64_t kMost = 8;              // vectors of a tile
constexpr int64_t kTile = kMost * kLanes;  // positions of the largest tile
// Rows of dense weights that share what they read, at two vectors each.
constexpr int64_t kRows = 8, kDense = 2;

// A weight that is not zero: its value, and where its input lies.
struct Tap {
  float value;
  int32_t offset;
};

struct Product {
  Layout in, out;
  bool dense, relu;
  const Tap* taps;          // sparse: of all rows
  const int32_t* starts;    // sparse: where those of a block and row begin
  int64_t blocks;           // sparse: of input channels, one after the other
  const float* values;      // dense: (rows / 8, taps, 8)
  const int32_t* offsets;   // dense: of the taps
  int64_t count;            // dense: taps of a row
  const float *input, *bias, *residual;  // residual: null for none
  float* output;
  // A depthwise 3x3 convolution before it, or null.
  const float *window, *window_bias;
  bool window_relu;
};

// Rows [first, last) at the positions [from, to) of an image.
struct Tile {
  int64_t image, first, last, from, to;
  const float* in;             // the input at `from`
  int64_t gaps;                // positions of gaps in the tile
  int32_t gap[kTile];
};

INLINE void FindGaps(const Layout& layout, Tile& tile) {
  tile.gaps = 0;
  const int64_t row = layout.row();
  for (int64_t y = tile.from / row; layout.gap && y * row < tile.to; ++y) {
    const int64_t begin = std::max(tile.from, y * row + layout.width);
    const int64_t end = std::min(tile.to, (y + 1) * row);
    for (int64_t p = begin; p < end; ++p) tile.gap[tile.gaps++] = p - tile.from;
  }
}

// Adds what is to be added, and writes one row of a tile, from `at` on. A last
// vector may go beyond the positions, where a plane has room for it.
template <int N>
INLINE void Store(const Product& p, const Tile& tile, int64_t o, int64_t at,
                  const Vector* sums) {
  const int64_t begin =
      p.out.at(tile.image, o) + p.out.begin() + tile.from + at;
  const float* residual = p.residual ? p.residual + begin : nullptr;
  const Vector bias = Vector{} + p.bias[o];
  // The lowest value that is left: without relu, all are.
  const Vector least = Vector{} + (p.relu ? 0.0f : -__builtin_inff());
  for (int v = 0; v < N; ++v) {
    Vector sum = sums[v] + bias;
    if (residual) sum += Load(residual + v * kLanes);
    sum = least > sum ? least : sum;  // keeps NaN
    Save(sum, p.output + begin + v * kLanes);
  }
}

// Zeros where a row of a tile has no values.
INLINE void StoreGaps(const Product& p, const Tile& tile, int64_t o) {
  float* plane = p.output + p.out.at(tile.image, o);
  float* out = plane + p.out.begin() + tile.from;
  for (int64_t i = 0; i < tile.gaps; ++i) out[tile.gap[i]] = 0.0f;
  if (tile.from == 0) Zero(plane, p.out.begin());
  if (tile.to == p.out.positions())
    Zero(plane + p.out.end(), p.out.plane() - p.out.end());
}

// Sums of N vectors of positions; partial sums hide the latency of additions.
template <int N>
INLINE void SparseRow(const Tap* tap, const Tap* end, const float* in,
                      Vector* sums) {
  constexpr int kParts = N >= 6 ? 1 : N >= 3 ? 2 : 4;
  Vector parts[kParts][N] = {};
  for (; tap + kParts <= end; tap += kParts)
    for (int part = 0; part < kParts; ++part) {
      const float* from = in + tap[part].offset;
      const float value = tap[part].value;
      for (int v = 0; v < N; ++v)
        parts[part][v] += value * Load(from + v * kLanes);
    }
  for (; tap < end; ++tap)
    for (int v = 0; v < N; ++v)
      parts[0][v] += tap->value * Load(in + tap->offset + v * kLanes);
  for (int v = 0; v < N; ++v) {
    sums[v] = parts[0][v];
    for (int part = 1; part < kParts; ++part) sums[v] += parts[part][v];
  }
}

// A block's input stays in the first cache while all rows are summed over it.
template <int N>
INLINE void SparseRows(const Product& p, const Tile& tile, float* kept) {
  for (int64_t block = 0; block < p.blocks; ++block) {
    const int32_t* starts = p.starts + block * p.out.channels;
    float* at = kept;
    for (int64_t o = tile.first; o < tile.last; ++o, at += N * kLanes) {
      Vector sums[N];
      SparseRow<N>(p.taps + starts[o], p.taps + starts[o + 1], tile.in, sums);
      if (block > 0)
        for (int v = 0; v < N; ++v) sums[v] += Load(at + v * kLanes);
      if (block + 1 < p.blocks) {
        for (int v = 0; v < N; ++v) Save(sums[v], at + v * kLanes);
        continue;
      }
      Store<N>(p, tile, o, 0, sums);
      StoreGaps(p, tile, o);
    }
  }
}

INLINE void DenseRows(const Product& p, const Tile& tile) {
  static_assert(kDense == 2, "what is left of a tile is one vector");
  const int64_t size = Round(tile.to - tile.from);
  for (int64_t o = tile.first; o < tile.last; o += kRows) {
    const int64_t rows = std::min(kRows, p.out.channels - o);
    for (int64_t at = 0; at < size; at += kDense * kLanes) {
      Vector sums[kRows][kDense] = {};
      const float* value = p.values + o * p.count;
      for (int64_t k = 0; k < p.count; ++k, value += kRows) {
        const float* from = tile.in + p.offsets[k] + at;
        for (int v = 0; v < kDense; ++v) {
          const Vector x = Load(from + v * kLanes);
          for (int r = 0; r < kRows; ++r) sums[r][v] += value[r] * x;
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        if (at + kDense * kLanes <= size)
          Store<kDense>(p, tile, o + r, at, sums[r]);
        else
          Store<1>(p, tile, o + r, at, sums[r]);
      }
    }
    for (int64_t r = 0; r < rows; ++r) StoreGaps(p, tile, o + r);
  }
}

// The depthwise convolution of a tile: a row of `size` values a channel.
template <int N>
INLINE void WindowRows(const Product& p, const Tile& tile, int64_t size,
                       float* rows) {
  const int64_t row = p.in.row();
  for (int64_t c = 0; c < p.in.channels; ++c, rows += size) {
    const float* in = p.input + p.in.at(tile.image, c) + p.in.begin() +
                      tile.from - row - 1;
    Vector sums[N];
    for (int v = 0; v < N; ++v) sums[v] = Vector{} + p.window_bias[c];
    for (int y = 0; y < 3; ++y)
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        const float value = p.window[9 * c + 3 * y + x];
        const float* from = in + y * row + x;
        for (int v = 0; v < N; ++v) sums[v] += value * Load(from + v * kLanes);
      }
    for (int v = 0; v < N; ++v)
      Save(p.window_relu ? Relu(sums[v]) : sums[v], rows + v * kLanes);
  }
}

// What a thread keeps of a tile.
struct Scratch {
  int64_t size;   // of a row of the depthwise convolution's
  Aligned rows;   // of it
  Aligned kept;   // sums over the blocks so far
};

template <int N>
INLINE void Compute(const Product& p, Tile& tile, Scratch& scratch) {
  tile.in = p.input + p.in.at(tile.image, 0) + p.in.begin() + tile.from;
  if (p.window) {
    float* rows = scratch.rows.Have(p.in.channels * scratch.size + kTile);
    WindowRows<N>(p, tile, scratch.size, rows);
    tile.in = rows;
  }
  FindGaps(p.out, tile);
  if (p.dense) return DenseRows(p, tile);
  const bool keeps = p.blocks > 1;
  SparseRows<N>(p, tile,
                keeps ? scratch.kept.Have(p.out.channels * kTile) : nullptr);
}

#define COMPUTE(N)                                                           \
  FOR_EACH_CPU inline void Compute##N(const Product& p, Tile& tile,          \
                                      Scratch& scratch) {                    \
    Compute<N>(p, tile, scratch);                                            \
  }
COMPUTE(1)
COMPUTE(2)
COMPUTE(3)
COMPUTE(4)
COMPUTE(5)
COMPUTE(6)
COMPUTE(7)
COMPUTE(8)
#undef COMPUTE

inline void ComputeTile(const Product& p, Tile& tile, Scratch& scratch) {
  constexpr decltype(&Compute1) kCompute[kMost] = {
      Compute1, Compute2, Compute3, Compute4,
      Compute5, Compute6, Compute7, Compute8};
  kCompute[(tile.to - tile.from - 1) / kLanes](p, tile, scratch);
}

constexpr int64_t kCached = 1 << 17;  // bytes of weights of a chunk

// Where chunks of rows begin, at least so many, each with its share of the
// weights, and few enough of them to stay in the cache over the images.
inline std::vector<int64_t> Chunks(const Product& p, int64_t least) {
  const int64_t rows = p.out.channels, unit = p.dense ? kRows : 1;
  const int64_t weights =
      p.dense ? rows * p.count : p.starts[p.blocks * rows];
  const int64_t bytes = weights * (p.dense ? sizeof(float) : sizeof(Tap));
  int64_t count = std::max(least, (bytes + kCached - 1) / kCached);
  if (p.window) count = 1;  // which would be computed again for each
  count = std::min(count, (rows + unit - 1) / unit);
  std::vector<int64_t> begins{0};
  for (int64_t i = 1; i < count; ++i) {
    int64_t row = rows * i / count;
    if (!p.dense && p.blocks == 1)
      row = std::lower_bound(p.starts, p.starts + rows,
                             static_cast<int32_t>(weights * i / count)) -
            p.starts;
    row = std::max((row + unit - 1) / unit * unit, begins.back() + unit);
    if (row >= rows) break;
    begins.push_back(row);
  }
  begins.push_back(rows);
  return begins;
}

inline void Run(ffi::ThreadPool& pool, const Product& p, int64_t images,
                int64_t vectors) {
  const int64_t threads = pool.num_threads(), positions = p.out.positions();
  const int64_t stride = vectors * kLanes;  // what the offsets count with
  auto tiles = [&] {
    return (positions + vectors * kLanes - 1) / (vectors * kLanes);
  };
  if (p.window)  // whose chunks are one: smaller tiles make up for it
    while (vectors > 1 && images * tiles() < threads) vectors /= 2;
  const int64_t each = images * tiles(), size = vectors * kLanes;
  const auto chunks =
      Chunks(p, threads <= 1 ? 1 : std::max<int64_t>(1, 4 * threads / each));
  const int64_t count = static_cast<int64_t>(chunks.size()) - 1;
  Parallel(pool, count * each, [&](int64_t task) {
    thread_local Scratch scratch;
    scratch.size = stride;
    const int64_t chunk = task / each, from = task % tiles() * size;
    Tile tile{task / tiles() % images, chunks[chunk], chunks[chunk + 1], from,
              std::min(positions, from + size), nullptr, 0, {}};
    ComputeTile(p, tile, scratch);
    if (chunk == 0 && from == 0) ZeroEnds(p.out, tile.image, p.output);
  });
}

// `weights` and `index`: taps and starts, or, dense, values and offsets.
inline ffi::Error ProductOf(ffi::ThreadPool pool, Floats x, Ints weights,
                            Ints index, Floats bias, Floats residual,
                            Floats window, Floats window_bias, Result y,
                            Numbers input, Numbers output, bool dense,
                            int64_t vectors, bool relu, bool window_relu) {
  const Layout in = LayoutOf(input), out = LayoutOf(output);
  const size_t added = residual.element_count();
  if (!Fits(in, x, out, y) || in.row() != out.row() || in.gap != out.gap ||
      in.height != out.height ||
      static_cast<int64_t>(bias.element_count()) != out.channels ||
      (added > 0 && added != y->element_count()))
    return Unfit();
  const auto pointer = [](const Floats& array) {
    return array.element_count() ? array.typed_data() : nullptr;
  };
  const int32_t *first = weights.typed_data(), *second = index.typed_data();
  const int64_t count = index.element_count();
  const Product p{in,
                  out,
                  dense,
                  relu,
                  reinterpret_cast<const Tap*>(first),
                  second,
                  dense ? 1 : (count - 1) / out.channels,
                  reinterpret_cast<const float*>(first),
                  second,
                  count,
                  x.typed_data(),
                  bias.typed_data(),
                  pointer(residual),
                  y->typed_data(),
                  pointer(window),
                  window_bias.typed_data(),
                  window_relu};
  Run(pool, p, x.dimensions()[0], std::clamp<int64_t>(vectors, 1, kMost));
  return ffi::Error::Success();
}

}  // namespace str_jax

#endif  // STR_JAX_PRODUCT_H_

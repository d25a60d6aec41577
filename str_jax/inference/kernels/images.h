// Images, whose channels lie side by side, to planes of channels and back.

#ifndef STR_JAX_IMAGES_H_
#define STR_JAX_IMAGES_H_

#include <utility>

#include "tensor.h"

namespace str_jax {

// `a` and `b` are rows of a matrix, S apart: exchanges what lies off the
// diagonal of its blocks of S x S.
template <int S, size_t... K>
INLINE void Exchange(Vector& a, Vector& b, std::index_sequence<K...>) {
#ifdef __clang__
  const Vector low = __builtin_shufflevector(
      a, b, (static_cast<int>(K) & S ? kLanes + K - S : K)...);
  const Vector high = __builtin_shufflevector(
      a, b, (static_cast<int>(K) & S ? kLanes + K : K + S)...);
#else
  typedef int32_t Which __attribute__((vector_size(64)));
  const Vector low = __builtin_shuffle(
      a, b, Which{(static_cast<int>(K) & S ? 16 + static_cast<int>(K) - S
                                           : static_cast<int>(K))...});
  const Vector high = __builtin_shuffle(
      a, b, Which{(static_cast<int>(K) & S ? 16 + static_cast<int>(K)
                                           : static_cast<int>(K) + S)...});
#endif
  a = low;
  b = high;
}

template <int S>
INLINE void ExchangeAll(Vector* rows) {
  for (int i = 0; i < kLanes; ++i)
    if (!(i & S))
      Exchange<S>(rows[i], rows[i | S], std::make_index_sequence<kLanes>());
}

// to[c][r] = from[r][c] of a matrix of at most 16 x 16.
INLINE void Transpose(const float* from, int64_t from_row, int64_t rows,
                      int64_t columns, float* to, int64_t to_row) {
  if (rows < kLanes || columns < kLanes) {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r)
        to[c * to_row + r] = from[r * from_row + c];
    return;
  }
  Vector block[kLanes];
  for (int r = 0; r < kLanes; ++r) block[r] = Load(from + r * from_row);
  ExchangeAll<1>(block);
  ExchangeAll<2>(block);
  ExchangeAll<4>(block);
  ExchangeAll<8>(block);
  for (int c = 0; c < kLanes; ++c) Save(block[c], to + c * to_row);
}

// A row of an image (width, channels) to the planes of 16 of its channels.
FOR_EACH_CPU inline void EnterRow(const float* pixels, int64_t width,
                                  int64_t channels, int64_t first,
                                  const Layout& out, float* row) {
  const int64_t count = std::min(kLanes, channels - first);
  for (int64_t x = 0; x < width; x += kLanes)
    Transpose(pixels + x * channels + first, channels,
              std::min(kLanes, width - x), count,
              row + first * out.plane() + x, out.plane());
  for (int64_t c = first; c < first + count; ++c)
    Zero(row + c * out.plane() + width, out.row() - width);
}

// The way back.
FOR_EACH_CPU inline void LeaveRow(const float* row, int64_t width,
                                  int64_t channels, int64_t first,
                                  const Layout& in, float* pixels) {
  const int64_t count = std::min(kLanes, channels - first);
  for (int64_t x = 0; x < width; x += kLanes)
    Transpose(row + first * in.plane() + x, in.plane(), count,
              std::min(kLanes, width - x), pixels + x * channels + first,
              channels);
}

// A row of an image to the planes of every second value of its channels.
inline void EnterPhases(const float* pixels, int64_t y, int64_t width,
                        int64_t channels, const Layout& out, float* planes) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t x = 0; x < 2; ++x) {
      const int64_t plane = c * 4 + y % 2 * 2 + x;
      float* to = planes + plane * out.plane() + out.begin() + y / 2 * out.row();
      const float* from = pixels + x * channels + c;
      const int64_t count = (width - x + 1) / 2;
      for (int64_t j = 0; j < count; ++j) to[j] = from[j * 2 * channels];
      Zero(to + count, out.row() - count);
    }
}

constexpr int64_t kImageParts = 8;  // of an image, for the threads

// The units of work that a part of an image is, from one up to another.
inline std::pair<int64_t, int64_t> UnitsOf(int64_t part, int64_t units) {
  return {units * part / kImageParts, units * (part + 1) / kImageParts};
}

inline int64_t BlocksOf(int64_t channels) {
  return (channels + kLanes - 1) / kLanes;
}

// Images (batch, height, width, channels) as a tensor, or as its phases.
inline ffi::Error EnterOf(ffi::ThreadPool pool, Floats x, Result y,
                          Numbers output, int64_t phases) {
  const Layout out = LayoutOf(output);
  const auto sizes = x.dimensions();
  if (sizes.size() != 4 || sizes[3] * phases != out.channels ||
      y->dimensions()[0] != sizes[0] || y->dimensions()[1] != out.image())
    return Unfit();
  const int64_t height = sizes[1], width = sizes[2], channels = sizes[3];
  const int64_t step = phases == 4 ? 2 : 1;
  if ((height + step - 1) / step != out.height ||
      (width + step - 1) / step != out.width)
    return Unfit();
  const int64_t blocks = phases == 4 ? 1 : BlocksOf(channels);
  Parallel(pool, sizes[0] * kImageParts, [&](int64_t task) {
    const int64_t image = task / kImageParts, part = task % kImageParts;
    float* planes = y->typed_data() + out.at(image, 0);
    const auto [from, to] = UnitsOf(part, out.height * step * blocks);
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t row = unit / blocks;
      const float* pixels =
          x.typed_data() + (image * height + row) * width * channels;
      if (phases == 4)
        EnterPhases(pixels, row, row < height ? width : 0, channels, out,
                    planes);
      else
        EnterRow(pixels, width, channels, unit % blocks * kLanes, out,
                 planes + out.begin() + row * out.row());
    }
    if (part > 0) return;
    for (int64_t plane = 0; plane < out.channels; ++plane)
      ZeroAround(out, planes + plane * out.plane());
    ZeroEnds(out, image, y->typed_data());
  });
  return ffi::Error::Success();
}

// A tensor as images (batch, height, width, channels).
inline ffi::Error LeaveOf(ffi::ThreadPool pool, Floats x, Result y,
                          Numbers input) {
  const Layout in = LayoutOf(input);
  const auto sizes = y->dimensions();
  if (sizes.size() != 4 || x.dimensions()[0] != sizes[0] ||
      x.dimensions()[1] != in.image() || sizes[1] != in.height ||
      sizes[2] != in.width || sizes[3] != in.channels)
    return Unfit();
  const int64_t blocks = BlocksOf(in.channels);
  Parallel(pool, sizes[0] * kImageParts, [&](int64_t task) {
    const int64_t image = task / kImageParts;
    const auto [from, to] = UnitsOf(task % kImageParts, in.height * blocks);
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t row = unit / blocks;
      LeaveRow(x.typed_data() + in.at(image, 0) + in.begin() + row * in.row(),
               in.width, in.channels, unit % blocks * kLanes, in,
               y->typed_data() +
                   (image * in.height + row) * in.width * in.channels);
    }
  });
  return ffi::Error::Success();
}

}  // namespace str_jax

#endif  // STR_JAX_IMAGES_H_

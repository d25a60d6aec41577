// What goes over one channel at a time: strides, depthwise kernels, pools.

#ifndef STR_JAX_WINDOW_H_
#define STR_JAX_WINDOW_H_

#include "tensor.h"

namespace str_jax {

// Every second value of `from`, from the first and from the second on.
INLINE void Split(const float* from, int64_t width, float* even, float* odd) {
  int64_t j = 0;
#if defined(__GNUC__) && !defined(__clang__)
  typedef int32_t Which __attribute__((vector_size(64)));
  const Which evens = {0,  2,  4,  6,  8,  10, 12, 14,
                       16, 18, 20, 22, 24, 26, 28, 30};
  for (; 2 * (j + kLanes) <= width; j += kLanes) {
    const Vector a = Load(from + 2 * j), b = Load(from + 2 * j + kLanes);
    Save(__builtin_shuffle(a, b, evens), even + j);
    Save(__builtin_shuffle(a, b, evens + 1), odd + j);
  }
#endif
  for (; 2 * j < width; ++j) {
    even[j] = from[2 * j];
    odd[j] = 2 * j + 1 < width ? from[2 * j + 1] : 0.0f;
  }
}

// The four planes of every second row and column of a plane, side by side:
// even rows' even columns first, then their odd ones, then those of odd rows.
INLINE void Phases(const Layout& in, const float* plane, const Layout& out,
                   float* to) {
  for (int64_t i = 0; i < 4; ++i) ZeroAround(out, to + i * out.plane());
  const float* values = plane + in.begin();
  for (int64_t y = 0; y < 2 * out.height; ++y) {
    float* even = to + y % 2 * 2 * out.plane() + out.begin() + y / 2 * out.row();
    float* odd = even + out.plane();
    if (y < in.height) {
      Split(values + y * in.row(), in.width, even, odd);
      Zero(even + out.width, out.gap);
      Zero(odd + out.width, out.gap);
    } else {  // below an odd height
      Zero(even, out.row());
      Zero(odd, out.row());
    }
  }
}

// Every second row and column of a plane.
INLINE void Second(const Layout& in, const float* plane, const Layout& out,
                   float* to) {
  ZeroAround(out, to);
  to += out.begin();
  for (int64_t y = 0; y < out.height; ++y, to += out.row()) {
    const float* from = plane + in.begin() + 2 * y * in.row();
    for (int64_t x = 0; x < out.width; ++x) to[x] = from[2 * x];
    Zero(to + out.width, out.gap);
  }
}

FOR_EACH_CPU inline void PhasesOver(const Layout& in, const float* plane,
                                    int64_t phases, const Layout& out,
                                    float* to) {
  if (phases == 4)
    Phases(in, plane, out, to);
  else
    Second(in, plane, out, to);
}

inline ffi::Error PhasesOf(ffi::ThreadPool pool, Floats x, Result y,
                           Numbers input, Numbers output, int64_t phases) {
  const Layout in = LayoutOf(input), out = LayoutOf(output);
  if (!Fits(in, x, out, y)) return Unfit();
  Parallel(pool, x.dimensions()[0] * in.channels, [&](int64_t task) {
    const int64_t image = task / in.channels, c = task % in.channels;
    PhasesOver(in, x.typed_data() + in.at(image, c), phases, out,
               y->typed_data() + out.at(image, c * phases));
    if (c == 0) ZeroEnds(out, image, y->typed_data());
  });
  return ffi::Error::Success();
}

// A 3x3 window over a plane, padded by 1.
struct Window {
  Layout in, out;
  int64_t stride;
  bool largest;  // of the nine, else their weighted sum
  bool relu;
  const float *weights, *bias;  // (channels, 9), (channels,)
};

template <bool kLargest>
INLINE Vector Over(const float* const* taps, const float* weights, float bias,
                   int64_t p) {
  Vector sum = kLargest ? Load(taps[0] + p) : Vector{} + bias;
  for (int k = 0; k < 9; ++k) {
    const Vector x = Load(taps[k] + p);
    if constexpr (kLargest)
      sum = (x > sum) | (x != x) ? x : sum;  // keeps NaN
    else
      sum += weights[k] * x;
  }
  return sum;
}

template <bool kLargest>
INLINE void WindowPlane(const Window& w, int64_t c, const float* plane,
                        float* to, Aligned& scratch) {
  const int64_t row = w.out.row(), size = w.out.plane();
  const float* taps[9];
  if (w.stride == 1) {
    for (int k = 0; k < 9; ++k)
      taps[k] = plane + w.in.begin() + (k / 3 - 1) * row + k % 3 - 1;
  } else {
    float* phases = scratch.Have(kLanes + 4 * size) + kLanes;
    Zero(phases - kLanes, kLanes);
    Phases(w.in, plane, w.out, phases);
    for (int k = 0; k < 9; ++k) {
      const int y = k / 3 - 1, x = k % 3 - 1;  // -1 is the odd phase before
      const int64_t which = (y & 1) * 2 + (x & 1);
      taps[k] = phases + which * size + w.out.begin() + (y < 0 ? -row : 0) +
                (x < 0 ? -1 : 0);
    }
  }
  const float* weights = kLargest ? nullptr : w.weights + 9 * c;
  const float bias = kLargest ? 0.0f : w.bias[c];
  const int64_t positions = w.out.positions();
  float* out = to + w.out.begin();
  for (int64_t p = 0; p < positions; p += kLanes) {
    const Vector sum = Over<kLargest>(taps, weights, bias, p);
    Save(w.relu ? Relu(sum) : sum, out + p);
  }
  ZeroAround(w.out, to);
  for (int64_t y = 0; y < w.out.height; ++y)
    Zero(out + y * row + w.out.width, w.out.gap);
}

FOR_EACH_CPU inline void WindowOver(const Window& w, int64_t c,
                                    const float* plane, float* to, Aligned& scratch) {
  if (w.largest)
    WindowPlane<true>(w, c, plane, to, scratch);
  else
    WindowPlane<false>(w, c, plane, to, scratch);
}

inline void OverChannels(ffi::ThreadPool& pool, const Window& w, int64_t images,
                         const float* x, float* y) {
  Parallel(pool, images * w.in.channels, [&](int64_t task) {
    thread_local Aligned scratch;
    const int64_t image = task / w.in.channels, c = task % w.in.channels;
    WindowOver(w, c, x + w.in.at(image, c), y + w.out.at(image, c), scratch);
    if (c == 0) ZeroEnds(w.out, image, y);
  });
}

inline ffi::Error DepthwiseOf(ffi::ThreadPool pool, Floats x, Floats weights,
                              Floats bias, Result y, Numbers input,
                              Numbers output, int64_t stride, bool relu) {
  const Layout in = LayoutOf(input), out = LayoutOf(output);
  if (!Fits(in, x, out, y) || (stride == 1 && in.row() != out.row()))
    return Unfit();
  const Window w{in,   out, stride, false,
                 relu, weights.typed_data(), bias.typed_data()};
  OverChannels(pool, w, x.dimensions()[0], x.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

// The largest of 3 x 3, every 2; what lies outside of the image counts as 0.
inline ffi::Error MaxPoolOf(ffi::ThreadPool pool, Floats x, Result y,
                            Numbers input, Numbers output) {
  const Layout in = LayoutOf(input), out = LayoutOf(output);
  if (!Fits(in, x, out, y)) return Unfit();
  const Window w{in, out, 2, true, false, nullptr, nullptr};
  OverChannels(pool, w, x.dimensions()[0], x.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

FOR_EACH_CPU inline float SumOf(const float* values, int64_t count) {
  Vector sum = {};
  int64_t p = 0;
  for (; p + kLanes <= count; p += kLanes) sum += Load(values + p);
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  for (; p < count; ++p) total += values[p];
  return total;
}

// The mean of every channel; the images become the positions of one image.
inline ffi::Error MeanOf(Floats x, Result y, Numbers input, Numbers output) {
  const Layout in = LayoutOf(input), out = LayoutOf(output);
  const int64_t images = x.dimensions()[0];
  if (static_cast<int64_t>(y->element_count()) != out.image() ||
      out.width != images || in.channels != out.channels)
    return Unfit();
  const float area = static_cast<float>(in.height * in.width);
  for (int64_t c = 0; c < in.channels; ++c)
    for (int64_t image = 0; image < images; ++image) {
      const float* values = x.typed_data() + in.at(image, c) + in.begin();
      y->typed_data()[out.at(0, c) + image] =
          SumOf(values, in.positions()) / area;
    }
  ZeroEnds(out, 0, y->typed_data());
  return ffi::Error::Success();
}

}  // namespace str_jax

#endif  // STR_JAX_WINDOW_H_

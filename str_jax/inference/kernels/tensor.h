// Tensors as planes of channels, and work over threads.
//
// A tensor is, for every image, 16 zeros and one plane a channel: `gap` rows of
// zeros and more, then `height` rows of `width` values and `gap` zeros each, and
// zeros again, so that the values of every plane begin at a multiple of 16;
// after the last plane come `slack` zeros. So the neighbour of a value lies at
// the same distance everywhere, and outside of the image it is a zero.

#ifndef STR_JAX_TENSOR_H_
#define STR_JAX_TENSOR_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "workers.h"
#include "xla/ffi/api/ffi.h"

#if !defined(STR_JAX_ONE_CPU) && defined(__x86_64__) && \
    defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
// Machine code for several kinds of CPU; the loader takes the best.
#define FOR_EACH_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE inline __attribute__((always_inline))

namespace str_jax {

namespace ffi = xla::ffi;
using std::int32_t;
using std::int64_t;

constexpr int64_t kLanes = 16;
// Where registers are smaller than 64 bytes, the compiler takes several.
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

INLINE Vector Load(const float* from) { return *(const Vector*)from; }
INLINE void Save(Vector value, float* to) { *(Vector*)to = value; }
INLINE Vector Relu(Vector x) { return 0.0f > x ? Vector{} : x; }  // keeps NaN

constexpr int64_t Round(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

struct Layout {
  int64_t channels, height, width, gap, slack;
  int64_t row() const { return width + gap; }
  int64_t begin() const { return Round(gap * row()); }  // of a plane's values
  int64_t positions() const { return height * row(); }
  int64_t end() const { return begin() + positions(); }
  int64_t plane() const { return begin() + Round(positions()); }
  int64_t image() const { return kLanes + channels * plane() + slack; }
  int64_t at(int64_t image_index, int64_t channel) const {
    return image_index * image() + kLanes + channel * plane();
  }
};

using Floats = ffi::Buffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;
using Result = ffi::Result<Floats>;
using Numbers = ffi::Span<const int64_t>;

inline Layout LayoutOf(Numbers numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
}

// Whether arrays are tensors of these layouts, of equally many images.
inline bool Fits(const Layout& in, const Floats& x, const Layout& out,
                 Result& y) {
  const auto from = x.dimensions(), to = y->dimensions();
  return from.size() == 2 && to.size() == 2 && from[1] == in.image() &&
         to[1] == out.image() && from[0] == to[0];
}

inline ffi::Error Unfit() {
  return ffi::Error::InvalidArgument("the layouts do not fit the arrays");
}

INLINE void Zero(float* begin, int64_t count) {
  std::memset(begin, 0, count * sizeof(float));
}

// Zeros of a plane before its values and after them.
INLINE void ZeroAround(const Layout& layout, float* plane) {
  Zero(plane, layout.begin());
  Zero(plane + layout.end(), layout.plane() - layout.end());
}

// Zeros before the first plane of an image and after the last.
INLINE void ZeroEnds(const Layout& layout, int64_t image, float* tensor) {
  float* begin = tensor + image * layout.image();
  Zero(begin, kLanes);
  Zero(begin + layout.image() - layout.slack, layout.slack);
}

// Memory that begins at a multiple of 64 bytes, and stays for the next use.
class Aligned {
 public:
  float* Have(int64_t count) {
    if (static_cast<int64_t>(memory_.size()) < count + kLanes)
      memory_.resize(count + kLanes);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (-address % 64) / sizeof(float);
  }

 private:
  std::vector<float> memory_;
};

// Runs work(0) to work(count - 1) on as many threads as XLA has.
template <typename Work>
void Parallel(ffi::ThreadPool& pool, int64_t count, const Work& work) {
  const int64_t threads = std::min<int64_t>(pool.num_threads(), count);
  Workers::All().Run(threads, count, work);
}

}  // namespace str_jax

#endif  // STR_JAX_TENSOR_H_

// One step of an inner product on 32-bit words, of one fp32 number in each lane.
#pragma once

#include "vec.h"

namespace convnext {
namespace {

// The words are passed in vectors of fp32 whatever they hold.
struct DotFp32 {
  using Element = float;
  static constexpr int group = 1;

  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    return sum + a * b;
  }

  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> read(const float* from) {
    return load<Lanes>(from);
  }

  template <int Lanes>
  static CONVNEXT_INLINE void write(float* to, const Vec<Lanes>& v) {
    store<Lanes>(to, v);
  }
};

}  // namespace
}  // namespace convnext

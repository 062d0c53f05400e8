// One step of an inner product on 32-bit words, of two numbers in bf16 in each lane.
#pragma once

#include "bf16.h"

namespace convnext {
namespace {

// Products of bf16 are exact in fp32; the sums are fp32.
struct DotBf16 {
  using Element = Bf16;
  static constexpr int group = 2;

  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> read(const Bf16* from) {
    return load<Lanes>(from);
  }

  template <int Lanes>
  static CONVNEXT_INLINE void write(Bf16* to, const Vec<Lanes>& v) {
    store<Lanes>(to, v);
  }

#if defined(CONVNEXT_EMULATE)
  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    using Words = typename VecTypes<Lanes>::Words;
    const Words low_a = (Words)a << 16, low_b = (Words)b << 16;
    const Words high_a = (Words)a & 0xffff0000u, high_b = (Words)b & 0xffff0000u;
    const Vec<Lanes> high = sum + (Vec<Lanes>)high_a * (Vec<Lanes>)high_b;
    return high + (Vec<Lanes>)low_a * (Vec<Lanes>)low_b;
  }

#else
  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    static_assert(Lanes == 16, "vdpbf16ps here takes whole AVX-512 registers");
    return (Vec<Lanes>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
#endif
};

}  // namespace
}  // namespace convnext

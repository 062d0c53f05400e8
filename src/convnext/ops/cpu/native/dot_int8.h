// One step of an inner product on 32-bit words, of four integers of 8 bits in each lane: those of the
// operand without sign, those of the weights with sign. Sums are integers of 32 bits, and exact.
//
// Everything passes in vectors of fp32, whatever the words hold.
#pragma once

#include "bytes.h"

namespace convnext {
namespace {

struct DotInt8 {
  using Element = uint8_t;
  static constexpr int group = 4;

  // The low byte of each word.
  template <int Lanes>
  static CONVNEXT_INLINE void write(uint8_t* to, const Vec<Lanes>& words) {
    store_bytes<Lanes>(to, words);
  }

#if defined(CONVNEXT_EMULATE)
  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    using Ints = typename VecTypes<Lanes>::Ints;
    using Words = typename VecTypes<Lanes>::Words;
    Ints total = (Ints)sum;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const Ints left = (Ints)(((Words)a >> (8 * i)) & 0xffu);
      const Ints right = (Ints)((Words)b << (24 - 8 * i)) >> 24;
      total += left * right;
    }
    return (Vec<Lanes>)total;
  }
#else
  // As assembly: of the intrinsic's vectors of integers GCC makes copies, and then spills the sums.
  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    Vec<Lanes> total = sum;
    if constexpr (Lanes == 16) {
      __asm__("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(a), "v"(b));
    } else {
      __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(total) : "x"(a), "x"(b));
    }
    return total;
  }
#endif
};

}  // namespace
}  // namespace convnext

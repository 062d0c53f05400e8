// One step of an inner product on 32-bit words, of four integers of 8 bits in each lane: those of the
// operand without sign, those of the weights with sign. Sums are integers of 32 bits, and exact.
//
// Everything passes in vectors of fp32, whatever the words hold.
#pragma once

#include "bytes.h"

#if !defined(CONVNEXT_EMULATE)
#include <immintrin.h>
#endif

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
  template <int Lanes>
  static CONVNEXT_INLINE Vec<Lanes> step(const Vec<Lanes>& sum, const Vec<Lanes>& a,
                                         const Vec<Lanes>& b) {
    if constexpr (Lanes == 16) {
      return (Vec<Lanes>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
    } else {
      return (Vec<Lanes>)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
    }
  }
#endif
};

}  // namespace
}  // namespace convnext

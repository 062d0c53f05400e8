// Vectors of bf16 in memory, of fp32 in registers.
#pragma once

#include "vec.h"

#if !defined(CONVNEXT_EMULATE)
#include <immintrin.h>
#endif

namespace convnext {
namespace {

#if defined(CONVNEXT_EMULATE)

template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load(const Bf16* from) {
  typename VecTypes<Lanes>::Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  typename VecTypes<Lanes>::Words words =
      __builtin_convertvector(halves, typename VecTypes<Lanes>::Words) << 16;
  return (Vec<Lanes>)words;
}

// Rounded to nearest, ties to even. NaN stays NaN: the rounding must not carry into its exponent.
template <int Lanes>
CONVNEXT_INLINE void store(Bf16* to, const Vec<Lanes>& v) {
  using Types = VecTypes<Lanes>;
  typename Types::Words words = (typename Types::Words)v;
  typename Types::Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  typename Types::Words quiet = (words >> 16) | 0x40;
  typename Types::Words chosen = v == v ? rounded : quiet;
  typename Types::Halves halves = __builtin_convertvector(chosen, typename Types::Halves);
  __builtin_memcpy(to, &halves, sizeof halves);
}

#else

// GCC would make four and more instructions of what stands above.
template <int Lanes>
CONVNEXT_INLINE Vec<Lanes> load(const Bf16* from) {
  static_assert(Lanes == 16, "whole AVX-512 registers");
  typename VecTypes<Lanes>::Ints place;  // of the half that comes to the upper half of each lane
  for (int i = 0; i < Lanes; i++) place[i] = i << 16;
  __m256i halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return (Vec<Lanes>)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)place,
                                                    _mm512_castsi256_si512(halves));
}

// Numbers near zero that are denormal become zero.
template <int Lanes>
CONVNEXT_INLINE void store(Bf16* to, const Vec<Lanes>& v) {
  static_assert(Lanes == 16, "whole AVX-512 registers");
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(to, &halves, sizeof halves);
}

#endif

}  // namespace
}  // namespace convnext

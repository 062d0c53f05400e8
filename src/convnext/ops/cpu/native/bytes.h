// The low bytes of 8 or 16 words, side by side.
#pragma once

#include "vec.h"

#include <immintrin.h>

namespace convnext {
namespace {

// A few instructions, which GCC does not find by itself: it takes the lanes apart.
template <int Lanes>
CONVNEXT_INLINE void store_bytes(uint8_t* to, const Vec<Lanes>& words) {
  if constexpr (Lanes == 8) {
    const __m256i low = (__m256i)((VecTypes<8>::Words)words & 0xffu);
    const __m128i halves =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    const __m128i bytes = _mm_packus_epi16(halves, halves);
    __builtin_memcpy(to, &bytes, 8);
  } else {
#if defined(CONVNEXT_EMULATE)
    for (int i = 0; i < Lanes; i++) to[i] = (uint8_t)((typename VecTypes<Lanes>::Words)words)[i];
#else
    // Without a mask GCC's header takes an undefined operand, and then warns of it.
    const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)words);
    __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
  }
}

}  // namespace
}  // namespace convnext

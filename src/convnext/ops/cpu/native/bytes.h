// The low bytes of 16 words, side by side.
#pragma once

#include "vec.h"

#if !defined(CONVNEXT_EMULATE)
#include <immintrin.h>
#endif

namespace convnext {
namespace {

// One instruction, which GCC does not find by itself: it takes the lanes apart.
CONVNEXT_INLINE void store_bytes(uint8_t* to, const Vec<16>& words) {
#if defined(CONVNEXT_EMULATE)
  for (int i = 0; i < 16; i++) to[i] = (uint8_t)((VecTypes<16>::Words)words)[i];
#else
  // Without a mask GCC's header takes an undefined operand, and then warns of it.
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)words);
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

}  // namespace
}  // namespace convnext
